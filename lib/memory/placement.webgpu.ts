/**
 * The file of lily-kernels/webgpu in the place of placement.ts: a GPUDevice has one queue, whose work is in order, and
 * encoders of the caller. WebGPU itself keeps the buffers of submitted commands.
 */
import { bound } from '../binding/errors.js'
import { type WebGpuBinding, webGpuBinding } from '../binding/devices.js'
import { refuseInCapture } from './capture.js'
import { DeviceMemory } from './device-memory.js'
import type { Device } from './device.js'
import { StreamState } from './stream-state.js'

/** GPUDevice and queue, or encoder, of one call. */
export class Placement {
  private constructor(
    readonly device: Device,
    readonly stream: StreamState,
  ) {}

  static of(device: Device, stream: StreamState | null): Placement {
    refuseInCapture('a call on a GPUDevice', 'call it outside captureGraph')
    return new Placement(device, stream ?? StreamState.default(device))
  }

  get gpu(): WebGpuBinding {
    return webGpuBinding('device', this.device.id)
  }

  get binding(): WebGpuBinding {
    return this.gpu
  }

  get isEncoded(): boolean {
    return this.stream.handle === null
  }

  allocate(argument: string, byteLength: number): DeviceMemory {
    return new DeviceMemory(argument, this.device, byteLength, this.stream.memoryStream)
  }

  run<T>(work: () => T): T {
    return bound(work)
  }
}
