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
import { isSanitized } from '../../support/backend.js'
import { type Job, runInChild } from '../../support/child.js'
import { roundAll, unpack } from '../../support/dtypes.js'
import { wrongRowsOn } from '../../support/few-tokens.js'
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
  jobs,
  largeRankJobs,
  unevenJobs,
} from '../../support/instruction-sets.js'
import { integer, randomFrom } from '../../support/random.js'
import { roundInTiles } from '../../support/rounding.js'
import { everyNth, isLong } from '../../support/runs.js'
import { ENDS, requireSet, SETS, WIDEST } from './sets.js'

// The project `amx` runs the model in all numerical tests, but not with a sanitizer.
const NAMES = [...SETS, ...(isSanitized || isLong ? ['amx-model'] : [])]

/** With a sanitizer, every problem in one of its forms. One of the sets avx512 and avx512bf16 differs from the other in bfloat16 only. */
function jobsOn(isa: string): Job[] {
  if (isSanitized) return everyNth(5, jobs)
  const isSecond = isa.startsWith('avx512') && isa !== WIDEST
  return isSecond ? jobs.filter(({ spec }) => spec.activations === 'bfloat16') : jobs
}

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
      const some = jobsOn(isa)
      const report = await runInChild(some, { LILY_CPU_ISA: isa })
      requireSet(isa, report.backend, context)
      expectMatches(some, report, isa)
    })

    test('rows of few tokens have the bits of a larger batch', async (context) => {
      const wrong = await wrongRowsOn(isa)
      if (wrong === undefined) return context.skip(`this processor does not support ${isa}`)
      expect(wrong).toEqual([])
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

describe.each(ENDS)('%s', (isa) => {
  const on = (threads: number, blocks: string, some: Job[]) =>
    runInChild(some, { LILY_CPU_ISA: isa, LILY_NUM_THREADS: String(threads), LILY_CPU_BLOCKS: blocks })
  /** With a sanitizer half of them, without their bits on other numbers of threads: it sees the accesses of all threads. */
  const part = (all: Job[]) => (isSanitized ? everyNth(2, all) : all)

  test('ranks above 64 match the reference, with the same bits on any number of threads', async () => {
    const some = part(largeRankJobs)
    const most = await on(3, '1', some)
    expectMatches(some, most, isa)
    if (!isSanitized) expectSameResults((await on(1, '1', some)).results, most.results, 'on one thread')
  })

  test('ranks that the dy pass cuts into tiles match the reference', async () => {
    const some = part(cutRankJobs)
    const tiles = await on(2, '0', some)
    expectMatches(some, tiles, isa)
    // Two threads share the tiles; three cannot share them evenly, and take splits of the columns instead.
    if (!isSanitized) expectSameResults((await on(3, '0', some)).results, tiles.results, 'on 3 threads')
  })

  // A sanitizer has nothing to see in numbers.
  test.each(isSanitized ? ['1'] : ['0', '1'])(
    'no gradient of a group without a kept token, LILY_CPU_BLOCKS=%s',
    async (blocks) => {
      const { results } = await on(2, blocks, afterNaN(emptyGroupJobs))
      const [withNaN, empty] = [0, 1].map((odd) => results.filter((_, i) => i % 2 === odd))
      expectNaNOfKeptGroups(emptyGroupJobs, withNaN)
      expectNoGradientOfEmptyGroups(emptyGroupJobs, empty)
    },
  )
})

test('an uneven split of A on one thread matches the reference', async () => {
  const report = await runInChild(unevenJobs, { LILY_CPU_ISA: '', LILY_NUM_THREADS: '1' })
  expectMatches(unevenJobs, report, WIDEST)
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
