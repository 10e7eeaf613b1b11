/** Streams as calls see them: those of the package, to which memory belongs, and those of others. */
import { bound } from '../binding/errors.js'
import { native, type StreamHandle } from '../binding/native.js'

/** A stream of a CUDA device. */
export class StreamState {
  private constructor(
    /** Number of the device. */
    readonly device: number,
    /** Null: the stream is someone else's, and may be gone when its owner likes. */
    readonly handle: StreamHandle | null,
    /** CUDA's handle. That of the device's own stream once this one has ended. */
    public number: number,
  ) {}

  static #own = new Map<number, StreamState>()
  static #created = new Map<number, WeakRef<StreamState>>()

  /** The package's own stream of a device. */
  static own(device: number): StreamState {
    const known = StreamState.#own.get(device)
    if (known !== undefined) return known
    const state = StreamState.#of(
      device,
      bound(() => native.streamOwn(device)),
    )
    StreamState.#own.set(device, state)
    return state
  }

  static create(device: number): StreamState {
    const state = StreamState.#of(
      device,
      bound(() => native.streamCreate(device)),
    )
    StreamState.#created.set(state.number, new WeakRef(state))
    return state
  }

  /** By CUDA's handle; it may be one of the package's. */
  static of(device: number, number: number): StreamState {
    const own = StreamState.#own.get(device)
    if (own?.number === number) return own
    const created = StreamState.#created.get(number)?.deref()
    return created?.device === device ? created : new StreamState(device, null, number)
  }

  static #of(device: number, handle: StreamHandle): StreamState {
    return new StreamState(device, handle, native.streamHandle(handle))
  }

  /** The stream that memory for calls in this one belongs to. */
  get home(): StreamState {
    return this.handle === null ? StreamState.own(this.device) : this
  }

  end(): void {
    const { handle, number } = this
    if (handle === null) return
    StreamState.#created.delete(number)
    try {
      bound(() => native.streamDestroy(handle))
    } finally {
      this.number = native.streamHandle(handle)
    }
  }
}
