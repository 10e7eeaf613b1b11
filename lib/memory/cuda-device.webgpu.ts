/** The file of lily-kernels/webgpu in the place of cuda-device.ts: it has no CUDA devices. */
import { fail } from '../base/errors.js'

export function checkCudaDevice(argument: string, id: number): never {
  fail(
    'ERR_LILY_BACKEND_UNAVAILABLE',
    argument,
    `cuda:${id} is not available: lily-kernels/webgpu has no native code; use the main package, lily-kernels`,
  )
}

/** Not called: a call first checks that there is the device. */
export const checkCudaMemory: (argument: string, id: number) => never = checkCudaDevice
