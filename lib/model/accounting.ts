/**
 * Parameters, FLOPs and bytes of a Lily adapter, computed from sizes, and the comparison with LoRA on the same layers.
 */
import { bytesPerElement, type DType, readFloatDType } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { MAX_RANK } from '../base/limits.js'
import { checkCount, type Known, readProperties } from '../base/options.js'
import type { LayerShape } from './layer-shape.js'
import type { ParameterShape } from './layout.js'
import { type LilyConfig, type LilyConfigOptions, type ModelRouting, readConfig } from './lily-config.js'
import { shareLayers } from './sharing.js'

/** Number of parameter elements, in total and by kind. A shared parameter is counted once. */
export interface ParameterCounts {
  /** Number of elements of all A. */
  readonly a: number
  /** Number of elements of all routers, with routing 'learned' of the logits in their place. */
  readonly router: number
  /** Number of elements of all B. */
  readonly b: number
  /** Number of elements of all of these. */
  readonly total: number
}

/** Result of {@link accountFor}. */
export interface Accounting {
  /** Elements of the adapter's parameters. */
  readonly parameters: ParameterCounts
  /** Elements of those that are trained: without the routers with routing 'uniform'. */
  readonly trainable: ParameterCounts
  /** Elements of the weights of the adapted base layers. */
  readonly baseParameters: number
  /** Rank at which LoRA on these layers has as many trainable parameters; usually not an integer. */
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
    /** Gradients of trainable parameters; float32 for every dtype of the parameters. */
    readonly gradients: number
    /** State of AdamW: two float32 moments of each trainable parameter. */
    readonly optimizer: number
    /**
     * Per token, over all layers: hidden, and the probabilities of a router, which forward saves for backward. x is not
     * included.
     */
    readonly savedPerToken: number
  }
}

/** Options of {@link accountFor}. */
export interface AccountingOptions {
  /** Type of the parameters. Default 'float32'. */
  readonly dtype?: DType | undefined
  /** Type of x and y. Default: the type of the parameters. */
  readonly activations?: DType | undefined
}

const OPTIONS: Known = new Set<keyof AccountingOptions>(['dtype', 'activations'])

/**
 * Computes the cost of a Lily adapter without creating it. Formulas: docs/math.md.
 *
 * @param layers linear layers of the base model
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DTYPE
 * @example
 * const { trainable, loraRank } = accountFor(layers, { r: 16, numB: 4, strideA: 4, targetModules: ['q_proj'] })
 */
export function accountFor(
  layers: readonly LayerShape[],
  config: LilyConfigOptions,
  options: AccountingOptions = {},
): Accounting {
  const { dtype, activations } = readProperties('options', options, OPTIONS, (given) => {
    const { dtype = 'float32', activations = dtype } = given
    return { dtype: readFloatDType('dtype', dtype), activations: readFloatDType('activations', activations) }
  })
  const checked = readConfig(config)
  const { r, numB, routing } = checked
  const sharing = shareLayers(layers, checked)
  const adapted = [...sharing.layers.values()]
  const parameters = countParameters(sharing.parameters.values())
  const trainable = trainableOf(parameters, checked)
  const perToken = 2 * r * sumOf(adapted, widthOf)
  const perCombination = 2 * numB * r * sumOf(adapted, ({ outFeatures }) => outFeatures)
  return {
    parameters,
    trainable,
    baseParameters: sumOf(adapted, ({ inFeatures, outFeatures }) => inFeatures * outFeatures),
    loraRank: trainable.total / sumOf(adapted, widthOf),
    flops: {
      forwardPerToken: perToken,
      backwardPerToken: 2 * perToken,
      forwardPerMixture: perCombination,
      backwardPerMixture: 3 * perCombination,
    },
    bytes: {
      parameters: bytesPerElement(dtype) * parameters.total,
      gradients: 4 * trainable.total,
      optimizer: 8 * trainable.total,
      savedPerToken:
        adapted.length * (r * bytesPerElement(activations) + (computesProbabilities(routing) ? 4 * numB : 0)),
    },
  }
}

/** A rank of Lily beside the size of a LoRA, part of {@link RanksForLora}. */
export interface RankForLora {
  /** Rank. */
  readonly r: number
  /** Number of trainable parameters of Lily at this r. */
  readonly parameters: number
  /** By how many percent they exceed the LoRA's parameters; negative below. */
  readonly percent: number
}

/** Result of {@link ranksForLora}. */
export interface RanksForLora {
  /** Number of parameters of the LoRA. */
  readonly parameters: number
  /** The largest r with no more parameters than the LoRA; undefined if r = 1 has more. */
  readonly within: RankForLora | undefined
  /** The next rank, which has more; undefined above 4096. */
  readonly next: RankForLora | undefined
}

/**
 * The ranks at which Lily comes closest to the size of LoRA of rank `loraRank` on the same layers, from below and from
 * above. Lily has r (sum of d_in over the As + E * sum of d_out over the targets + E * number of layers) trainable
 * parameters (docs/model.md#cost); the last term counts the routers, and with routing 'learned' it has no factor r.
 *
 * @param config configuration with strideA, numB, routing and targets; r is ignored. With routing 'uniform' the routers do
 *   not count
 * @throws LilyError ERR_LILY_ARGUMENT
 * @example
 * const { within, next } = ranksForLora(layers, { strideA: 4, numB: 4 }, 16)
 * const r = next !== undefined && next.percent < 1 ? next.r : within?.r
 */
export function ranksForLora(
  layers: readonly LayerShape[],
  config: Omit<LilyConfigOptions, 'r'>,
  loraRank: number,
): RanksForLora {
  const { lora, perRank, fixed } = compareSizes(layers, config, loraRank)
  const at = (r: number): RankForLora | undefined => {
    const parameters = fixed + r * perRank
    return r < 1 || r > MAX_RANK ? undefined : { r, parameters, percent: (100 * (parameters - lora)) / lora }
  }
  const within = Math.max(0, Math.min(Math.floor((lora - fixed) / perRank), MAX_RANK))
  return { parameters: lora, within: at(within), next: at(within + 1) }
}

/**
 * The largest r at which Lily has no more parameters than LoRA of rank `loraRank` on the same layers: `within.r` of
 * {@link ranksForLora}, which also tells what the next rank costs (docs/model.md#cost).
 *
 * @throws LilyError ERR_LILY_ARGUMENT if that r is 0 or above 4096
 * @example
 * const r = rankForLora(layers, { strideA: 4, numB: 4, targetModules: ['q_proj', 'v_proj'] }, 16)
 */
export function rankForLora(
  layers: readonly LayerShape[],
  config: Omit<LilyConfigOptions, 'r'>,
  loraRank: number,
): number {
  const { lora, perRank, fixed } = compareSizes(layers, config, loraRank)
  const rank = Math.max(0, Math.floor((lora - fixed) / perRank))
  if (rank >= 1 && rank <= MAX_RANK) return rank
  return fail(
    'ERR_LILY_ARGUMENT',
    'loraRank',
    `expected r from 1 to ${MAX_RANK}, got ${rank}: LoRA of rank ${loraRank} has ${lora} parameters, Lily ${perRank} ` +
      `per unit of r${fixed === 0 ? '' : ` and ${fixed} logits`}; change loraRank, strideA or numB`,
  )
}

/** The parameters of a LoRA, and the trainable parameters of Lily: per unit of r, and independent of r. */
function compareSizes(
  layers: readonly LayerShape[],
  config: Omit<LilyConfigOptions, 'r'>,
  loraRank: number,
): { lora: number; perRank: number; fixed: number } {
  checkCount('loraRank', loraRank, 1, Number.MAX_SAFE_INTEGER)
  const unit: LilyConfig = { ...readConfig(config), r: 1 }
  const sharing = shareLayers(layers, unit)
  const { total, router } = trainableOf(countParameters(sharing.parameters.values()), unit)
  const fixed = unit.routing === 'learned' ? router : 0
  return { lora: loraRank * sumOf([...sharing.layers.values()], widthOf), perRank: total - fixed, fixed }
}

function trainableOf({ a, router, b, total }: ParameterCounts, { routing }: LilyConfig): ParameterCounts {
  return routing === 'uniform' ? { a, router: 0, b, total: a + b } : { a, router, b, total }
}

function computesProbabilities(routing: ModelRouting): boolean {
  return routing !== 'uniform' && routing !== 'learned'
}

function countParameters(parameters: Iterable<ParameterShape>): ParameterCounts {
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
