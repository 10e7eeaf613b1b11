/**
 * Dropout in every kernel that reads x or writes dx, with every tile, and at the edges: the mask follows from the row and
 * the column of x, whichever block, thread or copy of an operand has the element.
 *
 * @project cuda newer turing
 */
import { describe, expect, test } from 'vitest'
import { type Emulated, emulatedGpu, gpuOf } from '../../bench/counters/gpus.js'
import { backends } from '../../lib/index.js'
import { isEmulated } from '../support/backend.js'
import { type Case, makeCase } from '../support/cases.js'
import { checkCase, checkResult } from '../support/check.js'
import { type Job, runInChild } from '../support/child.js'
import { bits, relativeError } from '../support/compare.js'
import { kernelsWithCode, recording } from '../support/executed.js'
import { DEVICES, dropoutJobs, expectSameRows } from '../support/kernels.js'
import { maskOf } from '../support/philox.js'
import type { Result } from '../support/run.js'
import { tileCover } from '../support/tile-cover.js'

const RATE = 0.4
const READS_X = /^(forward_shrink|backward_x|large_)/
/** Of products whose operands are rounded to 11 bits, of which a result has three at most. */
const TF32 = 6 * 2 ** -11

const capability = Number(process.env.LILY_EMULATOR_ARCH ?? 90) as Emulated
const isTuring = capability === 75
/** The types of 16 bits for which the architecture has matrix units. */
const activations = isTuring ? 'float16' : 'bfloat16'

/** What each engine multiplies, and its name in the symbols of kernels. */
const ENGINES = [
  { types: { activations }, scalarBytes: 2, symbol: isTuring ? '__half' : '__nv_bfloat16' },
  // The same code on all architectures.
  ...(capability === 90
    ? ([
        { types: {}, scalarBytes: 4, symbol: '5Exact' },
        { types: { precision: 'tf32' }, scalarBytes: 4, symbol: '4Tf32' },
      ] as const)
    : []),
] as const

async function results(jobs: Job[], environment: Record<string, string>): Promise<Result[]> {
  const { results: found, refused } = await runInChild(jobs, environment)
  expect(refused).toBeUndefined()
  expect(found.map(({ damaged }) => damaged)).toEqual(jobs.map(() => []))
  found.forEach((result, i) => {
    expectOldWhereDropped(makeCase(jobs[i].spec), result)
  })
  return found
}

/** Where x is dropped dx has its old bits, or is 0 if it is overwritten. */
function expectOldWhereDropped(c: Case, { values, old }: Result): void {
  const mask = maskOf(c.tokens, c.dIn, c.dropout!)
  const dropped = (of: Float32Array) => bits(of.filter((_, i) => mask[i] === 0))
  const before = Number.isNaN(old.dx![0]) ? new Float32Array(mask.length) : old.dx!
  expect(dropped(values.dx!)).toEqual(dropped(before))
}

describe('every kernel that reads x or writes dx, with every tile', () => {
  for (const { types, scalarBytes, symbol } of ENGINES)
    test(symbol, async (context) => {
      const gpu = isEmulated ? emulatedGpu(capability) : gpuOf(backends()[1].devices[0].name)
      if (gpu === undefined)
        return context.skip('the device is a GPU whose data sheet is not in bench/counters/gpus.ts')
      const executed = new Set<string>()
      const cover = tileCover(scalarBytes, DEVICES, gpu, (kernel) => READS_X.test(kernel))
      for (const device of DEVICES) {
        const jobs = cover
          .filter((each) => each.device === device)
          .map(({ spec }): Job => ({ spec: { ...spec, ...types, dropout: RATE }, how: { outputs: 'add' } }))
        const found = await recording(executed, (counters) => results(jobs, { ...device, ...counters }))
        const isTf32 = 'precision' in types
        const full = isTf32 ? await results(withoutPrecision(jobs), device) : []
        found.forEach((result, i) => {
          if (!isTf32) checkResult(makeCase(jobs[i].spec), result, jobs[i].how)
          else
            for (const [name, values] of Object.entries(result.values))
              expect(relativeError(values, full[i].values[name as keyof Result['values']]!), name).toBeLessThan(TF32)
        })
      }
      if (!isEmulated) return
      const target = { 75: 'sm_75', 90: 'sm_90a', 100: 'sm_90', 110: 'sm_90' }[capability]
      const all = [...kernelsWithCode(process.env.LILY_CUDA_LIBRARY!)].flatMap(([name, targets]) => {
        // Lists have no dropout.
        const isOne = name.includes(symbol) && /\d(forward_shrink|backward_x|large_\w+?)I/.test(name)
        // Hopper has wgmma, and one tile without, for which no plan asks.
        const isSpare = target === 'sm_90a' && scalarBytes === 2 && /large_/.test(name) && targets.includes('sm_90')
        // Newer architectures use two of these tiles for larger problems, and for frozen layers.
        const isLarger = capability > 90 && name.includes('large_product')
        return isOne && targets.includes(target) && !isSpare && !isLarger ? [name] : []
      })
      expect(all.length).toBeGreaterThan(4)
      expect(all.filter((name) => !executed.has(name))).toEqual([])
    })
})

const withoutPrecision = (jobs: Job[]): Job[] => jobs.map(({ spec: { precision: _, ...spec }, how }) => ({ spec, how }))

/** h has 16 bits, and the tiles of x and dx 32. */
const high: Job = { ...dropoutJobs[2], spec: { ...dropoutJobs[2].spec, precision: 'high' } }

test('at the edges, where rows have the same bits with both devices', async () => {
  const jobs = [...dropoutJobs, high]
  const executed = new Set<string>()
  const many = await results(jobs, DEVICES[0])
  const one = await recording(executed, (counters) => results(jobs, { ...DEVICES[1], ...counters }))
  jobs.forEach(({ spec, how }, i) => {
    checkResult(makeCase(spec), many[i], how)
  })
  if (isEmulated) {
    const names = [...executed].join()
    expect(names).toContain('backward_hiddenI')
    // Turing has no such kernel for bfloat16.
    if (!isTuring) expect(names).toContain('backward_dy_onceI')
  }
  expectSameRows(many, one, jobs)
})

test.for([20, 132])('a dropped element counts as zero if it is not finite, at r = %i', async (rank) => {
  const c = makeCase({ ...dropoutJobs[0].spec, tokens: 70, dIn: 136, rank })
  maskOf(c.tokens, c.dIn, c.dropout!).forEach((keeps, i) => {
    if (keeps === 0) c.x[i] = i % 2 === 0 ? NaN : Infinity
  })
  await checkCase(c, { outputs: 'add' })
})
