/** Placeholder: the kernels follow. */
import type { Kernels } from './call.js'

export class GpuKernels implements Kernels {
  constructor(readonly gpu: GPUDevice) {}

  forward(): void {
    throw new Error('no kernels')
  }

  backward(): void {
    throw new Error('no kernels')
  }

  fold(): void {
    throw new Error('no kernels')
  }

  adamw(): void {
    throw new Error('no kernels')
  }

  compileForward(): Promise<void> {
    return Promise.reject(new Error('no kernels'))
  }

  compileBackward(): Promise<void> {
    return Promise.reject(new Error('no kernels'))
  }
}
