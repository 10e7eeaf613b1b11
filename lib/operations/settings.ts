/** The options of a forward call, read once. */
import { checkKeys, type Known, readChoice, readFlag, readScaling } from '../base/options.js'
import type { StreamOption } from '../memory/placement.js'
import { readStream } from '../tensor/stream-option.js'
import type { Activation, Pool, Precision, Routing } from './problem.js'
import { type Indices, readIndices } from './small-operands.js'

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
  readonly stream: StreamOption
}

/** LoRA knows fewer options than Lily; those that it does not know have their defaults. */
export function readSettings(options: object, known: Known): Settings {
  checkKeys('options', options, known)
  return {
    scaling: readScaling(options),
    routing: readChoice(options, 'routing', ROUTINGS, 'batch'),
    pool: readChoice(options, 'pool', POOLS, 'probabilities'),
    activation: readChoice(options, 'activation', ACTIVATIONS, 'none'),
    precision: readChoice(options, 'precision', PRECISIONS, 'default'),
    mask: readIndices(options, 'mask', 'uint8'),
    sequenceOffsets: readIndices(options, 'sequenceOffsets', 'int32'),
    weights: readIndices(options, 'weights', 'float32'),
    save: readFlag(options, 'save', true),
    accumulate: readFlag(options, 'accumulate', true),
    stream: readStream(options),
  }
}
