/** What a Lily adapter costs, from sizes alone, and what LoRA of the same layers would. */
import { bytesPerElement, type DType } from '../base/dtype.js'
import { describe, fail } from '../base/errors.js'
import { MAX_RANK } from '../base/limits.js'
import { type LilyConfig, type LilyConfigOptions, readConfig } from './config.js'
import { type LayerShape, type SharedParameter, shareLayers } from './sharing.js'

/** Numbers of one kind of parameter, shared ones counted once. */
export interface ParameterCounts {
  readonly a: number
  readonly router: number
  readonly b: number
  readonly total: number
}

/** What an adapter costs. */
export interface Accounting {
  readonly parameters: ParameterCounts
  /** Weights of the base layers that are adapted. */
  readonly baseParameters: number
  /** The rank of LoRA on these layers with as many parameters; mostly no integer. */
  readonly loraRank: number
  /** Floating-point operations of all layers together, a multiply-add counted as two; the base layers' are not in it. */
  readonly flops: {
    /** For each token: 2 r (d_in + d_out), the logits aside. */
    readonly forwardPerToken: number
    /** For each token: twice that. */
    readonly backwardPerToken: number
    /** For each mixture of experts (a call with batch routing, a sequence with sequence routing): 2 E r d_out. */
    readonly forwardPerMixture: number
    /** The mixture again, and the gradients of w and B: 6 E r d_out. */
    readonly backwardPerMixture: number
  }
  readonly bytes: {
    readonly parameters: number
    /** float32, whatever the type of the parameters. */
    readonly gradients: number
    /** Two moments in float32, as AdamW keeps them. */
    readonly optimizer: number
    /** What forward keeps of its own for backward, for each token of all layers: hidden and probabilities. x is the caller's. */
    readonly savedPerToken: number
  }
}

/**
 * The cost of a Lily adapter, without making one.
 *
 * @param options.dtype of the parameters. Default 'float32'
 * @param options.activations type of x and y. Default: that of the parameters
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function accountFor(
  layers: readonly LayerShape[],
  config: LilyConfigOptions,
  options: { readonly dtype?: DType | undefined; readonly activations?: DType | undefined } = {},
): Accounting {
  const { dtype = 'float32', activations = dtype } = options
  const checked = readConfig(config)
  const { r, numB } = checked
  const sharing = shareLayers(layers, checked)
  const adapted = [...sharing.layers.values()]
  const parameters = countParameters(sharing.parameters.values())
  const perToken = 2 * r * sumOf(adapted, widthOf)
  const perMixture = 2 * numB * r * sumOf(adapted, ({ outFeatures }) => outFeatures)
  return {
    parameters,
    baseParameters: sumOf(adapted, ({ inFeatures, outFeatures }) => inFeatures * outFeatures),
    loraRank: parameters.total / sumOf(adapted, widthOf),
    flops: {
      forwardPerToken: perToken,
      backwardPerToken: 2 * perToken,
      forwardPerMixture: perMixture,
      backwardPerMixture: 3 * perMixture,
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
 * The largest r with which Lily has no more parameters than LoRA of rank `loraRank` on the same layers. The numbers of
 * Lily's parameters are r times (the d_in of all blocks + E times the d_out of all targets + E for each layer).
 *
 * @param config strideA, numB and targets; its r is not read
 * @throws LilyError ERR_LILY_ARGUMENT where not even r = 1 is that small, or r would be above 4096
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
    `LoRA of rank ${loraRank} has ${lora} parameters, Lily ${perRank} for each r: r would be ${rank}, ` +
      `which is not from 1 to ${MAX_RANK}; change loraRank, strideA or numB`,
  )
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
