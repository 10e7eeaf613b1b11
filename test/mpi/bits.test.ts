/** The bits of averaged gradients: those of a sum in float32 in the order of ranks, with both libraries. */
import { describe, test } from 'vitest'
import { answersOf, libraries, missingLibrary } from '../support/mpi.js'
import { CALLS, weightOf } from '../support/mpi-arrays.js'
import { expectAverage } from '../support/mpi-average.js'
import type { Answer, Input } from './programs/bits.js'

describe.for(libraries)('with $name', ({ library }) => {
  test.for([1, 2, 3, 4])('%i ranks add in the order of ranks', async (ranks, { skip }) => {
    const missing = missingLibrary(library.name)
    skip(missing !== undefined, missing)
    // A single rank without a token has nothing to average; operations.test.ts has that.
    const calls = CALLS.filter((call) => ranks > 1 || weightOf(call, 0) !== 0)
    const input: Input = { calls: calls.map(({ name }) => name) }
    const answers = await answersOf<Answer>('bits', { library, ranks, input })
    for (const call of calls) {
      for (const [rank, answer] of answers.entries()) expectAverage(call, ranks, answer.get(call.name)!, rank)
    }
  })
})
