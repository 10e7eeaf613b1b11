/**
 * The floor of a call: a time below which this machine cannot do its work. bench/README.md explains it. It is the sum
 * over the phases, which the pooling barrier separates, of max(FLOPs / arithmetic roof, bytes / bandwidth).
 *
 * The arithmetic roof is for products of the type of x. The bandwidth is measured with a loop over a buffer of the size of
 * the phase's own working set: the best case, in which the fastest memory that can hold the arrays of the phase does so.
 * With cold caches, an array that the call has not used before was last used `rotatedBytes` ago, and counts as an array of
 * that size.
 */
import type { DTypes } from '../workload/dtypes.js'
import { bandwidthFor, type Roofs } from './roofs.js'
import { type Phase, phaseBytes } from './work.js'

/** @returns seconds. `rotatedBytes`: total size of the operand sets that the calls rotate; 0 if caches are warm. */
export function floorOf(phases: readonly Phase[], rotatedBytes: number, types: DTypes, roofs: Roofs): number {
  const { flops: float32, bfloat16Flops: bfloat16, float16Flops: float16 } = roofs
  const flops = { float32, bfloat16, float16 }[types.activations]
  return phases.reduce(
    (sum, phase) => sum + Math.max(phase.flops / flops, memorySeconds(phase, rotatedBytes, roofs)),
    0,
  )
}

function memorySeconds(phase: Phase, rotatedBytes: number, roofs: Roofs): number {
  const bytes = phaseBytes(phase)
  const near = bandwidthFor(roofs, bytes)
  const first = bandwidthFor(roofs, Math.max(bytes, rotatedBytes))
  return phase.read / first.read + phase.reread / near.read + (2 * phase.updated) / first.update
}
