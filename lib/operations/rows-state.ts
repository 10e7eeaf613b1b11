/** What a forward call of several adapters keeps. Its backward calls read it. */
import { Capture, type Located } from '../memory/capture.js'
import type { DeviceMemory } from '../memory/device-memory.js'
import { isDeviceMemory, type OperandMemory } from '../memory/operand-memory.js'
import type { Operand, Part } from '../memory/operand.js'
import type { Assignment } from './assignment.js'
import type { RowsProblem } from './call.js'
import { type CallState, versionsOf } from './call-state.js'
import type { WeightOperand } from './linear-problem.js'
import type { Problem } from './problem.js'

/** The parameters of an adapter, or of several that are stacked. */
export type Parameters = Pick<Problem, 'a' | 'router' | 'b'>

export class RowsState {
  /** Whether a backward call has run without the option `retain`. */
  isUsed = false
  /** Versions of each of `tensors` in forward; null: none is checked. */
  readonly versions: readonly (readonly (number | undefined)[])[] | null

  constructor(
    readonly problem: RowsProblem,
    readonly x: Operand,
    /** In the order of the list. Each has references of its own to `staged` and `kept`. */
    readonly adapters: readonly CallState[],
    /** What the caller passed: the parameters of each adapter, or one stack of all. */
    readonly tensors: readonly Parameters[],
    /** The weight of the frozen layer below the adapters; null: the adapters alone. */
    readonly weight: WeightOperand | null,
    readonly assignment: Assignment,
    /** As the kernels read them. */
    readonly small: readonly [index: Part, mask: Part | null, scale: Part | null],
    /** The block of the small operands on a device; null: on the host. */
    readonly staged: DeviceMemory | null,
    /** One block for hidden, probabilities and weights of all adapters; null without `save`. */
    readonly kept: OperandMemory | null,
  ) {
    this.versions = kept !== null && Capture.current === null ? tensors.map(versionsOf) : null
  }

  /** All operands and memory that work on a device uses. */
  get located(): (Located | null)[] {
    const { x, tensors, weight, staged, kept } = this
    const keptOnDevice = kept !== null && isDeviceMemory(kept) ? kept : null
    return [x, ...locatedOf(tensors), weight && weight.operand, staged, keptOnDevice]
  }

  /** Releases the memory that the call has allocated, except the memory that its adapters refer to. */
  release(): void {
    if (this.kept !== null && isDeviceMemory(this.kept)) this.kept.release()
    this.staged?.release()
  }

  dispose(): void {
    for (const adapter of this.adapters) adapter.dispose()
    this.release()
  }
}

export function locatedOf(tensors: readonly Parameters[]): (Operand | null)[] {
  return tensors.flatMap(({ a, router, b }) => [a, router, b])
}
