/** A checked call of a frozen linear layer. */
import type { DType } from '../base/dtype.js'
import type { Operand, Part } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import type { Output } from './output.js'
import type { Precision } from './problem.js'

/** What determines the packed form of a weight. */
export interface LinearProblem {
  /** [d_out, d_in] */
  readonly weight: Operand
  /** False: y (+)= x W^T + bias. True: dx (+)= dy W. */
  readonly transposed: boolean
  /** Type of x and y, or of dy and dx. */
  readonly dtype: DType
  readonly precision: Precision
}

/** A call that is ready to run. If it is transposed, x is dy and y is dx. */
export interface LinearCall {
  readonly problem: LinearProblem
  readonly x: Operand
  readonly packed: Part | null
  readonly bias: Operand | null
  readonly y: Output
  readonly placement: Placement | null
}
