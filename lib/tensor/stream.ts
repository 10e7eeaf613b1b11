/** CUDA streams and events of the package. */
import { describe, fail, LilyError } from '../base/errors.js'
import { disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { bound, settled } from '../binding/errors.js'
import { type EventHandle, native } from '../binding/native.js'
import { readCudaDevice } from '../memory/backends.js'
import { refuseInCapture } from '../memory/capture.js'
import { cudaDevice, type Device } from '../memory/device.js'
import { StreamState } from '../memory/stream-state.js'

/** The state behind a stream. Throws where it has been disposed of. */
export let streamStateOf: (argument: string, stream: Stream) => StreamState

/** A CUDA device as callers name it; `id` is 0 where it is left out. */
export interface CudaDevice {
  readonly type: 'cuda'
  readonly id?: number | undefined
}

/**
 * A queue of work on a CUDA device: what is enqueued in one stream runs in order, what is enqueued in two may run at the
 * same time. Calls whose operands share a stream run in it; `options.stream` chooses another, and the package then orders
 * the two by itself.
 *
 * A stream that is not disposed of ends when it is garbage-collected.
 */
export class Stream {
  #state: StreamState | null

  private constructor(state: StreamState) {
    this.#state = state
  }

  static {
    streamStateOf = (argument, stream) => {
      if (stream.#state !== null) return stream.#state
      return fail('ERR_LILY_DISPOSED', argument, 'this stream has been disposed of; use it before dispose()')
    }
  }

  /**
   * A new stream.
   *
   * @throws LilyError ERR_LILY_BACKEND_UNAVAILABLE where there is no such device
   */
  static create(device: CudaDevice = { type: 'cuda' }): Stream {
    return new Stream(StreamState.create(readCudaDevice('device', device).id))
  }

  /** The stream that calls on a device run in when nothing else is said. Disposing of it does nothing to it. */
  static default(device: CudaDevice = { type: 'cuda' }): Stream {
    return new Stream(StreamState.own(readCudaDevice('device', device).id))
  }

  get device(): Device {
    return cudaDevice(this.#open().device)
  }

  /** CUDA's handle, a cudaStream_t, for other libraries. */
  get handle(): bigint {
    return BigInt(this.#open().number)
  }

  get isDisposed(): boolean {
    return this.#state === null
  }

  /**
   * Resolves when all that the stream has been given until now is done. It never blocks the event loop.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CUDA when the work has failed
   */
  async synchronize(): Promise<void> {
    const { device, number } = this.#open()
    await settled(bound(() => native.streamWait(device, number)))
  }

  /** What this stream is given from now on waits for the event's last record. The caller does not wait. */
  waitEvent(event: Event): this {
    const { device, number } = this.#open()
    const handle = eventHandleOf('event', event)
    refuseInCapture('waiting for an event', 'the order of the calls in it is that of the function')
    bound(() => native.streamWaitEvent(device, number, handle))
    return this
  }

  /** Ends the stream after its work. Memory that belongs to it belongs to the device's default stream from then on. */
  dispose(): void {
    const state = this.#state
    this.#state = null
    if (state !== null && state !== StreamState.own(state.device)) state.end()
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  [inspectSymbol](): string {
    const state = this.#state
    return state === null
      ? 'Stream { disposed }'
      : `Stream { cuda:${state.device}, handle 0x${state.number.toString(16)} }`
  }

  #open(): StreamState {
    if (this.#state !== null) return this.#state
    throw new LilyError('ERR_LILY_DISPOSED', 'this stream has been disposed of; use it before dispose()')
  }
}

let eventHandleOf: (argument: string, event: unknown) => EventHandle

/** A point in a stream's work, which other streams and the host can wait for, and between two of which time is measured. */
export class Event {
  #handle: EventHandle | null
  #recorded = false
  readonly device: Device

  private constructor(device: Device) {
    this.device = device
    this.#handle = bound(() => native.eventCreate(device.id))
  }

  static {
    eventHandleOf = (argument, event) => {
      if (!(event instanceof Event)) {
        fail('ERR_LILY_ARGUMENT', argument, `expected an Event of lily-kernels, got ${describe(event)}`)
      }
      if (event.#handle !== null) return event.#handle
      return fail('ERR_LILY_DISPOSED', argument, 'this event has been disposed of; use it before dispose()')
    }
  }

  /** @throws LilyError ERR_LILY_BACKEND_UNAVAILABLE where there is no such device */
  static create(device: CudaDevice = { type: 'cuda' }): Event {
    return new Event(readCudaDevice('device', device))
  }

  get isDisposed(): boolean {
    return this.#handle === null
  }

  /** Marks what the stream (the device's default one, if none is given) has been given until now. May be repeated. */
  record(stream?: Stream): this {
    const handle = this.#open()
    refuseInCapture("an event's record", 'record it before or after')
    const state = stream === undefined ? StreamState.own(this.device.id) : streamStateOf('stream', stream)
    if (state.device !== this.device.id) {
      fail('ERR_LILY_DEVICE', 'stream', `is of cuda:${state.device}, but the event is of cuda:${this.device.id}`)
    }
    bound(() => native.eventRecord(handle, state.number))
    this.#recorded = true
    return this
  }

  /** Whether the stream has passed the record; true where there is none. */
  query(): boolean {
    const handle = this.#open()
    return bound(() => native.eventQuery(handle))
  }

  /** Resolves when the stream has passed the record. It never blocks the event loop. */
  async synchronize(): Promise<void> {
    const handle = this.#open()
    await settled(bound(() => native.eventWait(handle)))
  }

  /**
   * Milliseconds from this event to a later one, both recorded and passed.
   *
   * @throws LilyError ERR_LILY_ARGUMENT for an event that is not recorded, or not passed yet
   */
  elapsedTime(end: Event): number {
    const start = this.#open()
    const last = eventHandleOf('end', end)
    for (const [name, event] of [
      ['this event', this],
      ['end', end],
    ] as const) {
      if (!event.#recorded) fail('ERR_LILY_ARGUMENT', name, 'has not been recorded; call record() first')
      if (!event.query()) fail('ERR_LILY_ARGUMENT', name, 'has not been passed yet; await its synchronize() first')
    }
    return bound(() => native.eventElapsed(start, last))
  }

  dispose(): void {
    if (this.#handle !== null) native.eventDestroy(this.#handle)
    this.#handle = null
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  #open(): EventHandle {
    if (this.#handle !== null) return this.#handle
    throw new LilyError('ERR_LILY_DISPOSED', 'this event has been disposed of; use it before dispose()')
  }
}
