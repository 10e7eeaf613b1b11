/**
 * The least that a call must do, and the least time in which this machine can do it: the sum over its phases, which the
 * pooling barrier keeps apart, of max(FLOPs / FMA roof, bytes / bandwidth of the level that the data lives in). The FMA
 * roof is that of bfloat16 products where x is bfloat16; caches warm (every call uses the same buffers); y, dx and the
 * gradients accumulate.
 */
import { memoryRoof, type Roofs } from './roofs.js'
import type { DTypes, Shape } from './shapes.js'

interface Phase {
  readonly flops: number
  readonly read: number
  /** Bytes of the arrays that are read and written in place. */
  readonly updated: number
}

interface Bytes {
  /** Of one activation, and of one parameter or gradient. */
  readonly x: number
  readonly p: number
}

export type Method = 'lily' | 'lora'

/** Forward: shrink (+ routing), combine + expand. LoRA has one expert and combines nothing. */
function forwardPhases(method: Method, { tokens: M, d, rank: r, experts }: Shape, { x, p }: Bytes): Phase[] {
  const E = method === 'lily' ? experts : 1
  const combine = method === 'lily' ? 2 * E * r * d : 0
  return [
    { flops: 2 * M * r * d, read: x * M * d + p * r * d, updated: 0 },
    { flops: 2 * M * r * d + combine, read: p * E * r * d, updated: x * M * d },
  ]
}

/** Backward: the dy pass (q, D, and with Lily C, dw), the x pass (dA, dx). dB is updated in the first. */
function backwardPhases(method: Method, { tokens: M, d, rank: r, experts }: Shape, { x, p }: Bytes): Phase[] {
  const E = method === 'lily' ? experts : 1
  const mixing = method === 'lily' ? 6 * E * r * d : 2 * r * d
  return [
    { flops: 4 * M * r * d + mixing, read: x * M * d + p * E * r * d, updated: p * E * r * d },
    { flops: 4 * M * r * d, read: x * M * d + p * r * d, updated: x * M * d + p * r * d },
  ]
}

const bytesOf = ({ activations, parameters }: DTypes): Bytes => ({
  x: activations === 'float32' ? 4 : 2,
  p: parameters === 'float32' ? 4 : 2,
})

/**
 * The fewest bytes that a call must move: forward x once, y read and written, parameters once; backward dy and x once,
 * dx read and written, parameters once, their gradients read and written. The router's E r numbers are left out.
 */
export function fewestBytes(method: Method, direction: 'forward' | 'backward', shape: Shape, types: DTypes): number {
  const phases = direction === 'forward' ? forwardPhases : backwardPhases
  return phases(method, shape, bytesOf(types)).reduce((sum, { read, updated }) => sum + read + 2 * updated, 0)
}

/** FLOPs of the two products forward and the four backward; what mixes the experts is left out. */
export const productFlops = (direction: 'forward' | 'backward', { tokens, d, rank }: Shape): number =>
  (direction === 'forward' ? 2 : 4) * 2 * tokens * rank * d

/** Seconds. */
export function floor(method: Method, shape: Shape, types: DTypes, withBackward: boolean, roofs: Roofs): number {
  const bytes = bytesOf(types)
  const flops = types.activations === 'bfloat16' ? roofs.bfloat16Flops : roofs.flops
  const phases = forwardPhases(method, shape, bytes)
  if (withBackward) phases.push(...backwardPhases(method, shape, bytes))
  const { tokens: M, d, rank: r, experts } = shape
  const E = method === 'lily' ? experts : 1
  const activations = (withBackward ? 4 : 2) * M * d
  const parameters = (withBackward ? 2 : 1) * (1 + E) * r * d
  const memory = memoryRoof(roofs, bytes.x * activations + bytes.p * parameters)
  return phases.reduce(
    (sum, phase) => sum + Math.max(phase.flops / flops, phase.read / memory.read + (2 * phase.updated) / memory.update),
    0,
  )
}
