import type { Problem, Routing } from './reference.js'
import { roundAll, type Types } from './dtypes.js'
import { eighths, gaussian, integer, randomFrom } from './random.js'

/** Sizes and modes of a problem; its numbers follow from the seed. */
export interface Spec extends Types {
  routing: Routing
  tokens: number
  dIn: number
  dOut: number
  rank: number
  experts: number
  seed: number
  pool?: 'probabilities' | 'logits' | undefined
  activation?: 'none' | 'relu' | undefined
  scaling?: number | undefined
  /** Lengths of the sequences; for sequence and fixed routing. */
  lengths?: readonly number[] | undefined
  /** Offsets of the sequences in the place of lengths: any numbers, which only device memory may hold. */
  offsets?: readonly number[] | undefined
  /** Share of the tokens that the mask drops; 1 drops all. */
  masked?: number | undefined
  /**
   * The mask drops all tokens of the first group that has any; with 'nan' their x and dy are NaN. With 'kept nan' they are,
   * too, but the mask keeps them.
   */
  emptyGroup?: 'finite' | 'nan' | 'kept nan' | undefined
  /** Standard deviation of the logits: 0 gives equal weights, 10 nearly a single expert. */
  sharpness?: number | undefined
}

/** A problem with numbers rounded to its types, and the gradient of its output. */
export interface Case extends Problem {
  x: Float32Array
  a: Float32Array
  router: Float32Array | undefined
  b: Float32Array
  mask: Uint8Array | undefined
  offsets: Int32Array | undefined
  weights: Float32Array | undefined
  dy: Float32Array
}

export function makeCase(spec: Spec): Case {
  const { routing, tokens, dIn, dOut, rank, experts, lengths, masked = 0, sharpness = 1 } = spec
  const random = randomFrom(spec.seed)
  const relu = spec.activation === 'relu'
  const { activations = 'float32', parameters = activations } = spec
  const x = relu ? eighths(random, tokens * dIn) : gaussian(random, tokens * dIn)
  const a = relu ? eighths(random, rank * dIn) : gaussian(random, rank * dIn, 1 / Math.sqrt(dIn))
  // Standard deviation of hidden: 1, or that of a sum of products of two eighths (deviation sqrt(3/8) each).
  const hidden = relu ? Math.sqrt(dIn) * (3 / 8) : 1
  const ends = lengths && [0, ...lengths.map((_, g) => total(lengths.slice(0, g + 1)))]
  const offsets = (spec.offsets ?? ends) && Int32Array.from(spec.offsets ?? ends ?? [])
  const groups = offsets ? offsets.length - 1 : 1
  const hasRouter = routing === 'batch' || routing === 'sequence' || routing === 'token'
  const c: Case = {
    ...spec,
    x: roundAll(activations, x),
    a: roundAll(parameters, a),
    router: hasRouter
      ? roundAll(parameters, gaussian(random, experts * rank, sharpness / (Math.sqrt(rank) * hidden)))
      : undefined,
    b: roundAll(parameters, gaussian(random, experts * rank * dOut, 1 / (Math.sqrt(rank) * hidden))),
    dy: roundAll(activations, gaussian(random, tokens * dOut)),
    mask: masked > 0 ? Uint8Array.from({ length: tokens }, () => (random() < masked ? 0 : 1)) : undefined,
    offsets,
    weights: routing === 'fixed' ? gaussian(random, groups * experts) : undefined,
  }
  if (spec.emptyGroup !== undefined) dropFirstGroup(c, spec.emptyGroup)
  return c
}

function dropFirstGroup(c: Case, numbers: 'finite' | 'nan' | 'kept nan'): void {
  const end = c.offsets?.find((offset) => offset > 0) ?? c.tokens
  const keeps = numbers === 'kept nan' ? 1 : 0
  c.mask = (c.mask ?? new Uint8Array(c.tokens).fill(1)).fill(keeps, 0, end)
  if (numbers === 'finite') return
  c.x.fill(NaN, 0, end * c.dIn)
  c.dy.fill(NaN, 0, end * c.dOut)
}

function total(lengths: readonly number[]): number {
  return lengths.reduce((sum, length) => sum + length, 0)
}

/** Random lengths, including zero, that add up to the tokens. */
export function splitTokens(tokens: number, groups: number, seed: number): number[] {
  const random = randomFrom(seed)
  const cuts = Array.from({ length: groups - 1 }, () => integer(random, 0, tokens)).sort((p, q) => p - q)
  return [...cuts, tokens].map((end, g) => end - (g === 0 ? 0 : cuts[g - 1]))
}
