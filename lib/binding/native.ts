/**
 * The native binding: its types, and the one place that loads it.
 *
 * A call is a descriptor of numbers (the fields of `fields`, then four numbers for every operand slot) and the operands
 * themselves in slot order. The binding names its own fields, slots and enumerators, so no number is written down twice.
 * It re-checks every byte length against the problem and never trusts a shape: a mistake above it becomes an error, not
 * a wild access.
 */
import load from 'node-gyp-build'
import { LilyError } from '../base/errors.js'
import { packageRoot } from './root.js'

declare const kind: unique symbol

/** What the binding keeps of a device; when nobody holds it any more it is given back. */
export interface Handle<Kind extends string> {
  readonly [kind]: Kind
}
export type MemoryHandle = Handle<'memory'>
export type StreamHandle = Handle<'stream'>
export type EventHandle = Handle<'event'>
export type GraphHandle = Handle<'graph'>

/** Memory behind an operand: a view of host memory, the package's device memory, that of others, or nothing. */
export type Memory = ArrayBufferView | MemoryHandle | bigint | null

/** A pool's numbers. */
export interface PoolStatistics {
  readonly bytesInUse: number
  readonly bytesCached: number
  readonly peakBytesInUse: number
  readonly blocksInUse: number
  readonly blocksCached: number
  readonly allocations: number
}

export interface NativeDevice {
  id: number
  name: string
  /** Instruction set of a CPU, compute capability of a GPU. */
  detail: string
  memoryBytes: number
  cacheBytes: number
  /** Threads of the CPU backend, multiprocessors of a GPU. */
  parallelism: number
}

export interface NativeBackend {
  name: 'cpu' | 'cuda'
  available: boolean
  /** Why it is not available. */
  reason?: string
  devices: NativeDevice[]
}

/** What the cpu backend has found of the processor. */
export interface NativeProcessor {
  /** Those that it has kernels for, narrowest first, separated by spaces. */
  readonly instructionSets: string
  /** Processors that this process may run on. */
  readonly affinity: number
  /** Whole processors of the cgroup's quota; 0: there is none. */
  readonly quota: number
  readonly physicalCores: number
}

/**
 * Errors thrown (or rejected with) carry `code`, one of the ERR_LILY_ codes, and `cudaError` where the device named one.
 *
 * A descriptor is `fields.length + slots.length * slotFields.length` float64 numbers. Dtypes, routings, ... are given by
 * their numbers in `constants`. An operand that is absent is null, its slot's numbers are then not read.
 */
export interface Native {
  readonly fields: readonly string[]
  readonly slotFields: readonly string[]
  readonly forwardSlots: readonly string[]
  readonly backwardSlots: readonly string[]
  readonly adamwFields: readonly string[]
  readonly adamwParameterFields: readonly string[]
  readonly constants: {
    readonly backend: Readonly<Record<'cpu' | 'cuda', number>>
    readonly dtype: Readonly<Record<'float32' | 'bfloat16' | 'float16', number>>
    readonly routing: Readonly<Record<'batch' | 'sequence' | 'token' | 'uniform' | 'fixed' | 'none', number>>
    readonly pool: Readonly<Record<'probabilities' | 'logits', number>>
    readonly activation: Readonly<Record<'none' | 'relu', number>>
    readonly precision: Readonly<Record<'default' | 'high' | 'tf32', number>>
    readonly roof: Readonly<Record<'multiplyAdd' | 'read' | 'update' | 'bfloat16', number>>
  }
  forward(descriptor: Float64Array, ...operands: Memory[]): void
  forwardAsync(descriptor: Float64Array, ...operands: Memory[]): Promise<void>
  backward(descriptor: Float64Array, ...operands: Memory[]): void
  backwardAsync(descriptor: Float64Array, ...operands: Memory[]): Promise<void>
  /**
   * Fold of deferred gradients of b. The descriptor has the one slot `db`; layer i has `layers[2 * i]` matrices in
   * `partials[i]` and its pooled weights in `weights[i]`, from byte `layers[2 * i + 1]` on (null: one matrix per expert,
   * already weighted).
   */
  fold(descriptor: Float64Array, db: Memory, layers: Float64Array, partials: Memory[], weights: Memory[]): void
  /**
   * A step of AdamW. The descriptor has the numbers of `adamwFields`, then for each parameter those of
   * `adamwParameterFields`; `arrays` has four for each: value, grad, exp_avg, exp_avg_sq, the last two from their first
   * byte on. The norm of all gradients is written to `norm`; null: it is not wanted, and nothing is clipped.
   */
  adamw(descriptor: Float64Array, norm: Memory, arrays: readonly Memory[]): void
  /**
   * The best rate of a roof, by its number in `constants`, with all threads at work: FLOP/s of multiply-adds, or bytes/s
   * of reading, or of updating in place, a buffer of `byteLength`. Takes milliseconds; for benchmarks.
   */
  measureRoof(backend: number, device: number, roof: number, byteLength: number): number
  /** Writes L [r, r], zero above the diagonal, of X Xᵀ = L Lᵀ, X [r, columns], into `l`. On the CPU in float64, as the next two. */
  gramFactor(x: Float64Array, r: number, columns: number, l: Float64Array): void
  /** Writes all eigenvalues of Lᵀ (X Xᵀ) L, the largest first, into `values`. L [r, r] is zero above the diagonal, X [r, columns]. */
  congruenceEigenvalues(l: Float64Array, x: Float64Array, r: number, columns: number, values: Float64Array): void
  /** Writes all eigenvalues of a symmetric matrix, the largest first, into `values`. Reads the lower half, and overwrites it. */
  eigenvalues(lower: Float64Array, n: number, values: Float64Array): void
  backends(): NativeBackend[]
  processor(): NativeProcessor

  // Of CUDA devices. `device` is a number, `stream` a CUDA handle as a number. What is enqueued is not done when a
  // function returns, unless it returns a promise.
  /** Memory of the stream's device, which belongs to that stream. */
  memoryAllocate(byteLength: number, stream: StreamHandle): MemoryHandle
  memoryAddress(memory: MemoryHandle): bigint
  /** Gives the memory back to the pool, once. */
  memoryRelease(memory: MemoryHandle): void
  /** Throws unless an address and all of its bytes are memory of the device. */
  checkPointer(device: number, address: bigint, byteLength: number, argument: string): void
  /** `data` has been read when it returns. */
  upload(device: number, memory: Memory, byteOffset: number, data: ArrayBufferView, stream: number): void
  download(device: number, memory: Memory, byteOffset: number, data: ArrayBufferView, stream: number): Promise<void>
  copy(
    device: number,
    memory: Memory,
    byteOffset: number,
    sourceDevice: number,
    source: Memory,
    sourceOffset: number,
    byteLength: number,
    stream: number,
  ): void
  fill(device: number, memory: Memory, byteOffset: number, byteLength: number, value: number, stream: number): void
  /** The device's own stream. */
  streamOwn(device: number): StreamHandle
  streamCreate(device: number): StreamHandle
  streamHandle(stream: StreamHandle): number
  /** What belongs to it belongs to the device's own stream afterwards, in order. */
  streamDestroy(stream: StreamHandle): void
  /** What `then` is given from now on comes after what `first` has been given. */
  streamOrder(device: number, first: number, thenDevice: number, then: number): void
  streamWait(device: number, stream: number): Promise<void>
  streamWaitEvent(device: number, stream: number, event: EventHandle): void
  eventCreate(device: number): EventHandle
  eventDestroy(event: EventHandle): void
  eventRecord(event: EventHandle, stream: number): void
  eventQuery(event: EventHandle): boolean
  eventWait(event: EventHandle): Promise<void>
  /** Milliseconds. */
  eventElapsed(start: EventHandle, end: EventHandle): number
  /** Between the two the stream records what it is given; the record is a graph. */
  captureBegin(stream: StreamHandle): void
  captureEnd(stream: StreamHandle): GraphHandle
  graphLaunch(graph: GraphHandle, stream: number): void
  graphDestroy(graph: GraphHandle): void
  poolStatistics(backend: number, device: number, pinned: boolean): PoolStatistics
  emptyCache(): void
}

export const native = loadNative()

function loadNative(): Native {
  try {
    return load(packageRoot) as Native
  } catch (cause) {
    throw new LilyError(
      'ERR_LILY_BACKEND_UNAVAILABLE',
      `the native addon does not load on ${process.platform}-${process.arch} (${String(cause)}); ` +
        `install lily-kernels again on this machine, or build it in a checkout with npm ci`,
      { cause },
    )
  }
}
