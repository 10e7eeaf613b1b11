import { type Dropout, maskOf } from './philox.js'
import type { Problem, Routing } from './reference.js'
import { type RowsAdapter, type RowsProblem, tokensOf } from './rows-reference.js'
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
  /** The rate of dropout; its draw follows from the seed. */
  dropout?: number | undefined
  /** What x has where dropout drops it: numbers like all others, or NaN. */
  dropped?: 'finite' | 'nan' | undefined
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

/** The elements of the router: of learned mixtures, the logits. */
const routerElements = ({ routing, experts, rank }: Spec) => (routing === 'learned' ? experts : experts * rank)

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
  const hasRouter = ['batch', 'sequence', 'token', 'learned'].includes(routing)
  const logits = routing === 'learned' ? 1 : Math.sqrt(rank) * hidden
  const c: Case = {
    ...spec,
    x: roundAll(activations, x),
    a: roundAll(parameters, a),
    router: hasRouter ? roundAll(parameters, gaussian(random, routerElements(spec), sharpness / logits)) : undefined,
    b: roundAll(parameters, gaussian(random, experts * rank * dOut, 1 / (Math.sqrt(rank) * hidden))),
    dy: roundAll(activations, gaussian(random, tokens * dOut)),
    mask: masked > 0 ? Uint8Array.from({ length: tokens }, () => (random() < masked ? 0 : 1)) : undefined,
    offsets,
    weights: routing === 'fixed' ? gaussian(random, groups * experts) : undefined,
    dropout: spec.dropout === undefined ? undefined : { rate: spec.dropout, draw: drawOf(spec.seed) },
  }
  if (spec.emptyGroup !== undefined) dropFirstGroup(c, spec.emptyGroup)
  if (c.dropout !== undefined && spec.dropped === 'nan') {
    maskOf(tokens, dIn, c.dropout).forEach((keeps, i) => {
      if (keeps === 0) c.x[i] = NaN
    })
  }
  return c
}

/** Seed and position, some of whose words have the highest bit. */
function drawOf(seed: number): Dropout['draw'] {
  const random = randomFrom(seed + 1)
  return Int32Array.from({ length: 4 }, () => Math.floor(random() * 2 ** 32) | 0)
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

/** Sizes and modes of a call with an adapter per row; its numbers follow from the seed. */
export interface RowsSpec extends Types {
  tokens: number
  dIn: number
  dOut: number
  seed: number
  adapters: readonly Pick<Spec, 'routing' | 'rank' | 'experts' | 'pool' | 'activation' | 'scaling' | 'sharpness'>[]
  /**
   * The order of the adapters, K of them, and of the base in the segments: one after the other, taking turns, or at random. A
   * list gives the adapter of each segment, -1 for the base.
   */
  pattern: 'sorted' | 'turns' | 'random' | readonly number[]
  /** Whether some segments have the base. Default true. */
  base?: boolean
  /** Lengths of the sequences, which are the segments then; without them each token is one. */
  lengths?: readonly number[] | undefined
  /** Share of the tokens that the mask drops. */
  masked?: number | undefined
  /** Whether each segment has a factor. */
  scaled?: boolean
}

export interface RowsCase extends RowsProblem {
  x: Float32Array
  dy: Float32Array
  adapters: readonly (RowsAdapter & { a: Float32Array; router: Float32Array | undefined; b: Float32Array })[]
  of: Int32Array
  scale: Float32Array | undefined
  /** The arguments of a call: by segment; a segment is a sequence, or a token without `offsets`. */
  segments: { adapterOf: Int32Array; scale: Float32Array | undefined; offsets: Int32Array | undefined }
  mask: Uint8Array | undefined
}

export function makeRowsCase(spec: RowsSpec): RowsCase {
  const { tokens, dIn, dOut, seed, pattern, base = true, masked = 0 } = spec
  const random = randomFrom(seed)
  const { activations = 'float32', parameters, precision } = spec
  const types: Types = { activations, parameters, precision }
  const lengths = spec.lengths ?? new Array<number>(tokens).fill(1)
  const count = spec.adapters.length
  const choices = count + (base ? 1 : 0)
  const choose = (g: number) => {
    if (typeof pattern === 'object') return pattern[g]
    if (pattern === 'random') return integer(random, 0, choices - 1)
    return pattern === 'turns' ? g % choices : Math.floor((g * choices) / lengths.length)
  }
  const adapterOf = Int32Array.from(lengths, (_, g) => {
    const choice = choose(g)
    return choice === count ? -1 : choice
  })
  const factors = spec.scaled ? Float32Array.from(lengths, () => integer(random, -8, 12) / 7) : undefined
  const perToken = <T>(values: ArrayLike<T>) => lengths.flatMap((length, g) => new Array<T>(length).fill(values[g]))
  const of = Int32Array.from(perToken(adapterOf))
  const mask = masked > 0 ? Uint8Array.from({ length: tokens }, () => (random() < masked ? 0 : 1)) : undefined
  const relu = spec.adapters.some(({ activation }) => activation === 'relu')
  const adapters = spec.adapters.map((adapter, k) => {
    const own = tokensOf({ of }, k)
    const pooled = adapter.routing === 'batch' || adapter.routing === 'sequence'
    const ownLengths = adapter.routing === 'sequence' ? lengths.filter((_, g) => adapterOf[g] === k) : undefined
    const sizes = { ...types, ...adapter, lengths: ownLengths, dIn, dOut, tokens: own.length, seed: seed + 1 + k }
    const { a, router, b, offsets, weights } = makeCase(sizes)
    return { ...adapter, a, router, b, offsets, weights, mask: pooled ? mask && own.map((t) => mask[t]) : undefined }
  })
  return {
    ...types,
    ...{ tokens, dIn, dOut, adapters, of, mask },
    x: roundAll(activations, relu ? eighths(random, tokens * dIn) : gaussian(random, tokens * dIn)),
    dy: roundAll(activations, gaussian(random, tokens * dOut)),
    scale: factors && Float32Array.from(perToken(factors)),
    segments: {
      adapterOf,
      scale: factors,
      offsets: spec.lengths && Int32Array.from([0, ...lengths.map((_, g) => total(lengths.slice(0, g + 1)))]),
    },
  }
}

/** Random lengths, including zero, that add up to the tokens. */
export function splitTokens(tokens: number, groups: number, seed: number): number[] {
  const random = randomFrom(seed)
  const cuts = Array.from({ length: groups - 1 }, () => integer(random, 0, tokens)).sort((p, q) => p - q)
  return [...cuts, tokens].map((end, g) => end - (g === 0 ? 0 : cuts[g - 1]))
}
