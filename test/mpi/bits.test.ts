/** The bits of averaged gradients: those of a sum in float32 in the order of ranks, with both libraries. */
import { describe, test } from 'vitest'
import { answersOf, libraries, skipWithout } from '../support/mpi.js'
import { CALLS, weightOf } from '../support/mpi-arrays.js'
import { type Averages, expectAverages } from '../support/mpi-average.js'
import type { Input } from './programs/bits.js'

describe.for(libraries)('with $name', ({ library }) => {
  test.for([1, 2, 4])('%i ranks add in the order of ranks', async (ranks, { skip }) => {
    skipWithout(skip, library)
    // A single rank without a token has nothing to average; operations.test.ts has that.
    const named = CALLS.filter((call) => ranks > 1 || weightOf(call, 0) !== 0)
    const input: Input = { calls: named.map(({ name }) => name) }
    expectAverages(input.calls, await answersOf<Averages>('bits', { library, ranks, input }))
  })
})
