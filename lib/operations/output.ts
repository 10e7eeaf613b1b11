/** A result of a call, in memory that the caller gives or in new memory. */
import type { DType } from '../base/dtype.js'
import { newOperand } from '../memory/allocate.js'
import { refuseReadOnly } from '../memory/checks.js'
import { isHostMemory } from '../memory/operand-memory.js'
import type { Operand } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import { resolve } from '../tensor/resolve.js'
import { Tensor, tensorOf } from '../tensor/tensor.js'

export class Output {
  private constructor(
    readonly operand: Operand,
    /** The tensor that the caller gives; undefined: the caller gives memory in another form; null: new memory. */
    private readonly given: Tensor | null | undefined,
    /** Whether the call adds to the old contents; otherwise it overwrites them and does not read them. */
    public accumulate: boolean,
  ) {}

  /** Memory that the caller gives as an operand; null if there is none. */
  static of(argument: string, value: unknown): Output | null {
    if (value === undefined) return null
    const operand = resolve(argument, value)
    if (operand.isReadOnly) refuseReadOnly(argument)
    return new Output(operand, value instanceof Tensor ? value : undefined, true)
  }

  static fresh(argument: string, dtype: DType, shape: readonly number[], placement: Placement | null): Output {
    return new Output(newOperand(argument, dtype, shape, placement), null, false)
  }

  /** Whether it is in new memory. */
  get isNew(): boolean {
    return this.given === null
  }

  /** The output of a further call, which adds to it. */
  addedTo(): Output {
    return new Output(this.operand, this.given, true)
  }

  /** The same output in other memory. */
  in(operand: Operand): Output {
    return new Output(operand, this.given, this.accumulate)
  }

  /** The result for the caller: the same tensor object if the caller gave a tensor. */
  get tensor(): Tensor {
    const { operand, given } = this
    // A reference of its own, unless the memory is new or has no references to count.
    return given ?? tensorOf(given === null || isHostMemory(operand.memory) ? operand : operand.share())
  }
}
