/** Every kernel, however backward reads dy, which depends on the second-level cache: the emulator's has any size. */
import { describe, expect, test } from 'vitest'
import { isEmulated } from '../support/backend.js'
import { makeCase } from '../support/cases.js'
import { checkResult } from '../support/check.js'
import { runInChild, type Job } from '../support/child.js'
import { CACHES, kernelJobs, largeJob } from '../support/kernels.js'

async function check(jobs: Job[], L2: string): Promise<void> {
  const { results, refused } = await runInChild(jobs, { LILY_EMULATOR_L2: L2 })
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
      await check(kernelJobs, L2)
    })

  test('dy read once at a rank above 16', async (context) => {
    if (!isEmulated) context.skip('a GPU takes part, whose cache has one size')
    await check([largeJob], '4M')
  })
})
