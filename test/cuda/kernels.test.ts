/** Every kernel, however backward reads dy, which depends on the second-level cache: the emulator's has any size. */
import { describe, expect, test } from 'vitest'
import { isEmulated } from '../support/backend.js'
import { makeCase } from '../support/cases.js'
import { checkResult } from '../support/check.js'
import { type Job, runInChild } from '../support/child.js'
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
    test(`with a second-level cache of ${L2}`, async (context) => {
      if (!isEmulated) context.skip('a GPU takes part, whose cache has one size')
      await check(kernelJobs, { LILY_EMULATOR_L2: L2 })
    })

  test('dy read once at a rank above 16', async (context) => {
    if (!isEmulated) context.skip('a GPU takes part, whose cache has one size')
    await check([largeJob], { LILY_EMULATOR_L2: '4M' })
  })

  test('so many experts at a large rank that on Turing only the smallest tile fits', async (context) => {
    if (!isEmulated) context.skip('a GPU takes part, which is of one architecture')
    const jobs = (['float16', 'float32'] as const).map((activations): Job => {
      const spec = { tokens: 40, dIn: 33, dOut: 70, rank: 130, experts: 60, scaling: 2, seed: 19 }
      return { spec: { ...spec, routing: 'batch', activations }, how: { outputs: 'add' } }
    })
    await check(jobs, { LILY_EMULATOR_ARCH: '75' })
  })
})
