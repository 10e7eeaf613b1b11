/** Deferred gradients of b: the partial sums that backward calls store for a fold. */
import type { DeviceMemory } from '../memory/device-memory.js'
import { isDeviceMemory, type OperandMemory } from '../memory/operand-memory.js'
import type { Part } from '../memory/operand.js'
import type { GpuWork } from '../binding/gpu-call.js'
import type { Placement } from '../memory/placement.js'
import { FOLD, gpuMatrix, gpuRegion, NO_SIZES, region, type StackSizes } from './call.js'
import type { CallState } from './call-state.js'
import { run } from './dispatch.js'
import type { Output } from './output.js'

/**
 * The deferred gradient of one backward call. Its memory holds one D_g per group, and the fold adds
 * sum_g weights[g, e] D_g to db_e; without weights it holds this sum of each expert.
 */
export class DeferredB {
  /** The number of r x d_out matrices. */
  readonly partials: number
  /** [partials, E]; null: there is one partial sum per expert, already weighted. */
  readonly weights: Part | null

  constructor(
    { problem, weights }: CallState,
    /** [partials, r, d_out] */
    readonly memory: OperandMemory,
    /** The number of this backward call among all of its saved call. */
    readonly call: number,
  ) {
    this.partials = problem.deferredPartials
    this.weights = problem.defersPerGroup ? weights : null
    // The call that owns the weights may be disposed of before the fold.
    if (this.weights !== null && isDeviceMemory(this.weights.memory)) this.weights.memory.retain()
  }

  /** The device memory of the package that it refers to. */
  get located(): DeviceMemory[] {
    const memories = this.weights === null ? [this.memory] : [this.memory, this.weights.memory]
    return memories.filter(isDeviceMemory)
  }

  dispose(): void {
    for (const memory of this.located) memory.release()
  }
}

/** Adds the deferred gradients to db, or overwrites db with their sum. */
export function runFold(
  { experts, rank, dOut }: StackSizes,
  deferred: readonly DeferredB[],
  db: Output,
  placement: Placement | null,
): void {
  const layers = deferred
    .filter(({ partials }) => partials > 0)
    .map(({ partials, memory, weights }) => ({
      partials: region({ memory, byteOffset: 0 }, partials, rank * dOut),
      weights: weights && region(weights, partials, experts),
    }))
  const operands = [db, ...layers.flatMap(({ partials, weights }) => [partials, weights])]
  const call = { kind: FOLD, problem: { experts, rank, dOut, sizes: NO_SIZES }, operands, placement }
  const gpu = (): GpuWork[] => {
    const onGpu = layers.map(({ partials, weights }) => ({
      partials: partials.rows,
      matrices: gpuRegion(partials),
      weights: weights && gpuRegion(weights),
    }))
    const target = { ...gpuMatrix(db.operand), accumulate: db.accumulate }
    return [{ name: 'fold', call: { experts, rank, dOut, db: target, layers: onGpu } }]
  }
  run({ calls: [call], placement, gpu })
}
