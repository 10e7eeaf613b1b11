/** Gradients of b that backward calls leave to a fold. */
import type { DeviceMemory } from './device-memory.js'
import { isDeviceMemory, type OperandMemory, type Part } from './operand.js'
import type { Problem } from './problem.js'

/** What one backward call has left: b_e gets the sum over slabs of weights[slab, e] D_slab, or D_e where there are none. */
export class DeferredB {
  readonly slabs: number
  /** [slabs, E]; null: there is one slab for each expert, weighted already. */
  readonly weights: Part | null

  constructor(
    { deferredSlabs, defersPerGroup, weights }: Problem,
    /** [slabs, r, d_out] */
    readonly memory: OperandMemory,
  ) {
    this.slabs = deferredSlabs
    this.weights = defersPerGroup ? weights : null
    // The call that the weights are of may be disposed of before the fold.
    if (this.weights !== null && isDeviceMemory(this.weights.memory)) this.weights.memory.retain()
  }

  /** What of it is in memory of the package's on a device. */
  get located(): DeviceMemory[] {
    const memories = this.weights === null ? [this.memory] : [this.memory, this.weights.memory]
    return memories.filter(isDeviceMemory)
  }

  dispose(): void {
    for (const memory of this.located) memory.release()
  }
}
