/** Every instruction set, compared with the reference in a separate process. */
import { describe, expect, test } from 'vitest'
import { isLong, isSanitized } from './support/backend.js'
import { runInChild } from './support/child.js'
import { emptyGroupJobs, expectNoGradientOfEmptyGroups } from './support/empty-groups.js'
import {
  cutRankJobs,
  expectMatches,
  expectSameResults,
  fewJobs,
  jobs,
  largeRankJobs,
  tf32Jobs,
  unevenJobs,
} from './support/instruction-sets.js'
import { olderProcessor } from './support/processors.js'

const NAMES = [
  'portable',
  ...(process.arch === 'arm64' ? ['neon'] : ['avx2', 'avx512', 'avx512bf16', 'amx']),
  // The project `cpu amx` runs the model in all numerical tests, but not with a sanitizer.
  ...(isSanitized || isLong ? ['amx-model'] : []),
]

/** With a sanitizer, every problem in at least one of its forms. */
const some = isSanitized ? jobs.filter((_, i) => i % 3 === 0) : jobs

for (const isa of NAMES)
  describe(isa, () => {
    test('matches the reference', { timeout: 120_000 }, async (context) => {
      const report = await runInChild(some, { LILY_CPU_ISA: isa })
      const { available, reason } = report.backend
      if (!available) {
        expect(isa, 'the portable kernels run everywhere').not.toBe('portable')
        expect(reason).toContain(`LILY_CPU_ISA=${isa}`)
        console.log(`LILY_CPU_ISA=${isa} is skipped: ${reason ?? ''}`)
        context.skip(reason)
      }
      expectMatches(some, report, isa)
      expectMatches(unevenJobs, await runInChild(unevenJobs, { LILY_CPU_ISA: isa, LILY_NUM_THREADS: '1' }), isa)
    })

    test(
      'ranks above 64 match the reference, with the same bits on any number of threads',
      { timeout: 300_000 },
      async (context) => {
        const on = (threads: number) =>
          runInChild(largeRankJobs, { LILY_CPU_ISA: isa, LILY_NUM_THREADS: String(threads), LILY_CPU_BLOCKS: '1' })
        const most = await on(3)
        if (!most.backend.available) return context.skip(most.backend.reason)
        expectMatches(largeRankJobs, most, isa)
        // A sanitizer sees the accesses of all threads; `npm test` compares the bits.
        for (const threads of isSanitized ? [] : isLong ? [1, 2, 4] : [1]) {
          expectSameResults((await on(threads)).results, most.results, `on ${threads} threads`)
        }
      },
    )

    test('ranks that the dy pass cuts into tiles match the reference', { timeout: 120_000 }, async (context) => {
      const on = (threads: number) =>
        runInChild(cutRankJobs, { LILY_CPU_ISA: isa, LILY_NUM_THREADS: String(threads), LILY_CPU_BLOCKS: '0' })
      const tiles = await on(2)
      if (!tiles.backend.available) return context.skip(tiles.backend.reason)
      expectMatches(cutRankJobs, tiles, isa)
      // Two threads share the tiles; three cannot share them evenly, and take splits of the columns instead.
      if (!isSanitized) expectSameResults((await on(3)).results, tiles.results, 'on 3 threads')
    })

    test("precision 'tf32' has an effect on the model of AMX only", async (context) => {
      const { backend, results } = await runInChild([...tf32Jobs('default'), ...tf32Jobs('tf32')], {
        LILY_CPU_ISA: isa,
      })
      if (!backend.available) return context.skip(backend.reason)
      const [full, tf32] = [results.slice(0, results.length / 2), results.slice(results.length / 2)]
      if (isa === 'amx-model')
        expect(tf32.map(({ values }) => values.y)).not.toEqual(full.map(({ values }) => values.y))
      else expectSameResults(tf32, full, 'of tf32')
    })

    test('no gradient of a group without a kept token', async (context) => {
      const { backend, results } = await runInChild(emptyGroupJobs, { LILY_CPU_ISA: isa })
      if (!backend.available) return context.skip(backend.reason)
      expectNoGradientOfEmptyGroups(emptyGroupJobs, results)
    })
  })

// An unsupported instruction terminates the process.
describe('an older processor uses the widest set that it supports', () => {
  for (const [name, simd] of [
    ['Nehalem', 'portable'],
    ['Haswell', 'avx2'],
  ] as const)
    test(`${name}: ${simd}`, { timeout: 300_000 }, async (context) => {
      const processor = olderProcessor(name)
      if (typeof processor === 'string') return context.skip(processor)
      // An emulated processor takes seconds per problem.
      const few = fewJobs.filter((_, i) => isLong || i % 2 === 0)
      expectMatches(few, await runInChild(few, { LILY_CPU_ISA: '' }, processor), simd)
    })
})

test.each([
  ['LILY_CPU_ISA', 'sse9', 'LILY_CPU_ISA=sse9 is not one of'],
  ['LILY_CPU_BLOCKS', 'x', 'LILY_CPU_BLOCKS must be 0 or 1'],
  ['LILY_CPU_BLOCKS', '01', 'LILY_CPU_BLOCKS must be 0 or 1'],
])('%s=%s is rejected with the reason', async (name, value, reason) => {
  const { backend, refused } = await runInChild(jobs.slice(0, 1), { [name]: value })
  expect(backend.available).toBe(false)
  expect(backend.reason).toContain(reason)
  expect(refused?.code).toBe('ERR_LILY_BACKEND_UNAVAILABLE')
  expect(refused?.message).toContain(reason)
})
