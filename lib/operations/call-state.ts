/** The memory that a forward call allocates beside y. Its backward calls and the fold read it. */
import type { DeviceMemory } from '../memory/device-memory.js'
import { Capture } from '../memory/capture.js'
import { isDeviceMemory, type OperandMemory } from '../memory/operand-memory.js'
import type { Part } from '../memory/operand.js'
import type { Located } from '../memory/capture.js'
import type { DeferredB } from './deferred-b.js'
import type { WeightOperand } from './linear-problem.js'
import type { Problem } from './problem.js'

/** The small operands of a call on a device. One block has the operands that came from the host, and ascending offsets. */
export interface Staged {
  readonly memory: DeviceMemory
  readonly mask: Part | null
  readonly sequenceOffsets: Part | null
  readonly weights: Part | null
  /** The draw of dropout; null: none, or it is on the host. */
  readonly draw: Part | null
}

/** The versions of a, router and b. */
export function versionsOf({ a, router, b }: Pick<Problem, 'a' | 'router' | 'b'>): (number | undefined)[] {
  return [a.version, router?.version, b.version]
}

export class CallState {
  /** The small operands as the kernels read them: in memory of the caller, or in a copy. */
  readonly mask: Part | null
  readonly sequenceOffsets: Part | null
  /** `[4]`: seed and position of the call; null: no dropout. */
  readonly draw: Part | null
  /** What backward reads of `kept`; null: not kept. */
  readonly hidden: Part | null
  readonly probabilities: Part | null
  /** `[G, E]`: the caller's weights with fixed routing, otherwise a part of `kept`. */
  readonly weights: Part | null
  /** Gradients of b that backward calls have deferred and no fold has added yet, in the order of the calls. */
  deferred: DeferredB[] = []
  /** The number of backward calls that have been checked. */
  backwardCalls = 0
  /** Whether a backward call has run without the option `retain`. */
  isUsed = false
  /** The versions of a, router and b in forward; null: none is checked. Replays of a graph that recorded the call read later ones. */
  readonly versions: readonly (number | undefined)[] | null

  constructor(
    readonly problem: Problem,
    /** Null: the kernels read the small operands where the caller has them. */
    readonly staged: Staged | null,
    /** One block for hidden, probabilities and weights; `problem` has the offsets. Null without `save`. */
    readonly kept: OperandMemory | null,
    /** The weight of the frozen layer below the adapter; null: the adapter alone. */
    readonly weight: WeightOperand | null,
    /** Where its part of `kept` begins, if it is one adapter of a call that has several; null: it is not. */
    readonly listedAt: number | null = null,
  ) {
    this.versions = kept !== null && Capture.current === null ? versionsOf(problem) : null
    const small = staged ?? problem.small
    this.mask = small.mask
    this.sequenceOffsets = small.sequenceOffsets
    const own = problem.dropout > 0 ? { memory: new Int32Array(4), byteOffset: 0 } : null
    this.draw = staged?.draw ?? own
    this.hidden = null
    this.probabilities = null
    this.weights = small.weights
    if (kept === null) return
    const start = listedAt ?? 0
    this.hidden = { memory: kept, byteOffset: start }
    if (problem.keepsProbabilities) {
      this.probabilities = { memory: kept, byteOffset: start + problem.probabilitiesOffset }
    }
    if (problem.computesWeights) this.weights = { memory: kept, byteOffset: start + problem.weightsOffset }
  }

  /** All operands and memory that work on a device uses. */
  get located(): (Located | null)[] {
    const { kept, staged, problem, weight } = this
    const keptOnDevice = kept !== null && isDeviceMemory(kept) ? kept : null
    return [...problem.operands, weight && weight.operand, staged && staged.memory, keptOnDevice]
  }

  /** Adds the deferred gradient of a backward call. Async calls may end in another order than they began. */
  defer(deferred: DeferredB): void {
    this.deferred = [...this.deferred, deferred].sort((left, right) => left.call - right.call)
  }

  /** Removes the deferred gradients, which the caller must dispose of. */
  takeDeferred(): DeferredB[] {
    const { deferred } = this
    this.deferred = []
    return deferred
  }

  /** Releases the deferred gradients. */
  dropDeferred(): void {
    for (const deferred of this.takeDeferred()) deferred.dispose()
  }

  /** Releases the memory that the call has allocated. */
  dispose(): void {
    this.dropDeferred()
    if (this.kept !== null && isDeviceMemory(this.kept)) this.kept.release()
    this.staged?.memory.release()
  }
}
