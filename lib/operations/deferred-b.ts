/** Deferred gradients of b: what backward calls leave to a fold. */
import type { DeviceMemory } from '../memory/device-memory.js'
import { isDeviceMemory, type OperandMemory, type Part } from '../memory/operand.js'
import type { CallState } from './call-state.js'

/** The deferred gradient of one backward call. db_e is the sum over g of weights[g, e] D_g, or D_e without weights. */
export class DeferredB {
  /** The number of D_g, or of D_e. */
  readonly partials: number
  /** [partials, E]; null: there is one partial sum per expert, already weighted. */
  readonly weights: Part | null

  constructor(
    { problem, weights }: CallState,
    /** [partials, r, d_out] */
    readonly memory: OperandMemory,
  ) {
    this.partials = problem.deferredPartials
    this.weights = problem.defersPerGroup ? weights : null
    // The call that owns the weights may be disposed of before the fold.
    if (this.weights !== null && isDeviceMemory(this.weights.memory)) this.weights.memory.retain()
  }

  /** Its memory on a device, if that is the package's. */
  get located(): DeviceMemory[] {
    const memories = this.weights === null ? [this.memory] : [this.memory, this.weights.memory]
    return memories.filter(isDeviceMemory)
  }

  dispose(): void {
    for (const memory of this.located) memory.release()
  }
}
