/** The options of a forward call, read once. */
import { failedToRead } from './errors.js'
import { readIndices, type Indices } from './indices.js'
import { checkKeys, readChoice, readFlag, readScaling, refuseStream, type Known } from './options.js'
import type { Activation, Pool, Precision, Routing } from './problem.js'

const ROUTINGS = ['batch', 'sequence', 'token', 'uniform', 'fixed'] as const
const POOLS = ['probabilities', 'logits'] as const
const ACTIVATIONS = ['none', 'relu'] as const
const PRECISIONS = ['default', 'high', 'tf32'] as const

export interface Settings {
  readonly scaling: number
  readonly routing: Routing
  readonly pool: Pool
  readonly activation: Activation
  readonly precision: Precision
  readonly mask: Indices | null
  readonly sequenceOffsets: Indices | null
  readonly weights: Indices | null
  readonly save: boolean
  readonly accumulate: boolean
}

/** LoRA knows fewer options than Lily; those that it does not know have their defaults. */
export function readSettings(options: object, known: Known): Settings {
  try {
    checkKeys('options', options, known)
    const given = options as Partial<Readonly<Record<keyof Settings | 'stream', unknown>>>
    refuseStream(given.stream)
    return {
      scaling: readScaling(given.scaling),
      routing: readChoice('routing', given.routing, ROUTINGS, 'batch'),
      pool: readChoice('pool', given.pool, POOLS, 'probabilities'),
      activation: readChoice('activation', given.activation, ACTIVATIONS, 'none'),
      precision: readChoice('precision', given.precision, PRECISIONS, 'default'),
      mask: readIndices('mask', given.mask, 'uint8'),
      sequenceOffsets: readIndices('sequenceOffsets', given.sequenceOffsets, 'int32'),
      weights: readIndices('weights', given.weights, 'float32'),
      save: readFlag('save', given.save, true),
      accumulate: readFlag('accumulate', given.accumulate, true),
    }
  } catch (cause) {
    throw failedToRead('options', cause)
  }
}
