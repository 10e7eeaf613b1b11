/** Every kernel, however backward reads dy, which depends on the second-level cache: the emulator's has any size. */
import { describe, expect, test } from 'vitest'
import { isEmulated } from '../support/backend.js'
import { makeCase } from '../support/cases.js'
import { checkResult } from '../support/check.js'
import { runInChild } from '../support/child.js'
import { CACHES, kernelJobs } from '../support/kernels.js'

describe('every kernel', () => {
  for (const L2 of CACHES)
    test(`with a second-level cache of ${L2}`, async (context) => {
      if (!isEmulated) context.skip('a GPU takes part, whose cache has one size')
      const { results, refused } = await runInChild(kernelJobs, { LILY_EMULATOR_L2: L2 })
      expect(refused).toBeUndefined()
      expect(results.length).toBe(kernelJobs.length)
      results.forEach((result, i) => {
        expect(result.damaged).toEqual([])
        checkResult(makeCase(kernelJobs[i].spec), result, kernelJobs[i].how)
      })
    })
})
