/**
 * Every instruction set, compared with the reference in a separate process.
 *
 * @long @asan
 */
import { spawnSync } from 'node:child_process'
import { describe, expect, test } from 'vitest'
import { packageRoot } from '../../../lib/binding/root.js'
import { dtype } from '../../../lib/binding/slots.js'
import { argumentsOf } from '../../binding/encoding.js'
import { makeCall } from '../../binding/fixed-calls.js'
import { isLong, isSanitized } from '../../support/backend.js'
import { runInChild } from '../../support/child.js'
import { roundAll, unpack } from '../../support/dtypes.js'
import {
  afterNaN,
  emptyGroupJobs,
  expectNaNOfKeptGroups,
  expectNoGradientOfEmptyGroups,
} from '../../support/empty-groups.js'
import {
  cutRankJobs,
  expectMatches,
  expectSameResults,
  fewJobs,
  jobs,
  largeRankJobs,
  tf32Jobs,
  unevenJobs,
} from '../../support/instruction-sets.js'
import { olderProcessor } from '../../support/processors.js'
import { integer, randomFrom } from '../../support/random.js'
import { roundInTiles } from '../../support/rounding.js'

const NAMES = [
  'portable',
  ...(process.arch === 'arm64' ? ['neon'] : ['avx2', 'avx512', 'avx512bf16', 'amx']),
  // The project `amx` runs the model in all numerical tests, but not with a sanitizer.
  ...(isSanitized || isLong ? ['amx-model'] : []),
]

/** With a sanitizer, every problem in at least one of its forms. */
const some = isSanitized ? jobs.filter((_, i) => i % 3 === 0) : jobs

/** Numbers of float32 with random bits, ties between those of 16 bits, and their neighbours; no subnormal numbers. */
function roundedNumbers(): Float32Array {
  const random = randomFrom(1)
  const bits = Uint32Array.from({ length: 4096 }, () => integer(random, 0, 2 ** 32 - 1))
  // float16 ends at 65504, and its numbers below 2^-14 are multiples of 2^-24.
  const ends = [65504, 65519, 65520, 65536, 2 ** -14, 2 ** -24, 2 ** -25, 3 * 2 ** -25, 2 ** -26, 0, Infinity]
  const near = new Uint32Array(Float32Array.from(ends).buffer)
  const edges = [...near, ...bits.subarray(0, 1024)].flatMap((number) =>
    [0x1000, 0x8000].flatMap((half) => {
      const tie = (number - (number % (2 * half)) + half) >>> 0
      return [tie - 1, tie, tie + 1, number]
    }),
  )
  const NaNs = [0x7fc00000, 0x7fffffff, 0xffffffff, 0x7f800001, 0x7f807fff]
  const all = new Float32Array(Uint32Array.from([...NaNs, ...bits, ...edges]).buffer)
  return all.filter((value) => value === 0 || !(Math.abs(value) < 2 ** -126))
}

const wronglyRounded = (numbers: Float32Array, found: Float32Array, expected: Float32Array) =>
  Array.from(expected, (value, i) => [numbers[i], found[i], value]).filter(
    ([, actual, value]) => actual !== value && !(Number.isNaN(actual) && Number.isNaN(value)),
  )

/** A fold of one array of float32 into an array of 16-bit numbers converts it. Undefined without the instruction set. */
function foldInChild(isa: string, numbers: Float32Array, type: 'bfloat16' | 'float16'): Float32Array | undefined {
  const sizes = { dOut: numbers.length, rank: 1, experts: 1, partials: 1 }
  const call = makeCall('fold', sizes, ['weights'])
  call.slots.db.dtype = dtype[type]
  const [descriptor] = argumentsOf(call)
  // As bits, because those of a NaN are of interest.
  const program = `
    const native = require('node-gyp-build')(${JSON.stringify(packageRoot)})
    if (native.backends()[0].available) {
      const bits = Uint32Array.of(${new Uint32Array(numbers.buffer).join()})
      const db = new Uint16Array(bits.length)
      native.run(Float64Array.of(${descriptor.join()}), db, new Float32Array(bits.buffer), null)
      console.log(JSON.stringify([...db]))
    }`
  const { stdout, stderr } = spawnSync(process.execPath, ['-'], {
    cwd: packageRoot,
    env: { ...process.env, LILY_CPU_ISA: isa },
    input: program,
    encoding: 'utf8',
  })
  expect(stderr).toBe('')
  return stdout === '' ? undefined : unpack(type, Uint16Array.from(JSON.parse(stdout) as number[]))
}

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
      for (const blocks of ['0', '1']) {
        const env = { LILY_CPU_ISA: isa, LILY_CPU_BLOCKS: blocks }
        const { backend, results } = await runInChild(afterNaN(emptyGroupJobs), env)
        if (!backend.available) return context.skip(backend.reason)
        const [withNaN, empty] = [0, 1].map((odd) => results.filter((_, i) => i % 2 === odd))
        expectNaNOfKeptGroups(emptyGroupJobs, withNaN)
        expectNoGradientOfEmptyGroups(emptyGroupJobs, empty)
      }
    })

    test.for(['bfloat16', 'float16'] as const)('rounds to the nearest number of %s', (type, context) => {
      const numbers = roundedNumbers()
      const found = foldInChild(isa, numbers, type)
      if (found === undefined) return context.skip(`this processor does not support ${isa}`)
      const expected = roundAll(type, numbers)
      expect(wronglyRounded(numbers, found, expected)).toEqual([])
    })

    test.for(['bfloat16', 'float16'] as const)(
      'rounds rows of y to the nearest number of %s',
      async (type, context) => {
        const numbers = roundedNumbers()
        const rows = await roundInTiles(numbers, type, isa)
        if (rows.length === 0) return context.skip(`this processor does not support ${isa}`)
        const expected = roundAll(type, numbers)
        for (const row of rows) expect(wronglyRounded(numbers, unpack(type, row), expected)).toEqual([])
      },
    )
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
  ['LILY_CPU_ISA', 'x'.repeat(150), `=${'x'.repeat(40)}... is not one of `],
  ['LILY_CPU_ISA', 'x'.repeat(150), '; unset LILY_CPU_ISA or set it to one of them'],
  ['LILY_CPU_BLOCKS', 'x', 'LILY_CPU_BLOCKS must be 0 or 1'],
  ['LILY_CPU_BLOCKS', '01', 'LILY_CPU_BLOCKS must be 0 or 1'],
])('%s=%s is rejected with the reason', async (name, value, reason) => {
  const { backend, refused } = await runInChild(jobs.slice(0, 1), { [name]: value })
  expect(backend.available).toBe(false)
  expect(backend.reason).toContain(reason)
  expect(refused?.code).toBe('ERR_LILY_BACKEND_UNAVAILABLE')
  expect(refused?.message).toContain(reason)
})
