/**
 * The floor of a call: the minimum time in which this machine can do its work. It is the sum over the phases, which the
 * pooling barrier separates, of max(FLOPs / arithmetic roof, bytes / bandwidth of the level that holds the data). The
 * arithmetic roof is that of products of the type of x.
 */
import type { DTypes } from '../workload/dtypes.js'
import { memoryRoof, type Roofs } from './roofs.js'
import type { Phase } from './work.js'

/** In seconds. `workingSet` in bytes selects the memory level; Infinity if caches are cold. */
export function floorOf(phases: readonly Phase[], workingSet: number, types: DTypes, roofs: Roofs): number {
  const { flops: float32, bfloat16Flops: bfloat16, float16Flops: float16 } = roofs
  const flops = { float32, bfloat16, float16 }[types.activations]
  const memory = memoryRoof(roofs, workingSet)
  return phases.reduce(
    (sum, phase) => sum + Math.max(phase.flops / flops, phase.read / memory.read + (2 * phase.updated) / memory.update),
    0,
  )
}
