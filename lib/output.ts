/** A result of a call: memory of the caller's, or new memory. */
import type { DType } from './dtype.js'
import { newOperand } from './memory.js'
import type { Operand } from './operand.js'
import { get } from './options.js'
import { resolve } from './resolve.js'
import { Tensor, tensorOf } from './tensor.js'

export class Output {
  private constructor(
    readonly operand: Operand,
    private readonly given: Tensor | null,
    /** Adds to the old contents; otherwise they are overwritten unread. */
    public accumulate: boolean,
  ) {}

  /** Memory that the caller gives as an operand; null where none is given. */
  static from(operands: object, name: string): Output | null {
    return Output.of(name, get('operands', operands, name))
  }

  static of(argument: string, value: unknown): Output | null {
    if (value === undefined) return null
    return new Output(resolve(argument, value), value instanceof Tensor ? value : null, true)
  }

  static fresh(argument: string, dtype: DType, shape: readonly number[]): Output {
    return new Output(newOperand(argument, dtype, shape), null, false)
  }

  /** What the caller gets: the very tensor that was given, where it was one. */
  get tensor(): Tensor {
    return this.given ?? tensorOf(this.operand)
  }
}
