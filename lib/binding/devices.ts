/**
 * The bindings of devices: the addon for CUDA, and an object for each GPUDevice that `createLily` of lily-kernels/webgpu
 * was given.
 */
import { fail } from '../base/errors.js'
import type { GpuWork } from './gpu-call.js'
import { type DeviceBinding, type MemoryHandle, native } from './native.js'

/** Names a device. */
interface DeviceName {
  readonly type: 'cpu' | 'cuda' | 'webgpu'
  readonly id: number
}

/** The binding of a GPUDevice. WebGPU has no addresses: memory is a GPUBuffer, from its first byte on. */
export interface WebGpuBinding extends DeviceBinding {
  /** The device: always the same frozen object. */
  readonly device: DeviceName & { readonly type: 'webgpu' }
  readonly gpu: GPUDevice
  /** Counts the createLily objects of the device. With the last one the device is no longer registered. */
  retain(): void
  release(): void
  /** The buffer of the memory that it has allocated. */
  bufferOf(memory: MemoryHandle): GPUBuffer
  /** Throws unless a buffer of the caller is usable and holds the bytes. */
  checkBuffer(buffer: GPUBuffer, byteOffset: number, byteLength: number, argument: string): void
  /** The commands of an encoder were submitted: memory that only they use can be used again. */
  submitted(encoder: GPUCommandEncoder): void
  /** Throws if the GPUDevice was lost. */
  checkUsable(argument: string): void
  /** Submits work to the queue, in its order, or encodes it into an encoder of the caller. */
  run(work: readonly GpuWork[], encoder: GPUCommandEncoder | null): void
  /** The same, in the queue, once the pipelines are compiled. It throws at a check, and resolves when the work is submitted. */
  runAsync(work: readonly GpuWork[]): Promise<void>
}

/** The registered devices, and the one whose `createLily` object runs a call now. */
export const webGpu = {
  bindings: new Map<number, WebGpuBinding>(),
  current: null as WebGpuBinding | null,
  /** The ID of the next device. */
  nextId: 0,
}

/** The binding of a device other than the host. */
export function bindingOf({ type, id }: DeviceName): DeviceBinding {
  return type === 'webgpu' ? webGpuBinding('device', id) : native
}

/**
 * The binding of a registered GPUDevice.
 *
 * @throws LilyError ERR_LILY_BACKEND_UNAVAILABLE
 */
export function webGpuBinding(argument: string, id: number): WebGpuBinding {
  const binding = webGpu.bindings.get(id)
  if (binding !== undefined) return binding
  return fail(
    'ERR_LILY_BACKEND_UNAVAILABLE',
    argument,
    `webgpu:${id} is not a registered device: call createLily(gpuDevice) of lily-kernels/webgpu and pass its \`device\`; ` +
      'after its dispose() call createLily again',
  )
}
