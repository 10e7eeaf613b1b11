/**
 * Streams: those that this package creates, to which its memory belongs, and foreign streams. A GPUDevice has one queue,
 * its default stream; an encoder of the caller is a foreign stream.
 */
import { bound } from '../binding/errors.js'
import { bindingOf } from '../binding/devices.js'
import { native, type StreamHandle } from '../binding/native.js'
import type { Device } from './device.js'

export class StreamState {
  private constructor(
    readonly device: Device,
    /** The addon's stream object; null for a foreign stream, which its owner may destroy at any time. */
    readonly handle: StreamHandle | null,
    /** The cudaStream_t, as a number. Once the stream is destroyed, the number of the device's default stream. */
    public cudaStream: number,
    /** The commands of an encoder of the caller, for a GPUDevice. */
    readonly encoder: GPUCommandEncoder | null = null,
  ) {}

  static readonly #defaults = new WeakMap<Device, StreamState>()
  static readonly #created = new Map<number, WeakRef<StreamState>>()

  /**
   * The stream in which calls on a device run by default (`Stream.default`). The package creates it with
   * `cudaStreamNonBlocking`; it is not CUDA's default stream.
   */
  static default(device: Device): StreamState {
    const known = StreamState.#defaults.get(device)
    if (known !== undefined) return known
    const state = StreamState.#of(
      device,
      bound(() => bindingOf(device).streamDefault(device.id)),
    )
    StreamState.#defaults.set(device, state)
    return state
  }

  static create(device: Device): StreamState {
    const state = StreamState.#of(
      device,
      bound(() => native.streamCreate(device.id)),
    )
    StreamState.#created.set(state.cudaStream, new WeakRef(state))
    return state
  }

  /** The stream with this cudaStream_t: a stream of the package, or a foreign one. */
  static of(device: Device, cudaStream: number): StreamState {
    const known = StreamState.#defaults.get(device)
    if (known?.cudaStream === cudaStream) return known
    const created = StreamState.#created.get(cudaStream)?.deref()
    return created?.device === device ? created : new StreamState(device, null, cudaStream)
  }

  /** The commands of an encoder of the caller. They have no number. */
  static ofEncoder(device: Device, encoder: GPUCommandEncoder): StreamState {
    return new StreamState(device, null, 0, encoder)
  }

  static #of(device: Device, handle: StreamHandle): StreamState {
    return new StreamState(device, handle, bindingOf(device).streamHandle(handle))
  }

  /**
   * The stream to which memory allocated for calls in this stream belongs: itself, or the default stream of the device
   * if it is foreign.
   */
  get memoryStream(): StreamState {
    return this.handle === null ? StreamState.default(this.device) : this
  }

  /** Destroys the stream once its work is complete. Has no effect on a foreign stream. */
  destroy(): void {
    const { handle, cudaStream } = this
    if (handle === null) return
    StreamState.#created.delete(cudaStream)
    try {
      bound(() => native.streamDestroy(handle))
    } finally {
      this.cudaStream = native.streamHandle(handle)
    }
  }
}
