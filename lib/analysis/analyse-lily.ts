/**
 * Analysis of a Lily adapter: the routers' weights, the differences between experts, and the singular values of updates.
 */
import { countOf } from '../base/errors.js'
import { grouped, quoted, summarised } from '../base/summary.js'
import { checkLinear, type ModelRouting } from '../model/lily-config.js'
import type { LilyLayer } from '../model/lily-layer.js'
import type { LilyModel } from '../model/lily-model.js'
import type { Parameter } from '../model/parameter.js'
import type { Pool } from '../operations/problem.js'
import type { Tensor } from '../tensor/tensor.js'
import { gramFactor } from './spectrum.js'
import { analyseExperts, type ExpertAnalysis } from './experts.js'
import { analyseRouter, type RouterAnalysis } from './routers.js'
import { analyseUpdate, combine, rankText, type UpdateAnalysis } from './updates.js'
import { valuesOf } from './values.js'

/** Analysis of one layer: its router, and the update of its weight for the router's mean weights. */
export interface LayerAnalysis {
  /** Name of the layer. */
  readonly name: string
  /** Its router. */
  readonly router: RouterAnalysis
  /** The update of its weight, for the mean weights of the router. */
  readonly update: UpdateAnalysis
}

/** Analysis of one target: the layers that share one set of experts. */
export interface TargetAnalysis {
  /** Suffix of `targetModules`, or the pattern. */
  readonly target: string
  /** d_in. */
  readonly inFeatures: number
  /** d_out. */
  readonly outFeatures: number
  /** Number of elements of A, routers or logits, and B together. */
  readonly parameters: number
  /** Number of those that are trained: without the routers of frozen layers, and with routing 'uniform' without any. */
  readonly trainable: number
  /** Rank at which LoRA on these layers has as many trainable parameters; usually not an integer. */
  readonly loraRank: number
  /** The experts B_e that the layers share. */
  readonly experts: ExpertAnalysis
  /** In the order of the model. */
  readonly layers: readonly LayerAnalysis[]
}

/** Result of {@link analyse}, as plain data. */
export interface Analysis {
  /** Rank. */
  readonly r: number
  /** Number of consecutive layers that share an A. */
  readonly strideA: number
  /** Number of experts E. */
  readonly numB: number
  /** Factor s on the adapter's output. */
  readonly scaling: number
  /** Tokens that share one mixture of the experts. */
  readonly routing: ModelRouting
  /** Pooling statistic of batch and sequence routing. */
  readonly pool: Pool
  /** In the order of the model. */
  readonly targets: readonly TargetAnalysis[]
}

/** @param samples inputs of layers */
export async function analyseLily(
  model: LilyModel,
  samples: ReadonlyMap<LilyLayer, readonly Tensor[]>,
  onProgress: ((name: string, done: number, layers: number) => void) | undefined,
): Promise<Analysis> {
  checkLinear('model', model.config)
  const { r, strideA, numB, scaling, routing, pool } = model.config
  const factors = new Map<Parameter, Float64Array>()
  const factorFor = async ({ a }: LilyLayer) => {
    const factor = factors.get(a) ?? gramFactor(new Float64Array(await valuesOf(a)), r)
    factors.set(a, factor)
    return factor
  }

  const targets: TargetAnalysis[] = []
  let done = 0
  for (const [b, group] of groupsByB(model)) {
    const sizes = sizesOf(group)
    const experts = await valuesOf(b)
    const combined = new Float64Array(experts.length / numB)
    const layers: LayerAnalysis[] = []
    for (const layer of group) {
      const { name } = layer
      onProgress?.(name, done++, model.layers.size)
      const router = await analyseRouter(layer, samples.get(layer))
      const weighted = combine(experts, router.weights, combined)
      const update = analyseUpdate(await factorFor(layer), weighted, r, scaling, sizes.loraRank)
      layers.push({ name, router, update })
    }
    targets.push({ ...sizes, experts: analyseExperts(experts, numB), layers })
  }
  return summarised({ r, strideA, numB, scaling, routing, pool, targets }, analysisText)
}

/** An analysis in the console: a line for each target. */
function analysisText({ r, strideA, numB, routing, targets }: Analysis): string {
  const lines = targets.map(({ target, layers, parameters }) => {
    const count = `${countOf(layers.length, 'layer')}, ${grouped(parameters)} parameters`
    return `  ${quoted(target)}: ${count}, ${rankText(layers)}`
  })
  return `Analysis { r ${r}, stride_A ${strideA}, E ${numB}, routing '${routing}'\n${lines.join('\n')} }`
}

function groupsByB({ layers }: LilyModel): Map<Parameter, LilyLayer[]> {
  const groups = new Map<Parameter, LilyLayer[]>()
  for (const layer of layers.values()) {
    const group = groups.get(layer.b)
    if (group === undefined) groups.set(layer.b, [layer])
    else group.push(layer)
  }
  return groups
}

function sizesOf(group: readonly LilyLayer[]): Omit<TargetAnalysis, 'experts' | 'layers'> {
  const { target, inFeatures, outFeatures } = group[0].shape
  const parameters = countElements(group.flatMap(({ a, router, b }) => [a, router, b]))
  const untrained = group.filter(({ usesRouter }) => !usesRouter)
  const trainable = parameters - countElements(untrained.map(({ router }) => router))
  const loraRank = trainable / (group.length * (inFeatures + outFeatures))
  return { target, inFeatures, outFeatures, parameters, trainable, loraRank }
}

/** Number of elements of parameters, each counted once. */
function countElements(parameters: readonly Parameter[]): number {
  return [...new Set(parameters)].reduce((sum, { value: { shape } }) => sum + shape[0] * shape[1], 0)
}
