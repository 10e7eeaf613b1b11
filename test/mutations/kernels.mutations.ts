/**
 * Whether the suite would notice a mistake in a kernel: each of mutations.ts is built and runs the problems of
 * support/kernels.ts on the emulator, which must find something or give a wrong number. `npm run test:mutations`.
 */
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { makeCase } from '../support/cases.js'
import { checkResult } from '../support/check.js'
import { type Job, runInChild } from '../support/child.js'
import { emptyGroupJobsInBfloat16, expectNoGradientOfEmptyGroups } from '../support/empty-groups.js'
import { ask } from '../support/fork.js'
import {
  DEVICES,
  dropoutJobs,
  expectSameRows,
  kernelJobs,
  linearJobs,
  severalTilesJob,
  TWO_MULTIPROCESSORS,
} from '../support/kernels.js'
import { expectMatches } from '../support/linear-check.js'
import type { LinearReport } from '../support/linear.js'
import type { Result } from '../support/run.js'
import { clamped, expectSameAsCalls, long, mixes, scaled } from '../cuda/list-check.js'
import type { ListAnswer } from '../cuda/list.js'
import { build } from './build.js'
import { mutations } from './mutations.js'

const listModule = fileURLToPath(new URL('../cuda/list.ts', import.meta.url))
const lists = [...[...mixes, ...scaled].map(([, list]) => list), clamped, long].filter(
  ({ cases: [c] }) => c.activations === 'bfloat16',
)
const linearModule = fileURLToPath(new URL('../support/linear.ts', import.meta.url))

/** Runs what test/cuda/kernels.test.ts runs, frozen linear layers, and lists; throws where that would fail. */
async function check(library: string, capability: 90 | 100): Promise<void> {
  const environment = {
    LILY_CUDA_LIBRARY: library,
    LILY_EMULATOR_ARCH: String(capability),
    // At least as many as DEVICES count.
    LILY_EMULATOR_SMS: '64',
    LILY_CUBLASLT: '0',
  }
  const run = async (jobs: Job[], device: Record<string, string>): Promise<Result[]> => {
    const { results, refused } = await runInChild(jobs, { ...environment, ...device })
    if (refused !== undefined) throw new Error(refused.message)
    expect(results.length).toBe(jobs.length)
    results.forEach((result, i) => {
      expect(result.damaged).toEqual([])
      checkResult(makeCase(jobs[i].spec), result, jobs[i].how)
    })
    return results
  }
  const onDevices: Result[][] = []
  for (const device of DEVICES) onDevices.push(await run(kernelJobs, device))
  expectSameRows(onDevices[0], onDevices[1])
  for (const device of DEVICES) await run(dropoutJobs, device)
  await run([severalTilesJob], TWO_MULTIPROCESSORS)
  for (const device of [DEVICES[1], TWO_MULTIPROCESSORS]) {
    const linear = await ask<LinearReport>(linearModule, linearJobs, { ...environment, ...device })
    expect(linear.results.length).toBe(linearJobs.length)
    linearJobs.forEach((job, i) => {
      expectMatches(job, linear.results[i])
    })
  }
  const answer = await ask<ListAnswer>(
    listModule,
    lists.map((list) => ({ list })),
    { ...environment, ...DEVICES[0] },
  )
  lists.forEach((list, i) => {
    expectSameAsCalls(list, answer.results[i])
  })
  const jobs = emptyGroupJobsInBfloat16
  const { results, refused } = await runInChild(jobs, { ...environment, ...DEVICES[1] })
  if (refused !== undefined) throw new Error(refused.message)
  expectNoGradientOfEmptyGroups(jobs, results)
}

test.each([90, 100] as const)('without a mistake all is right on sm_%i', async (capability) => {
  const { library, dispose } = await build(`none-${capability}`, capability)
  await check(library, capability)
  dispose()
})

describe.concurrent('noticed', () => {
  mutations.forEach((mutation, i) => {
    test(`${mutation.file}: ${mutation.what}`, async ({ expect }) => {
      const { capability = 100 } = mutation
      const { library, dispose } = await build(String(i), capability, mutation)
      const noticed = await check(library, capability).then(
        () => undefined,
        (error: unknown) => String(error),
      )
      dispose()
      expect(noticed, 'no test fails').toBeDefined()
      console.log(`${mutation.file}: ${mutation.what}: ${noticed?.split('\n')[0] ?? ''}`)
    })
  })
})
