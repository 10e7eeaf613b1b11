/**
 * The native binding: its types, and the one place that loads it.
 *
 * A call is a descriptor of numbers (the fields of `fields`, then four numbers for every operand slot) and the operands
 * themselves in slot order. The binding names its own fields, slots and enumerators, so no number is written down twice.
 * It re-checks every byte length against the problem and never trusts a shape: a mistake above it becomes an error, not
 * a wild access.
 */
import load from 'node-gyp-build'
import { LilyError } from './errors.js'
import { packageRoot } from './root.js'

/** Memory behind an operand: a view of host memory, the address of device memory, or nothing. */
export type Memory = ArrayBufferView | bigint | null

export interface NativeDevice {
  id: number
  name: string
  /** Instruction set of a CPU, compute capability of a GPU. */
  detail: string
  memoryBytes: number
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
  readonly constants: {
    readonly backend: Readonly<Record<'cpu' | 'cuda', number>>
    readonly dtype: Readonly<Record<'float32' | 'bfloat16' | 'float16', number>>
    readonly routing: Readonly<Record<'batch' | 'sequence' | 'token' | 'uniform' | 'fixed' | 'none', number>>
    readonly pool: Readonly<Record<'probabilities' | 'logits', number>>
    readonly activation: Readonly<Record<'none' | 'relu', number>>
    readonly precision: Readonly<Record<'default' | 'high' | 'tf32', number>>
    readonly roof: Readonly<Record<'multiplyAdd' | 'read' | 'update', number>>
  }
  forward(descriptor: Float64Array, ...operands: Memory[]): void
  forwardAsync(descriptor: Float64Array, ...operands: Memory[]): Promise<void>
  backward(descriptor: Float64Array, ...operands: Memory[]): void
  backwardAsync(descriptor: Float64Array, ...operands: Memory[]): Promise<void>
  /**
   * Fold of deferred gradients of b. The descriptor has the one slot `db`; layer i has `groups[i]` slabs in
   * `partials[i]` and its pooled weights in `weights[i]` (null: one slab per expert, already weighted).
   */
  fold(descriptor: Float64Array, db: Memory, groups: Float64Array, partials: Memory[], weights: Memory[]): void
  /**
   * The best rate of a roof, by its number in `constants`, with all threads at work: FLOP/s of multiply-adds, or bytes/s
   * of reading, or of updating in place, a buffer of `byteLength`. Takes milliseconds; for benchmarks.
   */
  measureRoof(backend: number, device: number, roof: number, byteLength: number): number
  backends(): NativeBackend[]
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
