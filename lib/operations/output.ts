/** A result of a call: memory of the caller's, or new memory. */
import type { DType } from '../base/dtype.js'
import { get } from '../base/options.js'
import { newOperand } from '../memory/allocate.js'
import type { Operand } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import { resolve } from '../tensor/resolve.js'
import { Tensor, tensorOf } from '../tensor/tensor.js'

export class Output {
  private constructor(
    readonly operand: Operand,
    /** The caller's tensor; null: the operand is new; undefined: it is the caller's, in another form. */
    private readonly given: Tensor | null | undefined,
    /** Adds to the old contents; otherwise they are overwritten unread. */
    public accumulate: boolean,
  ) {}

  /** Memory that the caller gives as an operand; null where none is given. */
  static from(operands: object, name: string): Output | null {
    return Output.of(name, get('operands', operands, name))
  }

  static of(argument: string, value: unknown): Output | null {
    if (value === undefined) return null
    return new Output(resolve(argument, value), value instanceof Tensor ? value : undefined, true)
  }

  static fresh(argument: string, dtype: DType, shape: readonly number[], placement: Placement | null): Output {
    return new Output(newOperand(argument, dtype, shape, placement), null, false)
  }

  /** What the caller gets: the very tensor that was given, where it was one. */
  get tensor(): Tensor {
    return this.given ?? tensorOf(this.given === null ? this.operand : this.operand.share())
  }
}
