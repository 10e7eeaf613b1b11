/** Analysis of the expert weights of a router. */
import { checkSampleTokens, checkSampleWeights } from '../model/calibrate.js'
import type { LilyLayer } from '../model/lily-layer.js'
import { lilyForward } from '../operations/forward.js'
import type { TensorLike } from '../tensor/resolve.js'
import type { Tensor } from '../tensor/tensor.js'
import { entropy } from './entropy.js'

/** The weights that a router gives the experts, and their entropies. */
export interface RouterAnalysis {
  /** `[E]`: mean weights of the experts. */
  readonly weights: readonly number[]
  /** Source of the weights: the samples, the weights that the layer is frozen with, or 1/E without either. */
  readonly source: 'samples' | 'frozen' | 'uniform'
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
 * Analyses the router of a layer.
 *
 * @param calls sample inputs x of the layer, one tensor per call
 */
export async function analyseRouter(
  layer: LilyLayer,
  calls: readonly TensorLike[] | undefined,
): Promise<RouterAnalysis> {
  if (calls !== undefined) return sampleRouter(layer, calls)
  const { frozenWeights, router } = layer
  if (frozenWeights !== undefined) return describeWeights(frozenWeights, 'frozen')
  const experts = router.value.shape[0]
  return describeWeights(new Array<number>(experts).fill(1 / experts), 'uniform')
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
async function sampleRouter(layer: LilyLayer, calls: readonly TensorLike[]): Promise<RouterAnalysis> {
  const experts = layer.router.value.shape[0]
  const weights = new Float64Array(experts)
  let [entropySum, tokens] = [0, 0]
  for (const [i, x] of calls.entries()) {
    const probabilities = await probabilitiesOf(layer, x)
    checkSampleWeights(layer, i, probabilities)
    for (let t = 0; t < probabilities.length; t += experts) {
      const token = probabilities.subarray(t, t + experts)
      token.forEach((probability, e) => (weights[e] += probability))
      entropySum += relativeEntropy(token)
      tokens++
    }
  }
  checkSampleTokens(layer, tokens)
  const mean = weights.map((sum) => sum / tokens)
  return { ...describeWeights(mean, 'samples'), tokenEntropy: entropySum / tokens }
}

async function probabilitiesOf(layer: LilyLayer, x: TensorLike): Promise<Float32Array> {
  // Calls lilyForward instead of layer.forward, which throws for a merged layer.
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
