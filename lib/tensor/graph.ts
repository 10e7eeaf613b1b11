/** CUDA graphs: what a function enqueues, recorded once and launched again as a whole. */
import { describe, fail, LilyError } from '../base/errors.js'
import { checkKeys, type Known } from '../base/options.js'
import { disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { bound, settled } from '../binding/errors.js'
import { type GraphHandle, native, type StreamHandle } from '../binding/native.js'
import { readCudaDevice } from '../memory/backends.js'
import { Capture, refuseInCapture } from '../memory/capture.js'
import { keepUntilPassed } from '../memory/placement.js'
import { StreamState } from '../memory/stream-state.js'
import type { CudaDevice } from './stream.js'

const OPTIONS: Known = new Set(['device'])

/** Made by {@link captureGraph}. One that is not disposed of goes when it is garbage-collected. */
export class Graph {
  #handle: GraphHandle | null
  readonly #capture: Capture

  /** @internal */
  constructor(handle: GraphHandle, capture: Capture) {
    this.#handle = handle
    this.#capture = capture
  }

  get isDisposed(): boolean {
    return this.#handle === null
  }

  /**
   * Enqueues all that was recorded, on the same memory, in the device's default stream: after what its operands' streams
   * have been given, and before what they will be given. Two replays run one after the other.
   *
   * @throws LilyError ERR_LILY_DISPOSED; ERR_LILY_CUDA where CUDA refuses
   */
  replay(): this {
    const handle = this.#open()
    refuseInCapture('a graph', 'replay it before or after')
    const { home, joined, owners } = this.#capture
    const { device, number } = home
    bound(() => {
      for (const other of joined) native.streamOrder(other.device, other.number, device, number)
      native.graphLaunch(handle, number)
      for (const other of joined) native.streamOrder(device, number, other.device, other.number)
    })
    if (owners.length > 0) keepUntilPassed(home, owners)
    return this
  }

  /** Resolves when all replays until now are done. It never blocks the event loop. */
  async synchronize(): Promise<void> {
    this.#open()
    const { device, number } = this.#capture.home
    await settled(bound(() => native.streamWait(device, number)))
  }

  /** Gives back, after replays that are enqueued, what the graph alone holds. Tensors that were made in it stay. */
  dispose(): void {
    const handle = this.#handle
    if (handle === null) return
    this.#handle = null
    try {
      bound(() => {
        native.graphDestroy(handle)
      })
    } finally {
      end(this.#capture)
    }
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  [inspectSymbol](): string {
    return this.#handle === null ? 'Graph { disposed }' : `Graph { cuda:${this.#capture.home.device} }`
  }

  #open(): GraphHandle {
    if (this.#handle !== null) return this.#handle
    throw new LilyError('ERR_LILY_DISPOSED', 'this graph has been disposed of; use it before dispose()')
  }
}

/**
 * Records what `fn` enqueues on a device, without running it. A replay is one launch instead of one a kernel, which is
 * what small work waits for; operands in other streams than the device's default one add the ordering of the streams.
 *
 * Every call in `fn` whose operands are on the device is recorded: operations, copies and fills, a model's layers. It
 * reads and writes the same memory at each replay: new inputs are copied into the old operands, and results, those that a
 * call in `fn` has made included, are overwritten. The graph keeps all of that memory, and owners of other memory; foreign
 * streams that operands name must outlive it. What `fn` does on the host is done once: index operands that are there are
 * copied as they are now. Nothing in `fn` may wait.
 *
 * @param fn synchronous; what it returns is not looked at
 * @param options.device default: cuda:0
 * @throws LilyError what `fn` throws, of which nothing is kept then; ERR_LILY_ARGUMENT for an async `fn`, and for calls in
 *   it that wait, name a stream, record or wait for an event, or are steps of an optimiser; ERR_LILY_CUDA for what CUDA
 *   refuses to record; ERR_LILY_BACKEND_UNAVAILABLE where there is no such device
 */
export function captureGraph(fn: () => void, options: { readonly device?: CudaDevice | undefined } = {}): Graph {
  if (typeof fn !== 'function') fail('ERR_LILY_ARGUMENT', 'fn', `expected a function, got ${describe(fn)}`)
  refuseInCapture('a capture', 'capture one graph after the other')
  checkKeys('options', options, OPTIONS)
  const { id } = readCudaDevice('device', options.device ?? { type: 'cuda' })
  const capture = new Capture(StreamState.create(id))
  try {
    return new Graph(record(fn, capture), capture)
  } catch (error) {
    end(capture)
    throw error
  }
}

function record(fn: () => unknown, capture: Capture): GraphHandle {
  const stream = capture.stream.handle
  if (stream === null) throw new Error('a capture has a stream of the package')
  bound(() => {
    native.captureBegin(stream)
  })
  try {
    const result = capture.record(fn)
    if (result instanceof Promise) refuseAsync(result)
  } catch (error) {
    discard(stream)
    throw error
  }
  return bound(() => native.captureEnd(stream))
}

function refuseAsync(result: Promise<unknown>): never {
  // What it throws later is not worth an end of the process.
  result.catch(() => undefined)
  return fail(
    'ERR_LILY_ARGUMENT',
    'fn',
    'expected a function that does not wait, got an async one; await outside of it',
  )
}

/** Ends a capture that has failed for a reason of its own. */
function discard(stream: StreamHandle): void {
  try {
    native.graphDestroy(native.captureEnd(stream))
  } catch {
    // CUDA refuses to make a graph of what it refused to record; that is the same failure again.
  }
}

function end(capture: Capture): void {
  capture.release()
  capture.stream.end()
}
