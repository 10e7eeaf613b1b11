/** Every kernel, and every way in which backward reads dy. The way depends on the device, whose size variables lower. */
import { describe, expect, test } from 'vitest'
import { emulatedGpu, gpuOf } from '../../bench/counters/gpus.js'
import { planCall, tileRows } from '../../bench/counters/plan.js'
import { backends } from '../../lib/index.js'
import { isEmulated } from '../support/backend.js'
import { makeCase } from '../support/cases.js'
import { checkResult } from '../support/check.js'
import { type Job, runInChild } from '../support/child.js'
import { expectSameBits } from '../support/compare.js'
import { emptyGroupJobs, expectNoGradientOfEmptyGroups } from '../support/empty-groups.js'
import {
  DEVICES,
  expectSameRows,
  kernelJobs,
  largeJob,
  severalTilesJob,
  TWO_MULTIPROCESSORS,
} from '../support/kernels.js'
import type { Result } from '../support/run.js'
import { tileCover } from '../support/tile-cover.js'

async function check(jobs: Job[], environment: Record<string, string>): Promise<Result[]> {
  const { results, refused } = await runInChild(jobs, environment)
  expect(refused).toBeUndefined()
  expect(results.length).toBe(jobs.length)
  results.forEach((result, i) => {
    expect(result.damaged).toEqual([])
    checkResult(makeCase(jobs[i].spec), result, jobs[i].how)
  })
  return results
}

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

  test('rows have the same bits with both', async () => {
    expectSameRows(await resultsOn(DEVICES[0]), await resultsOn(DEVICES[1]))
  })

  // With both devices the problems reach all kernels of backward.
  for (const device of DEVICES)
    test(`no gradient of a group without a kept token, with ${titleOf(device)}`, async () => {
      const { results, refused } = await runInChild(emptyGroupJobs, device)
      expect(refused).toBeUndefined()
      expectNoGradientOfEmptyGroups(emptyGroupJobs, results)
    })

  // A GPU of compute capability 11.0 executes the published PTX. A kernel without code gives wrong results. On Turing some
  // rows do not fit.
  for (const [activations, scalarBytes, capability] of [
    ['bfloat16', 2, 90],
    ['bfloat16', 2, 100],
    ['float32', 4, 90],
    ['bfloat16', 2, 110],
    ['float32', 4, 110],
    ['float16', 2, 75],
  ] as const)
    test(`every row of the tile table, ${activations} on sm_${capability}`, async (context) => {
      const gpu = isEmulated ? emulatedGpu(capability) : gpuOf(backends()[1].devices[0].name)
      if (gpu === undefined)
        return context.skip('the device is a GPU whose data sheet is not in bench/counters/gpus.ts')
      if (gpu.capability !== capability) return context.skip('the device is a GPU, which has one architecture')
      const cover = tileCover(activations, DEVICES, gpu)
      const names = new Set(cover.flatMap(({ kernels }) => [...kernels]))
      const { dy, ...others } = tileRows(scalarBytes, { capability })
      const rows = [...Object.values(others).flat(), ...dy.flat()]
      // A row that no problem launches is not tested: the grid of tile-cover.ts lacks one, or the row can go.
      const missing = rows.filter((row) => ![...names].some((name) => name.includes(row.join(' x '))))
      if (capability !== 75) expect(missing).toEqual([])
      for (const device of DEVICES) {
        const jobs = cover
          .filter((each) => each.device === device)
          .map(({ spec }): Job => ({ spec, how: { outputs: 'add' } }))
        await check(jobs, { ...device, ...(isEmulated && { LILY_EMULATOR_ARCH: String(capability) }) })
      }
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

  // In a process of its own: the limit of a kernel that was raised stays raised.
  test('48 KiB of dynamic shared memory beside static shared memory', async () => {
    const spec = { tokens: 33, dIn: 33, dOut: 33, rank: 32, experts: 3, scaling: 2, seed: 22 }
    const shape = { tokens: spec.tokens, d: spec.dIn, rank: spec.rank, experts: spec.experts }
    const call = { shape, dtype: 'bfloat16', method: 'batch', direction: 'backward' } as const
    const planned = planCall({ ...call, gpu: emulatedGpu(90, 1, 16 * 1024) }).launches
    expect(planned).toContainEqual(expect.objectContaining({ kernel: 'backward_dy', sharedBytes: 48 * 1024 }))
    await check([{ spec: { ...spec, routing: 'batch', activations: 'bfloat16' }, how: {} }], DEVICES[1])
  })

  test('dy is read once at a rank above 16', async () => {
    await check([largeJob], DEVICES[1])
  })

  test('only the smallest tile fits, with many experts at a large rank on Turing', async (context) => {
    if (!isEmulated) context.skip('the device is a GPU, which has one architecture')
    const jobs = (['float16', 'float32'] as const).map((activations): Job => {
      const spec = { tokens: 33, dIn: 33, dOut: 37, rank: 130, experts: 60, scaling: 2, seed: 19 }
      return { spec: { ...spec, routing: 'batch', activations }, how: { outputs: 'add' } }
    })
    for (const activations of ['float16', 'float32'] as const) {
      const spec = { tokens: 33, dIn: 33, dOut: 37, rank: 128, experts: 64, scaling: 2, seed: 20 }
      jobs.push({ spec: { ...spec, routing: 'token', activations }, how: { outputs: 'add' } })
    }
    await check(jobs, { LILY_EMULATOR_ARCH: '75' })
  })
})
