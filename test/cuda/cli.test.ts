/** `lily-kernels bench` and `doctor` with a CUDA device. */
import { expect, test } from 'vitest'
import type { Report } from '../../bench/harness/report.js'
import { passes } from '../../bench/methods/methods.js'
import type { Diagnosis } from '../../cli/doctor/diagnosis.js'
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
  for (const { median, method } of results) {
    expect(methods).toContain(method)
    expect(median).toBeGreaterThan(0)
  }
})

test('doctor tests the device', async () => {
  const { code, stdout, stderr } = await runCli(['doctor', '--json'])
  expect(code, stderr).toBe(0)
  const { ok, backends } = JSON.parse(stdout) as Diagnosis
  expect(ok).toBe(true)
  expect(backends[1]).toMatchObject({ name: 'cuda', available: true, selfTest: { passed: true } })
})
