/** CUDA graphs: the work that a function enqueues, captured once and launched as a whole any number of times. */
import { describe, fail, LilyError } from '../base/errors.js'
import { checkKeys, type Known } from '../base/options.js'
import { disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { bound, settled } from '../binding/errors.js'
import { type GraphHandle, native, type StreamHandle } from '../binding/native.js'
import { readCudaDevice } from '../memory/backends.js'
import { Capture, refuseInCapture } from '../memory/capture.js'
import { keepUntilComplete } from '../memory/placement.js'
import { deviceText } from '../memory/device.js'
import { reported } from '../memory/reports.js'
import { StreamState } from '../memory/stream-state.js'
import type { CudaDevice } from './stream.js'

const OPTIONS: Known = new Set(['device'])

/**
 * An executable CUDA graph, created by {@link captureGraph}. One that is not disposed of is freed when it is
 * garbage-collected.
 */
export class Graph {
  #handle: GraphHandle | null
  readonly #capture: Capture

  /** @internal */
  constructor(handle: GraphHandle, capture: Capture) {
    this.#handle = handle
    this.#capture = capture
  }

  /** Whether `dispose()` has been called. */
  get isDisposed(): boolean {
    return this.#handle === null
  }

  /**
   * Enqueues the captured work, on the same memory, in `Stream.default` of the device. It is ordered after the work
   * enqueued in its operands' streams so far, and before the work enqueued there later. Two replays run one after the
   * other.
   *
   * @throws LilyError ERR_LILY_DISPOSED, ERR_LILY_ARGUMENT inside a capture, ERR_LILY_CUDA
   */
  replay(): this {
    const handle = this.#open()
    refuseInCapture('a replay', 'call replay() before or after')
    const { replayStream, joined, owners } = this.#capture
    const { device, cudaStream } = replayStream
    bound(() => {
      for (const other of joined) native.streamOrder(other.device.id, other.cudaStream, device.id, cudaStream)
      native.graphLaunch(handle, cudaStream)
      for (const other of joined) native.streamOrder(device.id, cudaStream, other.device.id, other.cudaStream)
    })
    if (owners.length > 0) keepUntilComplete(replayStream, owners)
    return this
  }

  /**
   * Resolves when all replays so far are complete. It does not block the event loop.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CUDA, ERR_LILY_DISPOSED
   */
  async synchronize(): Promise<void> {
    this.#open()
    const { device, cudaStream } = this.#capture.replayStream
    await settled(bound(() => native.streamWait(device.id, cudaStream)))
    await reported(device)
  }

  /**
   * Frees the graph, and the memory that only it uses, once the enqueued replays are complete. Tensors created in it
   * stay valid.
   *
   * @throws LilyError ERR_LILY_CUDA
   */
  dispose(): void {
    const handle = this.#handle
    if (handle === null) return
    this.#handle = null
    try {
      bound(() => {
        native.graphDestroy(handle)
      })
    } finally {
      release(this.#capture)
    }
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  [inspectSymbol](): string {
    return this.#handle === null ? 'Graph { disposed }' : `Graph { ${deviceText(this.#capture.replayStream.device)} }`
  }

  #open(): GraphHandle {
    if (this.#handle !== null) return this.#handle
    throw new LilyError('ERR_LILY_DISPOSED', 'this graph is disposed of; use it before dispose()')
  }
}

/**
 * Captures the work that `fn` enqueues on a device into a CUDA graph, without running it. A replay is one launch
 * instead of one per kernel; launches dominate the time of calls with few tokens. Operands that belong to another
 * stream than `Stream.default(device)` add event synchronisation to each replay.
 *
 * All calls in `fn` with operands on the device are captured: operations, copies and fills, the layers of a model.
 * Every replay reads and writes the same memory, including results created in `fn`. To change an input, copy new values
 * into the same operand. The graph keeps this memory, and the owners of foreign memory, until `dispose()`. A foreign
 * stream that an operand names must outlive the graph.
 *
 * What `fn` does on the host happens once, during the capture: a mask, offsets or weights in host memory are copied as
 * they are then. No call in `fn` may wait for the device.
 *
 * @param fn a synchronous function, whose return value is ignored
 * @param options.device default: cuda:0
 * @throws what `fn` throws, after which there is no graph; LilyError ERR_LILY_ARGUMENT for an async `fn`, and for calls
 *   in it that wait, name a stream, record or wait for an event, or are steps of an optimiser; ERR_LILY_CUDA for work
 *   that CUDA cannot capture; ERR_LILY_DEVICE, ERR_LILY_BACKEND_UNAVAILABLE
 * @example
 * const graph = captureGraph(() => void lilyForward({ x, a, router, b, y }, { save: false }))
 * x.upload(numbers)
 * graph.replay()
 */
export function captureGraph(fn: () => void, options: { readonly device?: CudaDevice | undefined } = {}): Graph {
  if (typeof fn !== 'function') fail('ERR_LILY_ARGUMENT', 'fn', `expected a function, got ${describe(fn)}`)
  refuseInCapture('captureGraph', 'call it before or after')
  checkKeys('options', options, OPTIONS)
  const place = readCudaDevice('device', options.device === undefined ? { type: 'cuda' } : options.device)
  const capture = new Capture(StreamState.create(place))
  try {
    return new Graph(captureIn(capture, fn), capture)
  } catch (error) {
    release(capture)
    throw error
  }
}

function captureIn(capture: Capture, fn: () => unknown): GraphHandle {
  const stream = capture.stream.handle as StreamHandle // created by captureGraph
  bound(() => {
    native.captureBegin(stream)
  })
  try {
    const result = capture.run(fn)
    if (result instanceof Promise) refuseAsync(result)
  } catch (error) {
    discard(stream)
    throw error
  }
  return bound(() => native.captureEnd(stream))
}

function refuseAsync(result: Promise<unknown>): never {
  // The promise is dropped here; without a handler its rejection would end the process.
  result.catch(() => undefined)
  return fail(
    'ERR_LILY_ARGUMENT',
    'fn',
    'expected a synchronous function, got one that returns a promise; await before or after captureGraph',
  )
}

/** Ends the capture of `stream` after an error, which the caller rethrows. */
function discard(stream: StreamHandle): void {
  try {
    native.graphDestroy(native.captureEnd(stream))
  } catch {
    // An error during the capture invalidates it, and ending an invalidated capture fails too.
  }
}

/** Releases what a capture keeps, and its stream. */
function release(capture: Capture): void {
  capture.release()
  capture.stream.destroy()
}
