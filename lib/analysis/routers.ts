/** Which experts a router chooses. */
import type { LilyLayer } from '../model/layer.js'
import { lilyForward } from '../operations/forward.js'
import type { TensorLike } from '../tensor/resolve.js'
import type { Tensor } from '../tensor/tensor.js'
import { entropy } from './entropy.js'

/** A router's weights, and how sure it is of them. */
export interface RouterAnalysis {
  /** [E]: the weights of the experts. */
  readonly weights: readonly number[]
  /** Where the weights are from: a sample, what the layer is frozen with, or 1/E for lack of both. */
  readonly source: 'samples' | 'frozen' | 'uniform'
  /** Of the weights, as a share of ln E: 1 where all weigh the same, 0 where one has it all; null for negative weights. */
  readonly entropy: number | null
  /** The mean of the tokens' own entropies; null without a sample. Less than `entropy` where tokens go different ways. */
  readonly tokenEntropy: number | null
}

/** @param calls what enters the layer, a tensor for each call */
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
  const isMean = Array.from(weights).every((weight) => weight >= 0)
  return { weights: Array.from(weights), source, entropy: isMean ? relativeEntropy(weights) : null, tokenEntropy: null }
}

/** The means over the tokens of a sample, whatever the layer is frozen with. */
async function sampleRouter(layer: LilyLayer, calls: readonly TensorLike[]): Promise<RouterAnalysis> {
  const experts = layer.router.value.shape[0]
  const weights = new Float64Array(experts)
  let [uncertainty, tokens] = [0, 0]
  for (const x of calls) {
    const probabilities = await probabilitiesOf(layer, x)
    for (let t = 0; t < probabilities.length; t += experts) {
      const token = probabilities.subarray(t, t + experts)
      token.forEach((probability, e) => (weights[e] += probability))
      uncertainty += relativeEntropy(token)
      tokens++
    }
  }
  const mean = weights.map((sum) => sum / tokens)
  return { ...describeWeights(mean, 'samples'), tokenEntropy: uncertainty / tokens }
}

async function probabilitiesOf(layer: LilyLayer, x: TensorLike): Promise<Float32Array> {
  // Not by the layer, which may be merged.
  const operands = { x, a: layer.a.value, router: layer.router.value, b: layer.b.value }
  const { y, saved } = lilyForward(operands, { routing: 'batch' })
  const { data } = await (saved.probabilities as Tensor).toHost()
  y.dispose()
  saved.dispose()
  return data as Float32Array
}

/** As a share of the largest that so many can have. */
function relativeEntropy(weights: ArrayLike<number>): number {
  return entropy(weights) / Math.log(weights.length)
}
