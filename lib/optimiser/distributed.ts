/** What an engine of data parallelism offers to an optimiser; `lily-kernels/mpi` is one. */
import type { TrainableParameter } from './parameters.js'

/** Options of {@link Distributed.averageGradients}. */
export interface AverageOptions {
  /**
   * The share of this rank: the number of tokens (or sequences) that its loss is a mean over, from 0. The result is
   * sum_r weight_r grad_r / sum_r weight_r. 'sum': gradients are added, for losses that are sums. Default 1.
   */
  readonly weight?: number | 'sum' | undefined
  /** Size of the parts that are exchanged at once, in bytes. All ranks pass the same. Default 32 MiB. */
  readonly bucketBytes?: number | undefined
}

/** An engine of data parallelism, such as the module `lily-kernels/mpi`. */
export interface Distributed {
  /** Replaces the gradients of every rank by their average, which has the same bits on every rank. */
  averageGradients(parameters: ReadonlyMap<string, TrainableParameter>, options?: AverageOptions): Promise<void>
}
