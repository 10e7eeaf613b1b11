/**
 * Every kernel, and every way in which backward reads dy. The way depends on the device, whose size variables lower.
 *
 * @long
 */
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { type Emulated, emulatedGpu, gpuOf } from '../../bench/counters/gpus.js'
import { planCall } from '../../bench/counters/plan.js'
import { backends } from '../../lib/index.js'
import { isEmulated } from '../support/backend.js'
import { type Case, makeCase } from '../support/cases.js'
import { checkResult } from '../support/check.js'
import { type Job, runInChild } from '../support/child.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import type { Types } from '../support/dtypes.js'
import { emptyGroupJobs, expectNoGradientOfEmptyGroups } from '../support/empty-groups.js'
import { kernelsWithCode, recording } from '../support/executed.js'
import { ask } from '../support/fork.js'
import {
  DEVICES,
  expectSameRows,
  highJobs,
  kernelJobs,
  linearTileSpecs,
  severalTilesJob,
  TWO_MULTIPROCESSORS,
} from '../support/kernels.js'
import { expectMatches } from '../support/linear-check.js'
import type { LinearJob, LinearReport } from '../support/linear.js'
import type { Result } from '../support/run.js'
import { tileCover } from '../support/tile-cover.js'
import type { ListAnswer, ListJob } from './list.js'

/** What some of the tests have launched on the emulator, by its architecture. Not all: counting makes it slower. */
const executed = new Map<string, Set<string>>()

function recorded<T>(
  environment: Record<string, string>,
  run: (environment: Record<string, string>) => Promise<T>,
): Promise<T> {
  if (!isEmulated) return run(environment)
  const architecture = environment.LILY_EMULATOR_ARCH ?? '90'
  const names = executed.get(architecture) ?? new Set()
  executed.set(architecture, names)
  return recording(names, (counters) => run({ ...environment, ...counters }))
}

async function collect(jobs: Job[], environment: Record<string, string>): Promise<Result[]> {
  const { results, refused } = await runInChild(jobs, environment)
  expect(refused).toBeUndefined()
  expect(results.length).toBe(jobs.length)
  for (const { damaged } of results) expect(damaged).toEqual([])
  return results
}

async function check(jobs: Job[], environment: Record<string, string>): Promise<Result[]> {
  const results = await collect(jobs, environment)
  results.forEach((result, i) => {
    checkResult(makeCase(jobs[i].spec), result, jobs[i].how)
  })
  return results
}

/** Of products whose operands are rounded to 11 bits, of which a result has three at most. */
const TF32 = 6 * 2 ** -11

const titleOf = (device: (typeof DEVICES)[number]): string =>
  `${device.LILY_CUDA_MULTIPROCESSORS} multiprocessors and an L2 of ${Number(device.LILY_CUDA_L2) / 1024} KiB`

const known = new Map<(typeof DEVICES)[number], Promise<Result[]>>()

/** Of `kernelJobs`, which run once. */
function resultsOn(device: (typeof DEVICES)[number]): Promise<Result[]> {
  const results = known.get(device) ?? check(kernelJobs, device)
  known.set(device, results)
  return results
}

describe('every kernel', () => {
  for (const device of DEVICES)
    test(`with ${titleOf(device)}`, async () => {
      await resultsOn(device)
    })

  test('h of 16 bits with precision high', async () => {
    await recorded(DEVICES[0], (all) => check(highJobs, all))
    // With sequences: `pool` has no tiles, by which the lists below are chosen.
    const jobs: Job[] = [{ spec: highJobs[1].spec, how: { outputs: 'add' } }]
    await checkLists(jobs, await collect(jobs, DEVICES[0]), DEVICES[0])
  })

  test('rows have the same bits with both', async () => {
    expectSameRows(await resultsOn(DEVICES[0]), await resultsOn(DEVICES[1]))
  })

  // With one multiprocessor a kernel of its own reads dy.
  test('no gradient of a group without a kept token', async () => {
    const { results, refused } = await runInChild(emptyGroupJobs, DEVICES[1])
    expect(refused).toBeUndefined()
    expectNoGradientOfEmptyGroups(emptyGroupJobs, results)
  })

  test('a block computes several tiles of eight warps, the last block fewer, with the bits of other tiles', async () => {
    const { tokens, dIn, rank } = severalTilesJob.spec
    const shape = { tokens, d: dIn, rank, experts: 1 }
    for (const [multiprocessors, blocks] of [
      [1, 1],
      [2, 2],
    ]) {
      const gpu = emulatedGpu(90, multiprocessors)
      const call = { shape, dtype: 'bfloat16', method: 'lora', direction: 'forward', gpu } as const
      // h, then y.
      const [, planned] = planCall(call).launches
      expect(planned).toMatchObject({ kernel: 'large_product', tile: [128, 256, 64], threads: 256, blocks })
    }
    const [small, ...others] = await Promise.all(
      [...DEVICES, TWO_MULTIPROCESSORS].map((device) => check([severalTilesJob], device)),
    )
    for (const other of others)
      for (const name of ['y', 'hidden', 'dx'] as const)
        expectSameBits(name, other[0].values[name] as Float32Array, small[0].values[name] as Float32Array)
  })

  test('only the smallest tile fits, with many experts at a large rank on Turing', async (context) => {
    if (!isEmulated) context.skip('the device is a GPU, which has one architecture')
    const spec = { tokens: 33, dIn: 33, dOut: 37, scaling: 2, activations: 'float16' } as const
    const jobs: Job[] = [
      { spec: { ...spec, routing: 'batch', rank: 130, experts: 60, seed: 19 }, how: { outputs: 'add' } },
      { spec: { ...spec, routing: 'token', rank: 128, experts: 64, seed: 20 }, how: { outputs: 'add' } },
    ]
    await check(jobs, { LILY_EMULATOR_ARCH: '75' })
  })
})

/** What each engine multiplies. */
const ENGINES = {
  bfloat16: { activations: 'bfloat16' },
  float16: { activations: 'float16' },
  exact: {},
  tf32: { precision: 'tf32' },
} satisfies Record<string, Types>

interface Covering {
  readonly capability: Emulated
  readonly scalarBytes: 2 | 4
  readonly engines: readonly (keyof typeof ENGINES)[]
  /** Of the kernels with tiles; all if left out. */
  readonly isCovered?: (kernel: string) => boolean
}

// With wgmma, and without it the tiles that replace it; Turing has matrix units for float16 alone, and other instructions.
const COVERINGS: readonly Covering[] = [
  { capability: 90, scalarBytes: 2, engines: ['bfloat16', 'float16'] },
  { capability: 90, scalarBytes: 4, engines: ['exact', 'tf32'] },
  { capability: 100, scalarBytes: 2, engines: ['bfloat16', 'float16'], isCovered: (name) => name.startsWith('large_') },
  { capability: 75, scalarBytes: 2, engines: ['float16'] },
]

const rowsFrom = (first: number, count: number) => Array.from({ length: count }, (_, t) => first + t)

/** A list of a problem, twice: backward has the plans of the call alone. */
const twice = (c: Case, { old }: Result): ListJob => ({
  list: {
    cases: [c, c],
    rows: [rowsFrom(0, c.tokens), rowsFrom(c.tokens, c.tokens)],
    all: 2 * c.tokens,
    outputs: 'add',
  },
  old: [old, old],
})

/** Forward of a list of its two halves, which has the tiles of the call with all tokens. */
function halves(c: Case, { old }: Result): ListJob {
  const middle = Math.floor(c.tokens / 2)
  const [rows, parts] = [
    [rowsFrom(0, middle), rowsFrom(middle, c.tokens - middle)],
    [
      [0, middle],
      [middle, c.tokens],
    ],
  ]
  const slice = (values: Float32Array | undefined, cols: number, [begin, end]: number[]) =>
    values?.subarray(begin * cols, end * cols)
  const cases = parts.map((part, k): Case => ({ ...c, tokens: rows[k].length, x: slice(c.x, c.dIn, part)! }))
  return {
    list: { cases, rows, all: c.tokens, outputs: 'add', passes: ['forwardRows'] },
    old: parts.map((part) => ({ y: slice(old.y, c.dOut, part) })),
  }
}

/** That lists have the bits of the calls alone. Their kernels are others. */
async function checkLists(jobs: Job[], results: Result[], environment: Record<string, string>): Promise<void> {
  const cases = jobs.map(({ spec }) => makeCase(spec))
  const lists = [
    ...cases.map((c, i) => ({ i, isDivided: false, job: twice(c, results[i]) })),
    ...cases.flatMap((c, i) =>
      ['lora', 'token'].includes(c.routing) ? [{ i, isDivided: true, job: halves(c, results[i]) }] : [],
    ),
  ]
  const answer = await recorded(environment, (all) =>
    ask<ListAnswer>(
      fileURLToPath(new URL('list.ts', import.meta.url)),
      lists.map(({ job }) => job),
      all,
    ),
  )
  for (const [n, { i, isDivided }] of lists.entries()) {
    const { values } = answer.results[n].found
    const text = `of a list of ${JSON.stringify(jobs[i].spec)}`
    for (const [name, expected] of Object.entries(results[i].values) as [keyof Result['values'], Float32Array][])
      if (!isDivided) for (const each of values) expectSameBits(`${name} ${text}`, each[name]!, expected)
      else if (name === 'y' || name === 'hidden')
        expectSameBits(`${name} ${text}`, Float32Array.from(values.flatMap((each) => [...each[name]!])), expected)
  }
}

/** Kernels that these calls do not launch, which other files test: roofs.test.ts, adamw.test.ts, and graph.test.ts. */
const ELSEWHERE = /roof_|adamw_|cuda4draw/

describe('every kernel with every tile', () => {
  const linearModule = fileURLToPath(new URL('../support/linear.ts', import.meta.url))

  for (const { capability, scalarBytes, engines, isCovered } of COVERINGS)
    test(`${engines.join(' and ')} on sm_${capability}`, async (context) => {
      const gpu = isEmulated ? emulatedGpu(capability) : gpuOf(backends()[1].devices[0].name)
      if (gpu === undefined)
        return context.skip('the device is a GPU whose data sheet is not in bench/counters/gpus.ts')
      if (!isEmulated && capability !== 90) return context.skip('the device is a GPU, on which the first tests run')
      const cover = tileCover(scalarBytes, DEVICES, gpu, isCovered)
      const architecture: Record<string, string> = isEmulated ? { LILY_EMULATOR_ARCH: String(capability) } : {}
      for (const device of DEVICES) {
        const specs = cover.filter((each) => each.device === device).map(({ spec }) => spec)
        if (specs.length === 0) continue
        const jobs = engines.flatMap((name) =>
          specs.map((spec): Job => ({ spec: { ...spec, ...ENGINES[name] }, how: { outputs: 'add' } })),
        )
        const results = await recorded({ ...device, ...architecture }, (all) => collect(jobs, all))
        await checkLists(jobs, results, { ...device, ...architecture })
        for (const [i, result] of results.entries()) {
          const { spec, how } = jobs[i]
          if (spec.precision !== 'tf32') checkResult(makeCase(spec), result, how)
          else
            for (const [name, values] of Object.entries(result.values)) {
              const full = results[i - specs.length].values[name as keyof Result['values']]
              expect(relativeError(values, full ?? []), `${name} of problem ${i}`).toBeLessThan(TF32)
            }
        }
      }
      const jobs = engines.flatMap((name) =>
        linearTileSpecs.map((spec): LinearJob => ({
          spec: { ...spec, ...ENGINES[name] },
          how: { outputs: 'overwrite' },
        })),
      )
      const linear = await recorded({ ...DEVICES[1], ...architecture }, (all) =>
        ask<LinearReport>(linearModule, jobs, { ...all, LILY_CUBLASLT: '0' }),
      )
      linear.results.forEach((result, i) => {
        if (jobs[i].spec.precision !== 'tf32') {
          expectMatches(jobs[i], result)
          return
        }
        const full = linear.results[i - linearTileSpecs.length]
        for (const name of ['y', 'dx'] as const) expect(relativeError(result[name], full[name])).toBeLessThan(TF32)
      })
    })

  test('is launched by the tests of this file', (context) => {
    if (!isEmulated) return context.skip('the device is a GPU, which does not report launches')
    const library = kernelsWithCode(process.env.LILY_CUDA_LIBRARY ?? '')
    expect(library.size).toBeGreaterThan(90)
    const all = new Set([...executed.values()].flatMap((names) => [...names]))
    const names = [...library.keys()].filter((name) => !ELSEWHERE.test(name))
    // Of Turing the code of float16 is another.
    const isOther = (name: string) => name.includes('__half') && library.get(name)?.includes('sm_75') === true
    const missing = names.filter((name) => !all.has(name))
    const ofTuring = names.filter((name) => isOther(name) && executed.get('75')?.has(name) !== true)
    expect({ missing, ofTuring }).toEqual({ missing: [], ofTuring: [] })
  })
})
