/** The GPUDevice that test/support/webgpu.ts has requested; none in the projects of other backends. */
import type { Lily } from '../../lib/webgpu/index.js'

interface TestGpu {
  readonly gpu: GPU
  readonly device: GPUDevice
  readonly lily: Lily
}

let current: TestGpu | null = null

export function setGpu(gpu: TestGpu): void {
  current = gpu
}

export function testGpu(): TestGpu {
  if (current === null) throw new Error('this project has no GPUDevice')
  return current
}
