/** The file of lily-kernels/webgpu in the place of stream-state.ts: the queue of a GPUDevice, and encoders of the caller. */
import { shared } from '../base/copies.js'
import { bindingOf } from '../binding/devices.js'
import type { StreamHandle } from '../binding/native.js'
import type { Device } from './device.js'

export class StreamState {
  private constructor(
    readonly device: Device,
    /** Null for an encoder. */
    readonly handle: StreamHandle | null,
    readonly cudaStream: number,
    readonly encoder: GPUCommandEncoder | null = null,
  ) {}

  static readonly #defaults = shared('defaultStreams', () => new WeakMap<Device, StreamState>())

  static default(device: Device): StreamState {
    let queue = StreamState.#defaults.get(device)
    if (queue === undefined) {
      const binding = bindingOf(device)
      const handle = binding.streamDefault(device.id)
      queue = new StreamState(device, handle, binding.streamHandle(handle))
      StreamState.#defaults.set(device, queue)
    }
    return queue
  }

  static ofEncoder(device: Device, encoder: GPUCommandEncoder): StreamState {
    return new StreamState(device, null, 0, encoder)
  }

  get memoryStream(): StreamState {
    return StreamState.default(this.device)
  }
}
