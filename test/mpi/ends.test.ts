/** A job whose MPI belongs to a worker, and ends that are neither an error nor a plain exit: the job is aborted. */
import { expect, test } from 'vitest'
import { answersOf, libraries, runJob, skipWithout } from '../support/mpi.js'
import type { Answer, Input } from './programs/ends.js'

/** Longer than the start of ranks on a machine with other work. */
const timeout = 8000
const WITHOUT = /^lily-kernels: rank 0 of 2 .* without finalize\(\)/

/** What the one line of the package says. */
const LINES: readonly (Input & { readonly ranks: number; readonly line: RegExp })[] = [
  {
    end: 'let rank 0 wait for all',
    ranks: 3,
    timeout,
    line: /rank 0 of 3 waited 8 s in barrier\(\) for ranks 1 and 2, which did not come/,
  },
  { end: 'terminate the worker', ranks: 2, line: WITHOUT },
  { end: 'exit while the worker runs', ranks: 2, line: WITHOUT },
  { end: 'exit in a listener', ranks: 2, line: WITHOUT },
  { end: 'exit after an error that was handled', ranks: 2, line: WITHOUT },
]

// At the same time: each waits for most of its time.
test.concurrent.for(libraries.flatMap(({ library, name }) => LINES.map((each) => ({ library, name, ...each }))))(
  '$end: $name',
  async ({ library, ranks, end, timeout, line }, { skip }) => {
    skipWithout(skip, library)
    const input: Input = { end, timeout }
    const { code, stderr, left } = await runJob('ends', { library, ranks, input })
    expect([null, 0], stderr).not.toContain(code)
    expect(stderr.match(/^lily-kernels:.*$/gm)).toEqual([expect.stringMatching(line)])
    expect(left).toEqual([])
  },
)

test.concurrent.for(libraries)('a worker is a rank: $name', async ({ library }, { skip }) => {
  skipWithout(skip, library)
  const input: Input = { end: 'finalize' }
  const ranks = [0, 1]
  expect(await answersOf<Answer>('ends', { library, ranks: 2, input })).toEqual([ranks, ranks])
})
