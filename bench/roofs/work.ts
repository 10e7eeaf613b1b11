/** The minimum work of a call, by phase: FLOPs and bytes. y, dx and the gradients are accumulated in place. */
import type { Routing } from '../../lib/index.js'
import { bytesOf, type DTypes } from '../workload/dtypes.js'
import { sequenceOffsets } from '../workload/sequences.js'
import type { Shape } from '../workload/shapes.js'

export interface Phase {
  readonly flops: number
  /** Bytes of the arrays that are only read, and that no earlier phase of the call has read. */
  readonly read: number
  /** Bytes of the arrays that are only read, and that an earlier phase of the call has read. */
  readonly reread: number
  /** Bytes of the arrays that are read and written in place. */
  readonly updated: number
}

/** 'none' is LoRA: one expert, no routing and no combination. */
export type WorkRouting = Routing | 'none'

/** FLOPs beyond the products of a low-rank adapter with one expert. */
interface ExpertFlops {
  /** Combining the experts before the expansion, or expanding all of them. */
  readonly forward: number
  /** Combining the experts again, <B_e, D>, and adding w_e D to dB. */
  readonly backward: number
}

function expertFlops({ tokens, d, rank, experts }: Shape, routing: WorkRouting): ExpertFlops {
  const experts2rd = 2 * experts * rank * d
  // K = E r instead of r, in the expansion and in both products of the dy pass.
  const widened = (experts - 1) * 2 * tokens * rank * d
  switch (routing) {
    case 'none':
      return { forward: 0, backward: 2 * rank * d }
    case 'token':
      return { forward: widened, backward: 2 * widened + experts2rd }
    case 'sequence': {
      // For short sequences the formulation of token routing is cheaper.
      const groups = sequenceOffsets(tokens).length - 1
      return {
        forward: Math.min(groups * experts2rd, widened),
        backward: Math.min(3 * groups * experts2rd, 2 * widened + experts2rd),
      }
    }
    case 'batch':
    case 'learned':
      return { forward: experts2rd, backward: 3 * experts2rd }
    default:
      return { forward: experts2rd, backward: 2 * experts2rd }
  }
}

/** Forward: shrink (+ routing) | combine + expand. Backward: dy pass (q, D and dw) | x pass (dA, dx). */
export function phasesOf(shape: Shape, routing: WorkRouting, types: DTypes, withBackward: boolean): Phase[] {
  const { tokens, d, rank } = shape
  const experts = routing === 'none' ? 1 : shape.experts
  const product = 2 * tokens * rank * d
  const x = bytesOf(types.activations) * tokens * d
  const a = bytesOf(types.parameters) * rank * d
  const b = experts * a
  const extra = expertFlops({ ...shape, experts }, routing)
  const forward = [
    { flops: product, read: x + a, reread: 0, updated: 0 },
    { flops: product + extra.forward, read: b, reread: 0, updated: x },
  ]
  if (!withBackward) return forward
  return [
    ...forward,
    { flops: 2 * product + extra.backward, read: x, reread: b, updated: b },
    { flops: 2 * product, read: 0, reread: x + a, updated: x + a },
  ]
}

/**
 * The product of the frozen layer in each direction. Forward overwrites y, which counts as read; backward adds to dx.
 */
export function layerPhasesOf({ tokens, d }: Shape, types: DTypes, withBackward: boolean): Phase[] {
  const bytes = bytesOf(types.activations)
  const flops = 2 * tokens * d * d
  const [x, weight] = [bytes * tokens * d, bytes * d * d]
  const forward = { flops, read: 2 * x + weight, reread: 0, updated: 0 }
  return withBackward ? [forward, { flops, read: x, reread: weight, updated: x }] : [forward]
}

/** Bytes of the weight of the frozen layer. */
export const layerBytes = ({ d }: Shape, types: DTypes): number => bytesOf(types.activations) * d * d

export interface Work {
  readonly flops: number
  /** Bytes read and written; an array counts once per phase that requires it. */
  readonly bytes: number
}

export function workOf(phases: readonly Phase[]): Work {
  return {
    flops: phases.reduce((sum, { flops }) => sum + flops, 0),
    bytes: phases.reduce((sum, { read, reread, updated }) => sum + read + reread + 2 * updated, 0),
  }
}

/** The working set of a phase: the bytes of the arrays that it reads or updates. */
export const phaseBytes = ({ read, reread, updated }: Phase): number => read + reread + updated

export type Direction = 'forward' | 'backward'

/** The minimum number of bytes that one direction moves, without the router's E r numbers. */
export function minimumBytes(direction: Direction, shape: Shape, routing: WorkRouting, types: DTypes): number {
  const phases = phasesOf(shape, routing, types, true)
  return workOf(direction === 'forward' ? phases.slice(0, 2) : phases.slice(2)).bytes
}

/** FLOPs of the two products of forward or the four of backward, without the combination of the experts. */
export const productFlops = (direction: Direction, { tokens, d, rank }: Shape): number =>
  (direction === 'forward' ? 2 : 4) * 2 * tokens * rank * d

/** Bytes of all arrays that a call reads or writes. */
export function workingSet(shape: Shape, routing: WorkRouting, types: DTypes, withBackward: boolean): number {
  const { tokens, d, rank } = shape
  const experts = routing === 'none' ? 1 : shape.experts
  const activations = (withBackward ? 4 : 2) * tokens * d
  const parameters = (withBackward ? 2 : 1) * (1 + experts) * rank * d
  return bytesOf(types.activations) * activations + bytesOf(types.parameters) * parameters
}
