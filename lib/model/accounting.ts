/**
 * Parameters, FLOPs and bytes of a Lily adapter, computed from sizes, and the comparison with LoRA on the same layers.
 */
import { bytesPerElement, type DType, readFloatDType } from '../base/dtype.js'
import { describe, fail } from '../base/errors.js'
import { MAX_RANK } from '../base/limits.js'
import { checkKeys, get, type Known } from '../base/options.js'
import { type LilyConfig, type LilyConfigOptions, readConfig } from './config.js'
import { type LayerShape, type SharedParameter, shareLayers } from './sharing.js'

/** Number of parameter elements, in total and by kind. A shared parameter is counted once. */
export interface ParameterCounts {
  readonly a: number
  readonly router: number
  readonly b: number
  readonly total: number
}

/** Result of {@link accountFor}. */
export interface Accounting {
  /** Elements of the adapter's parameters. */
  readonly parameters: ParameterCounts
  /** Elements of the weights of the adapted base layers. */
  readonly baseParameters: number
  /** Rank at which LoRA on these layers has as many parameters; usually not an integer. */
  readonly loraRank: number
  /** FLOPs of all adapters together, without the base layers. A multiply-add counts as two. */
  readonly flops: {
    /** Per token: the sum of 2 r (d_in + d_out) over the layers. The logits, 2 E r, are not included. */
    readonly forwardPerToken: number
    /** Per token: twice `forwardPerToken`. */
    readonly backwardPerToken: number
    /** Per combination C = sum_e w_e B_e, one per call (batch routing) or sequence (sequence routing): 2 E r d_out. */
    readonly forwardPerMixture: number
    /** Per combination: C again, and the gradients of w and B, 6 E r d_out. */
    readonly backwardPerMixture: number
  }
  /** Bytes of memory for training. */
  readonly bytes: {
    readonly parameters: number
    /** Gradients are float32 for every dtype of the parameters. */
    readonly gradients: number
    /** State of AdamW: two float32 moments. */
    readonly optimizer: number
    /**
     * Per token, over all layers: hidden and the probabilities, which forward saves for backward. x is not included.
     */
    readonly savedPerToken: number
  }
}

const OPTIONS: Known = new Set(['dtype', 'activations'])

/**
 * Computes the cost of a Lily adapter without creating it. Formulas: docs/math.md.
 *
 * @param layers linear layers of the base model
 * @param options.dtype type of the parameters. Default 'float32'
 * @param options.activations type of x and y. Default: that of the parameters
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DTYPE
 */
export function accountFor(
  layers: readonly LayerShape[],
  config: LilyConfigOptions,
  options: { readonly dtype?: DType | undefined; readonly activations?: DType | undefined } = {},
): Accounting {
  checkKeys('options', options, OPTIONS)
  const dtype = readFloat(options, 'dtype', 'float32')
  const activations = readFloat(options, 'activations', dtype)
  const checked = readConfig(config)
  const { r, numB } = checked
  const sharing = shareLayers(layers, checked)
  const adapted = [...sharing.layers.values()]
  const parameters = countParameters(sharing.parameters.values())
  const perToken = 2 * r * sumOf(adapted, widthOf)
  const perCombination = 2 * numB * r * sumOf(adapted, ({ outFeatures }) => outFeatures)
  return {
    parameters,
    baseParameters: sumOf(adapted, ({ inFeatures, outFeatures }) => inFeatures * outFeatures),
    loraRank: parameters.total / sumOf(adapted, widthOf),
    flops: {
      forwardPerToken: perToken,
      backwardPerToken: 2 * perToken,
      forwardPerMixture: perCombination,
      backwardPerMixture: 3 * perCombination,
    },
    bytes: {
      parameters: bytesPerElement(dtype) * parameters.total,
      gradients: 4 * parameters.total,
      optimizer: 8 * parameters.total,
      savedPerToken: adapted.length * (r * bytesPerElement(activations) + 4 * numB),
    },
  }
}

/**
 * The largest r at which Lily has no more parameters than LoRA of rank `loraRank` on the same layers. Lily has
 * r (sum of d_in over the As + E * sum of d_out over the targets + E * number of layers) parameters.
 *
 * @param config configuration with strideA, numB and targets; r is ignored
 * @throws LilyError ERR_LILY_ARGUMENT if that r is 0 or above 4096
 * @example
 * const r = rankForLora(layers, { strideA: 4, numB: 4, targetModules: ['q_proj', 'v_proj'] }, 16)
 */
export function rankForLora(
  layers: readonly LayerShape[],
  config: Omit<LilyConfigOptions, 'r'>,
  loraRank: number,
): number {
  if (!Number.isSafeInteger(loraRank) || loraRank < 1) {
    fail('ERR_LILY_ARGUMENT', 'loraRank', `expected an integer of at least 1, got ${describe(loraRank)}`)
  }
  const unit: LilyConfig = { ...readConfig(config), r: 1 }
  const sharing = shareLayers(layers, unit)
  const perRank = countParameters(sharing.parameters.values()).total
  const lora = loraRank * sumOf([...sharing.layers.values()], widthOf)
  const rank = Math.floor(lora / perRank)
  if (rank >= 1 && rank <= MAX_RANK) return rank
  return fail(
    'ERR_LILY_ARGUMENT',
    'loraRank',
    `expected r from 1 to ${MAX_RANK}, got ${rank}: LoRA of rank ${loraRank} has ${lora} parameters, Lily ${perRank} ` +
      `per unit of r; change loraRank, strideA or numB`,
  )
}

function readFloat(options: object, name: string, fallback: DType): DType {
  const value = get('options', options, name)
  return value === undefined ? fallback : readFloatDType(name, value)
}

function countParameters(parameters: Iterable<SharedParameter>): ParameterCounts {
  const counts = { a: 0, router: 0, b: 0 }
  for (const { kind, shape } of parameters) counts[kind] += shape[0] * shape[1]
  return { ...counts, total: counts.a + counts.router + counts.b }
}

function widthOf({ inFeatures, outFeatures }: LayerShape): number {
  return inFeatures + outFeatures
}

function sumOf<T>(items: readonly T[], numberOf: (item: T) => number): number {
  return items.reduce((sum, item) => sum + numberOf(item), 0)
}
