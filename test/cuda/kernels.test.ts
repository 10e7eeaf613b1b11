/** Every kernel, and every way in which backward reads dy. The way depends on the size of L2, which the emulator varies. */
import { describe, expect, test } from 'vitest'
import { isEmulated } from '../support/backend.js'
import { makeCase } from '../support/cases.js'
import { checkResult } from '../support/check.js'
import { type Job, runInChild } from '../support/child.js'
import { emptyGroupJobs, expectNoGradientOfEmptyGroups } from '../support/empty-groups.js'
import { CACHES, kernelJobs, largeJob } from '../support/kernels.js'

async function check(jobs: Job[], environment: Record<string, string>): Promise<void> {
  const { results, refused } = await runInChild(jobs, environment)
  expect(refused).toBeUndefined()
  expect(results.length).toBe(jobs.length)
  results.forEach((result, i) => {
    expect(result.damaged).toEqual([])
    checkResult(makeCase(jobs[i].spec), result, jobs[i].how)
  })
}

describe('every kernel', () => {
  for (const L2 of CACHES)
    test(`with an L2 of ${L2}`, async (context) => {
      if (!isEmulated) context.skip('the device is a GPU, whose L2 has one size')
      await check(kernelJobs, { LILY_EMULATOR_L2: L2 })
    })

  // With both sizes of L2 the problems reach all kernels of backward.
  for (const L2 of CACHES)
    test(`no gradient of a group without a kept token, with an L2 of ${L2}`, async () => {
      const { results, refused } = await runInChild(emptyGroupJobs, { LILY_EMULATOR_L2: L2 })
      expect(refused).toBeUndefined()
      expectNoGradientOfEmptyGroups(emptyGroupJobs, results)
    })

  test('dy is read once at a rank above 16', async (context) => {
    if (!isEmulated) context.skip('the device is a GPU, whose L2 has one size')
    await check([largeJob], { LILY_EMULATOR_L2: '4M' })
  })

  test('only the smallest tile fits, with many experts at a large rank on Turing', async (context) => {
    if (!isEmulated) context.skip('the device is a GPU, which has one architecture')
    const jobs = (['float16', 'float32'] as const).map((activations): Job => {
      const spec = { tokens: 40, dIn: 33, dOut: 70, rank: 130, experts: 60, scaling: 2, seed: 19 }
      return { spec: { ...spec, routing: 'batch', activations }, how: { outputs: 'add' } }
    })
    await check(jobs, { LILY_EMULATOR_ARCH: '75' })
  })
})
