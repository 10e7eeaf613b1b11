/** `lily-kernels bench --backend webgpu`. */
import { expect, test } from 'vitest'
import type { Report } from '../../bench/harness/report.js'
import { passes } from '../../bench/methods/methods.js'
import { type Gpu, withErrors } from '../../bench/harness/gpu.js'
import { runCli } from '../support/cli.js'
import { testGpu } from '../support/gpu-device.js'

test('bench measures the default adapter of WebGPU, and TensorFlow.js on the same device', async () => {
  const { code, stdout, stderr } = await runCli(
    ['bench', '--backend', 'webgpu', '--quick', '--seconds', '0.1', '--shape', '8,16,4,2', '--json'],
    { VK_DRIVER_FILES: process.env.VK_DRIVER_FILES },
  )
  expect(code, stderr).toBe(0)
  const [{ machine, caches, notes, roofs, results, failures }, ...more] = JSON.parse(stdout) as Report[]
  expect([...more, ...failures]).toEqual([])
  expect(machine).toMatchObject({ backend: 'webgpu', threads: null })
  expect(caches).toBe('warm')
  expect(roofs).toBeNull()
  // Nobody should take the times of such an adapter for those of a GPU.
  const isSoftware = machine.device.includes('llvmpipe')
  expect(machine.detail).toBe(isSoftware ? 'software adapter' : 'adapter of a GPU')
  expect(notes.some((note) => note.includes('THE ADAPTER IS SOFTWARE'))).toBe(isSoftware)
  const methods = ['lily', 'lora', 'lora-equal-parameters', 'lily-composed', 'lora-composed']
  expect(results.map(({ method }) => method)).toEqual(passes.flatMap(() => methods))
  for (const { median, method, ratioToFused } of results) {
    expect(median).toBeGreaterThan(0)
    if (method.endsWith('-composed')) expect(ratioToFused).toBeGreaterThan(0)
    else expect(ratioToFused).toBeNull()
  }
})

test('a call that WebGPU refuses fails its case', async () => {
  const { device, lily } = testGpu()
  const [x, a] = [
    [4, 2],
    [1, 2],
  ].map((shape) => lily.tensor(new Float32Array(shape[0] * shape[1]), shape))
  x.buffer.destroy()
  const run = withErrors({ device, lily } as Gpu, () =>
    Promise.resolve(lily.loraForward({ x, a, b: lily.tensor([1, 1], [2, 1]) })),
  )
  await expect(run).rejects.toThrow('WebGPU refused a call')
})
