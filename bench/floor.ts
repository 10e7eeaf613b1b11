/**
 * The least work that a call is, and the least time in which it can be done on this machine: the sum over its phases,
 * which the pooling barrier keeps apart, of max(FLOPs / FMA roof, bytes / bandwidth of the level that the data lives
 * in). The FMA roof is that of the products of x's type. y, dx and the gradients accumulate.
 */
import type { Routing } from '../lib/index.js'
import { bytesOf, type DTypes } from './dtypes.js'
import { memoryRoof, type Roofs } from './roofs.js'
import { sequenceOffsets } from './sequences.js'
import type { Shape } from './shapes.js'

export interface Phase {
  readonly flops: number
  readonly read: number
  /** Bytes of the arrays that are read and written in place. */
  readonly updated: number
}

/** 'none' is LoRA: one expert, nothing to route or to combine. */
export type WorkRouting = Routing | 'none'

/** Work besides the two products of a low-rank adapter. */
interface Mixing {
  /** FLOPs of combining the experts before the expansion, or of expanding them all. */
  readonly forward: number
  /** The same again, and of <B_e, D> and of adding w_e D to db. */
  readonly backward: number
}

function mixing({ tokens, d, rank, experts }: Shape, routing: WorkRouting): Mixing {
  const experts2rd = 2 * experts * rank * d
  // K = E r instead of r in the expansion, and in both products of the dy pass.
  const widened = (experts - 1) * 2 * tokens * rank * d
  switch (routing) {
    case 'none':
      return { forward: 0, backward: 2 * rank * d }
    case 'token':
      return { forward: widened, backward: 2 * widened + experts2rd }
    case 'sequence': {
      // Short sequences are cheaper in the token formulation.
      const groups = sequenceOffsets(tokens).length - 1
      return {
        forward: Math.min(groups * experts2rd, widened),
        backward: Math.min(3 * groups * experts2rd, 2 * widened + experts2rd),
      }
    }
    case 'batch':
      return { forward: experts2rd, backward: 3 * experts2rd }
    default:
      return { forward: experts2rd, backward: 2 * experts2rd }
  }
}

/** Forward: shrink (+ routing) | combine + expand. Backward: the dy pass (q, D, and dw) | the x pass (dA, dx). */
export function phasesOf(shape: Shape, routing: WorkRouting, types: DTypes, withBackward: boolean): Phase[] {
  const { tokens, d, rank } = shape
  const experts = routing === 'none' ? 1 : shape.experts
  const product = 2 * tokens * rank * d
  const x = bytesOf(types.activations) * tokens * d
  const a = bytesOf(types.parameters) * rank * d
  const b = experts * a
  const mix = mixing({ ...shape, experts }, routing)
  const forward = [
    { flops: product, read: x + a, updated: 0 },
    { flops: product + mix.forward, read: b, updated: x },
  ]
  if (!withBackward) return forward
  return [
    ...forward,
    { flops: 2 * product + mix.backward, read: x + b, updated: b },
    { flops: 2 * product, read: x + a, updated: x + a },
  ]
}

export interface Work {
  readonly flops: number
  /** Read and written, each array as often as its phases need it. */
  readonly bytes: number
}

export function workOf(phases: readonly Phase[]): Work {
  return {
    flops: phases.reduce((sum, { flops }) => sum + flops, 0),
    bytes: phases.reduce((sum, { read, updated }) => sum + read + 2 * updated, 0),
  }
}

export type Direction = 'forward' | 'backward'

/** The fewest bytes that one direction must move. The router's E r numbers are left out. */
export function fewestBytes(direction: Direction, shape: Shape, routing: WorkRouting, types: DTypes): number {
  const phases = phasesOf(shape, routing, types, true)
  return workOf(direction === 'forward' ? phases.slice(0, 2) : phases.slice(2)).bytes
}

/** FLOPs of the two products forward and the four backward; what mixes the experts is left out. */
export const productFlops = (direction: Direction, { tokens, d, rank }: Shape): number =>
  (direction === 'forward' ? 2 : 4) * 2 * tokens * rank * d

/** Bytes of everything that a call touches. */
export function workingSet(shape: Shape, routing: WorkRouting, types: DTypes, withBackward: boolean): number {
  const { tokens, d, rank } = shape
  const experts = routing === 'none' ? 1 : shape.experts
  const activations = (withBackward ? 4 : 2) * tokens * d
  const parameters = (withBackward ? 2 : 1) * (1 + experts) * rank * d
  return bytesOf(types.activations) * activations + bytesOf(types.parameters) * parameters
}

/** Seconds. `bytes` is the working set, which says in what level of memory it lies: Infinity where caches are cold. */
export function floorOf(phases: readonly Phase[], bytes: number, types: DTypes, roofs: Roofs): number {
  const { flops: float32, bfloat16Flops: bfloat16, float16Flops: float16 } = roofs
  const flops = { float32, bfloat16, float16 }[types.activations]
  const memory = memoryRoof(roofs, bytes)
  return phases.reduce(
    (sum, phase) => sum + Math.max(phase.flops / flops, phase.read / memory.read + (2 * phase.updated) / memory.update),
    0,
  )
}
