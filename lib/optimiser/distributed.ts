/** What an engine of data parallelism offers to an optimiser; `lily-kernels/mpi` is one. */
import { describe, fail, reading } from '../base/errors.js'
import type { TrainableParameter } from './parameters.js'

/** Options of {@link Distributed.averageGradients}. */
export interface AverageOptions {
  /**
   * The share of this rank: the number of tokens (or sequences) that its loss is a mean over, from 0 to 2^53 - 1. The result
   * is sum_r weight_r grad_r / sum_r weight_r. 'sum': gradients are added, for losses that are sums. Default 1.
   */
  readonly weight?: number | 'sum' | undefined
  /** Size of the parts that are exchanged at once, in bytes. All ranks pass the same. Default 32 MiB. */
  readonly bucketBytes?: number | undefined
  /**
   * What must be equal on all ranks besides the parameters, by the name that errors give it, such as `{ lr: 1e-3 }`; ranks that
   * differ are refused. AdamW passes its options and the number of its steps. Default: nothing.
   */
  readonly equal?: Readonly<Record<string, string | number>> | undefined
}

/** An engine of data parallelism, such as the module `lily-kernels/mpi`. */
export interface Distributed {
  /**
   * Replaces the gradients of every rank by their average, which has the same bits on every rank.
   *
   * @throws LilyError (as a rejection) as `averageGradients` of lily-kernels/mpi, if that is the engine; what another engine
   *   rejects with
   */
  averageGradients(parameters: ReadonlyMap<string, TrainableParameter>, options?: AverageOptions): Promise<void>
}

/** What a step returns: with an engine a promise of the step. */
// eslint-disable-next-line @typescript-eslint/no-invalid-void-type -- a return type
export type Stepped<D extends Distributed | undefined> = D extends Distributed ? Promise<void> : void

/**
 * Checks the engine that an optimiser is given.
 *
 * @returns null if it is undefined
 */
export function readDistributed(value: unknown): Distributed | null {
  if (value === undefined) return null
  const { averageGradients, rank } = reading('distributed', () => pick(value))
  if (typeof averageGradients === 'function') return value as Distributed
  const remedy = "import * as mpi from 'lily-kernels/mpi', and pass mpi"
  return fail(
    'ERR_LILY_ARGUMENT',
    'distributed',
    rank === undefined
      ? `expected an engine of data parallelism, got ${describe(value)}; ${remedy}`
      : `expected an engine of data parallelism, got what init() returns; ${remedy} itself`,
  )
}

function pick(value: unknown): { averageGradients?: unknown; rank?: unknown } {
  const { averageGradients, rank } = (value ?? {}) as { averageGradients?: unknown; rank?: unknown }
  return { averageGradients, rank }
}

/** Checks the share of a rank; undefined gives 1. */
export function readWeight(value: unknown): number | 'sum' {
  if (value === undefined) return 1
  if (value === 'sum') return value
  if (typeof value === 'number' && value >= 0 && value <= Number.MAX_SAFE_INTEGER) return value
  return fail(
    'ERR_LILY_ARGUMENT',
    'weight',
    `expected the number of tokens of this rank, from 0 to 2^53 - 1, or 'sum', got ${describe(value)}`,
  )
}
