/** The file of lily-kernels/webgpu in the place of cuda-memory.ts: it has no CUDA devices. */
import { fail } from '../base/errors.js'

export function readCudaMemory(argument: string): never {
  fail(
    'ERR_LILY_DEVICE',
    argument,
    'expected { buffer: GPUBuffer, shape, dtype } or a tensor on a GPUDevice, got other memory, such as that of CUDA; pass it to ' +
      'the functions of lily-kernels',
  )
}
