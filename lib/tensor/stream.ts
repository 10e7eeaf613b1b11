/** CUDA streams and events. */
import { CREATE, checkCreate } from '../base/create.js'
import { describeOther, fail, LilyError } from '../base/errors.js'
import { disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { bound, settled } from '../binding/errors.js'
import { type EventHandle, native } from '../binding/native.js'
import { readCudaDevice } from '../memory/backends.js'
import { refuseInCapture } from '../memory/capture.js'
import { type Device, deviceText } from '../memory/device.js'
import { reported } from '../memory/reports.js'
import { StreamState } from '../memory/stream-state.js'

/** The state of a Stream; undefined for any other value. Throws ERR_LILY_DISPOSED if the stream is disposed of. */
let streamStateOf: (argument: string, stream: unknown) => StreamState | undefined

/** A CUDA device. */
export interface CudaDevice {
  /** 'cuda'. */
  readonly type: 'cuda'
  /** CUDA device ID. Default 0. */
  readonly id?: number | undefined
}

/**
 * A CUDA stream: work enqueued in one stream runs in order, work in two streams may run concurrently. A call runs in
 * the stream that its operands share, or in `options.stream`. The package orders a call with the other streams of its
 * operands.
 *
 * A stream that is not disposed of is destroyed when it is garbage-collected.
 *
 * @example
 * const stream = Stream.create({ type: 'cuda', id: 0 })
 * lilyForward({ x, a, router, b }, { stream })
 * await stream.synchronize()
 */
export class Stream {
  #state: StreamState | null

  private constructor(key: symbol, state: StreamState) {
    checkCreate(key, 'Stream', 'Stream.create(device)')
    this.#state = state
  }

  static {
    streamStateOf = (argument, stream) => {
      const state = stream instanceof Stream ? stream.#state : undefined
      return state === null
        ? fail('ERR_LILY_DISPOSED', argument, 'this stream is disposed of; use it before dispose()')
        : state
    }
  }

  /**
   * Creates a stream.
   *
   * @param device default: cuda:0
   * @throws LilyError ERR_LILY_DEVICE, ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_CUDA
   */
  static create(device: CudaDevice = { type: 'cuda' }): Stream {
    return new Stream(CREATE, StreamState.create(readCudaDevice('device', device)))
  }

  /**
   * The stream in which calls on a device run by default. There is one for each device, which this package creates; it
   * is not CUDA's default stream. `dispose()` does not destroy it.
   *
   * @param device default: cuda:0
   * @throws LilyError ERR_LILY_DEVICE, ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_CUDA
   */
  static default(device: CudaDevice = { type: 'cuda' }): Stream {
    return new Stream(CREATE, StreamState.default(readCudaDevice('device', device)))
  }

  /**
   * The CUDA device of the stream.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  get device(): Device {
    return this.#open().device
  }

  /**
   * The handle, a cudaStream_t, for other libraries.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  get handle(): bigint {
    return BigInt(this.#open().cudaStream)
  }

  /** Whether `dispose()` has been called. */
  get isDisposed(): boolean {
    return this.#state === null
  }

  /**
   * Resolves when all work enqueued in the stream so far is complete. It does not block the event loop.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CUDA if the work failed, ERR_LILY_DISPOSED
   */
  async synchronize(): Promise<void> {
    const { device, cudaStream } = this.#open()
    await settled(bound(() => native.streamWait(device.id, cudaStream)))
    await reported(device)
  }

  /**
   * Makes all work enqueued in this stream from now on wait for the event's last `record()`, as cudaStreamWaitEvent
   * does. The call itself does not wait.
   *
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED, ERR_LILY_CUDA
   */
  waitEvent(event: Event): this {
    const { device, cudaStream } = this.#open()
    const handle = eventHandleOf('event', event)
    refuseInCapture('waitEvent', 'leave it out: captured calls run in the order of the function')
    bound(() => native.streamWaitEvent(device.id, cudaStream, handle))
    return this
  }

  /**
   * Destroys the stream once its work is complete. Its memory then belongs to the device's default stream.
   *
   * @throws LilyError ERR_LILY_CUDA
   */
  dispose(): void {
    const state = this.#state
    this.#state = null
    if (state !== null && state !== StreamState.default(state.device)) state.destroy()
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  [inspectSymbol](): string {
    const state = this.#state
    return state === null
      ? 'Stream { disposed }'
      : `Stream { ${deviceText(state.device)}, handle 0x${state.cudaStream.toString(16)} }`
  }

  #open(): StreamState {
    if (this.#state !== null) return this.#state
    throw new LilyError('ERR_LILY_DISPOSED', 'this stream is disposed of; use it before dispose()')
  }
}

/** The state of a Stream that the caller passed. */
export function openStream(argument: string, stream: unknown): StreamState {
  const state = streamStateOf(argument, stream)
  if (state !== undefined) return state
  return fail(
    'ERR_LILY_ARGUMENT',
    argument,
    `expected a Stream of this package, got ${describeOther(stream, 'Stream')}`,
  )
}

/**
 * Reads the option `stream` of a call: a Stream of this package, or a cudaStream_t.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED
 */
export function readStreamValue(value: unknown): StreamState | number {
  return streamStateOf('stream', value) ?? readStreamHandle('stream', value)
}

/**
 * Reads a cudaStream_t; 1 is cudaStreamLegacy, 2 is cudaStreamPerThread.
 *
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function readStreamHandle(argument: string, value: unknown): number {
  const handle = typeof value === 'bigint' ? Number(value) : value
  if (Number.isSafeInteger(handle) && (handle as number) > 0) return handle as number
  return fail(
    'ERR_LILY_ARGUMENT',
    argument,
    `expected a Stream, or a cudaStream_t as a bigint or an integer (1: legacy, 2: per-thread), got ${describeOther(value, 'Stream')}`,
  )
}

let eventHandleOf: (argument: string, event: unknown) => EventHandle

/**
 * A CUDA event: marks a point in the work of a stream. Other streams and the host can wait for it, and two events
 * measure the time between them.
 *
 * @example
 * const [start, end] = [Event.create(), Event.create()]
 * start.record()
 * lilyForward({ x, a, router, b })
 * end.record()
 * await end.synchronize()
 * console.log(`${start.elapsedTime(end)} ms`)
 */
export class Event {
  #handle: EventHandle | null
  #recorded = false
  /** The CUDA device of the event. */
  readonly device: Device

  private constructor(key: symbol, device: Device) {
    checkCreate(key, 'Event', 'Event.create(device)')
    this.device = device
    this.#handle = bound(() => native.eventCreate(device.id))
  }

  static {
    eventHandleOf = (argument, event) => {
      const handle = event instanceof Event ? event.#handle : undefined
      if (handle === undefined) {
        fail('ERR_LILY_ARGUMENT', argument, `expected an Event of this package, got ${describeOther(event, 'Event')}`)
      }
      return handle ?? fail('ERR_LILY_DISPOSED', argument, 'this event is disposed of; use it before dispose()')
    }
  }

  /**
   * Creates an event.
   *
   * @param device default: cuda:0
   * @throws LilyError ERR_LILY_DEVICE, ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_CUDA
   */
  static create(device: CudaDevice = { type: 'cuda' }): Event {
    return new Event(CREATE, readCudaDevice('device', device))
  }

  /** Whether `dispose()` has been called. */
  get isDisposed(): boolean {
    return this.#handle === null
  }

  [inspectSymbol](): string {
    if (this.#handle === null) return 'Event { disposed }'
    return `Event { ${deviceText(this.device)}${this.#recorded ? ', recorded' : ''} }`
  }

  /**
   * Records the event after all work enqueued in a stream so far. A later record replaces this one.
   *
   * @param stream default: `Stream.default` of the event's device
   * @throws LilyError ERR_LILY_DEVICE, ERR_LILY_ARGUMENT inside a capture, ERR_LILY_DISPOSED, ERR_LILY_CUDA
   */
  record(stream?: Stream): this {
    const handle = this.#open()
    refuseInCapture("an event's record()", 'call it before or after')
    const state = stream === undefined ? StreamState.default(this.device) : openStream('stream', stream)
    if (state.device !== this.device) {
      fail(
        'ERR_LILY_DEVICE',
        'stream',
        `expected a stream of ${deviceText(this.device)}, the device of the event, got one of ${deviceText(state.device)}`,
      )
    }
    bound(() => native.eventRecord(handle, state.cudaStream))
    this.#recorded = true
    return this
  }

  /**
   * Whether the work before the last record is complete; true if there is no record, as with cudaEventQuery.
   *
   * @throws LilyError ERR_LILY_DISPOSED, ERR_LILY_CUDA
   */
  query(): boolean {
    const handle = this.#open()
    return bound(() => native.eventQuery(handle))
  }

  /**
   * Resolves when the work before the last record is complete. It does not block the event loop.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CUDA, ERR_LILY_DISPOSED
   */
  async synchronize(): Promise<void> {
    const handle = this.#open()
    await settled(bound(() => native.eventWait(handle)))
  }

  /**
   * Milliseconds from this event to `end`, a later one. Both must be complete.
   *
   * @throws LilyError ERR_LILY_ARGUMENT if an event is not recorded or not complete, ERR_LILY_DISPOSED, ERR_LILY_CUDA
   */
  elapsedTime(end: Event): number {
    const start = this.#open()
    const last = eventHandleOf('end', end)
    for (const [name, event] of [
      ['this event', this],
      ['end', end],
    ] as const) {
      if (!event.#recorded) fail('ERR_LILY_ARGUMENT', name, 'is not recorded; call record() first')
      if (!event.query()) fail('ERR_LILY_ARGUMENT', name, 'is not complete; await its synchronize() first')
    }
    return bound(() => native.eventElapsed(start, last))
  }

  /** Destroys the event. Calling it again has no effect. Throws nothing. */
  dispose(): void {
    if (this.#handle !== null) native.eventDestroy(this.#handle)
    this.#handle = null
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  #open(): EventHandle {
    if (this.#handle !== null) return this.#handle
    throw new LilyError('ERR_LILY_DISPOSED', 'this event is disposed of; use it before dispose()')
  }
}
