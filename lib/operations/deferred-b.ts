/** Gradients of b that backward calls leave to a fold. */
import type { DeviceMemory } from '../memory/device-memory.js'
import { isDeviceMemory, type OperandMemory, type Part } from '../memory/operand.js'
import type { Problem } from './problem.js'

/** What one backward call has left: b_e gets the sum over g of weights[g, e] D_g, or D_e where there are none. */
export class DeferredB {
  /** The number of D_g, or of experts. */
  readonly partials: number
  /** [partials, E]; null: there is one for each expert, weighted already. */
  readonly weights: Part | null

  constructor(
    { deferredPartials, defersPerGroup, weights }: Problem,
    /** [partials, r, d_out] */
    readonly memory: OperandMemory,
  ) {
    this.partials = deferredPartials
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
