/** Analysis of the expert weights of a layer. */
import { pooledWeights } from '../model/calibrate.js'
import type { LilyLayer } from '../model/lily-layer.js'
import { lilyForward } from '../operations/forward.js'
import type { Tensor } from '../tensor/tensor.js'
import { entropy } from './entropy.js'

/** The weights of the experts in a layer, and their entropies. */
export interface RouterAnalysis {
  /** `[E]`: mean weights of the experts. */
  readonly weights: readonly number[]
  /**
   * Source of the weights: the samples, the weights that the layer is frozen with, the mixture that it has learned, or 1/E
   * without any of these.
   */
  readonly source: 'samples' | 'frozen' | 'learned' | 'uniform'
  /**
   * Entropy of the weights divided by ln E: 1 for equal weights, 0 if one expert has all weight; null for negative
   * weights.
   */
  readonly entropy: number | null
  /**
   * Mean entropy of the tokens' probabilities, divided by ln E; null without samples. Below `entropy` if tokens differ.
   */
  readonly tokenEntropy: number | null
}

/**
 * Analyses the weights of a layer.
 *
 * @param calls sample inputs x of the layer, one tensor per call
 */
export async function analyseRouter(layer: LilyLayer, calls: readonly Tensor[] | undefined): Promise<RouterAnalysis> {
  if (calls !== undefined) return sampleRouter(layer, calls)
  const { isFrozen, config } = layer
  const weights = await layer.constantWeights()
  if (weights === undefined || (!isFrozen && config.routing === 'uniform')) {
    return describeWeights(new Array<number>(config.numB).fill(1 / config.numB), 'uniform')
  }
  return describeWeights(weights, isFrozen ? 'frozen' : 'learned')
}

function describeWeights(weights: ArrayLike<number>, source: RouterAnalysis['source']): RouterAnalysis {
  const hasEntropy = Array.from(weights).every((weight) => weight >= 0)
  return {
    weights: Array.from(weights),
    source,
    entropy: hasEntropy ? relativeEntropy(weights) : null,
    tokenEntropy: null,
  }
}

/** Means over the tokens of the samples. The router is used even if the layer is frozen. */
async function sampleRouter(layer: LilyLayer, calls: readonly Tensor[]): Promise<RouterAnalysis> {
  const { weights, tokens } = await pooledWeights(layer, calls)
  const experts = weights.length
  let entropySum = 0
  for (const x of calls) {
    const probabilities = await probabilitiesOf(layer, x)
    for (let t = 0; t < probabilities.length; t += experts) {
      entropySum += relativeEntropy(probabilities.subarray(t, t + experts))
    }
  }
  return { ...describeWeights(weights, 'samples'), tokenEntropy: entropySum / tokens }
}

/** `[M, E]`. */
async function probabilitiesOf(layer: LilyLayer, x: Tensor): Promise<Float32Array> {
  // As in pooledWeights; with the pool 'logits' a call keeps no probabilities of tokens.
  const operands = { x, a: layer.a.value, router: layer.router.value, b: layer.b.value }
  const { y, saved } = lilyForward(operands, { routing: 'batch' })
  const { data } = await (saved.probabilities as Tensor).toHost()
  y.dispose()
  saved.dispose()
  return data as Float32Array
}

/** Entropy divided by its maximum, the logarithm of the number of weights. */
function relativeEntropy(weights: ArrayLike<number>): number {
  return entropy(weights) / Math.log(weights.length)
}
