/** `lily-kernels bench` and `doctor` with a CUDA device. */
import { expect, test } from 'vitest'
import type { Report } from '../../bench/harness/report.js'
import { passes } from '../../bench/methods/methods.js'
import { LIMITS } from '../../bench/peers/agreement.js'
import type { Diagnosis } from '../../cli/doctor/diagnosis.js'
import { isEmulated } from '../support/backend.js'
import { runCli } from '../support/cli.js'

test('bench measures the cpu backend and the device', async () => {
  const shape = ['--shape', '8,16,4,2', '--routing', 'batch,fixed', '--dtype', 'float32,bfloat16']
  const { code, stdout, stderr } = await runCli(['bench', '--quick', '--seconds', '0.1', ...shape, '--json'])
  expect(code, stderr).toBe(0)
  const [onHost, onDevice, ...more] = JSON.parse(stdout) as Report[]
  expect(more).toEqual([])
  expect(onHost).toMatchObject({ machine: { backend: 'cpu' }, caches: 'warm', complete: true })
  const { machine, caches, notes, results } = onDevice
  expect(caches).toBe('cold')
  expect(machine).toMatchObject({ backend: 'cuda', threads: null })
  expect(machine.detail).toMatch(/^compute capability \d+\.\d+$/)
  expect(notes).not.toEqual([])
  const methods = ['lily', 'lora', 'lora-equal-parameters', 'lily-graph', 'lora-graph']
  expect(results).toHaveLength(2 * 2 * passes.length * methods.length)
  for (const { median, method, difference, dtype } of results) {
    expect(methods).toContain(method)
    expect(median).toBeGreaterThan(0)
    // Two implementations differ, but by rounding only. Numbers of 16 bits round to the same ones on some processors.
    if (dtype === 'float32') expect(difference).toBeGreaterThan(0)
    else expect(difference).toBeGreaterThanOrEqual(0)
    expect(difference).toBeLessThan(LIMITS[dtype])
  }
})

test('bench fails where results on the device are wrong', async (context) => {
  if (!isEmulated) context.skip('the device is a GPU, and the test requires the emulator')
  const wrong = { LILY_EMULATOR_WRONG_KERNEL: 'backward_x' }
  const options = ['--backend', 'cuda', '--quick', '--seconds', '0.1', '--shape', '8,16,4,2', '--json']
  const { code, stdout } = await runCli(['bench', ...options], wrong)
  expect(code).toBe(1)
  const [{ results, failures }] = JSON.parse(stdout) as Report[]
  expect(results).toEqual([])
  expect(failures.map(({ reason }) => reason)).toEqual([expect.stringContaining('a block of output 1 of lily')])
})

test('doctor tests the device', async () => {
  const { code, stdout, stderr } = await runCli(['doctor', '--json'])
  expect(code, stderr).toBe(0)
  const { ok, backends } = JSON.parse(stdout) as Diagnosis
  expect(ok).toBe(true)
  expect(backends[1]).toMatchObject({ name: 'cuda', available: true, selfTest: { passed: true } })
})
