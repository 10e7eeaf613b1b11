/** A job whose MPI belongs to a worker, and ends that are neither an error nor a plain exit: the job is aborted. */
import { describe, expect, test } from 'vitest'
import { answersOf, libraries, runJob, skipWithout } from '../support/mpi.js'
import type { Answer, Input } from './programs/ends.js'

const ranks = 2

describe.for(libraries)('with $name', ({ library }) => {
  test.concurrent('a worker is a rank', async ({ skip }) => {
    skipWithout(skip, library)
    const answers = await answersOf<Answer>('ends', { library, ranks, input: { end: 'finalize' } satisfies Input })
    expect(answers).toEqual([
      [0, 1],
      [0, 1],
    ])
  })

  test.concurrent.for([
    'terminate the worker',
    'exit while the worker runs',
    'exit in a listener',
    'exit after an error that was handled',
  ] as const)('%s', async (end, { skip }) => {
    skipWithout(skip, library)
    const { code, stderr, left } = await runJob('ends', { library, ranks, input: { end } satisfies Input })
    expect([null, 0], stderr).not.toContain(code)
    expect(stderr).toMatch(/rank 0 of 2 .* without finalize\(\)/)
    expect(left).toEqual([])
  })
})
