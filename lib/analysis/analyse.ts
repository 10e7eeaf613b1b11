/**
 * Analysis of a trained adapter: the routers' weights, the differences between experts, and the singular values of
 * updates.
 */
import { describe, fail } from '../base/errors.js'
import { checkKeys, get, type Known } from '../base/options.js'
import { type CalibrationSamples, readSamples } from '../model/calibrate.js'
import type { LilyLayer } from '../model/lily-layer.js'
import { isModel, type LilyModel } from '../model/lily-model.js'
import { isLoraModel, type LoraModel } from '../model/lora-model.js'
import type { Parameter } from '../model/parameter.js'
import { analyseLora, type LoraAnalysis } from './analyse-lora.js'
import { gramFactor } from './eigenvalues.js'
import { analyseExperts, type ExpertAnalysis } from './experts.js'
import { analyseRouter, type RouterAnalysis } from './routers.js'
import { analyseUpdate, combine, type UpdateAnalysis } from './updates.js'
import { valuesOf } from './values.js'

/** Options of {@link analyse}. */
export interface AnalysisOptions {
  /** Sample inputs of layers, in the form that {@link LilyModel.calibrate} expects. */
  readonly samples?: CalibrationSamples | undefined
  /** Called before each layer with its name, the number of layers done, and the number of all layers. */
  readonly onProgress?: ((name: string, done: number, layers: number) => void) | undefined
}

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
  /** Number of elements of A, routers and B together. */
  readonly parameters: number
  /** Number of those that are trained: without the routers of frozen layers. */
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
  /** In the order of the model. */
  readonly targets: readonly TargetAnalysis[]
}

const OPTIONS: Known = new Set<keyof AnalysisOptions>(['samples', 'onProgress'])

/**
 * Analyses an adapter. The weights of a layer are the mean of its router's weights over the layer's samples. Without
 * samples they are the weights that the layer is frozen with, or else 1/E, which is independent of the router.
 *
 * For each layer it runs about 3 r³ + 4 r² d operations in float64, on all threads of the CPU backend; the call blocks
 * the main thread for one layer at a time.
 *
 * The singular values of an update are those of docs/checkpoints.md#what-an-adapter-has-learnt.
 *
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE,
 *   ERR_LILY_DISPOSED
 * @example
 * const { targets } = await analyse(model, { samples: { 'layers.0.q_proj': [x] } })
 * for (const { layers } of targets) for (const { name, update } of layers) console.log(name, update.effectiveRank)
 */
export async function analyse(model: LilyModel, options?: AnalysisOptions): Promise<Analysis>
/**
 * Analyses the updates of a LoRA adapter, which has no routers and no experts: there is no option `samples`.
 *
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED
 */
export async function analyse(model: LoraModel, options?: Pick<AnalysisOptions, 'onProgress'>): Promise<LoraAnalysis>
export async function analyse(
  model: LilyModel | LoraModel,
  options: AnalysisOptions = {},
): Promise<Analysis | LoraAnalysis> {
  if (!isModel(model) && !isLoraModel(model)) {
    fail('ERR_LILY_ARGUMENT', 'model', `expected a LilyModel or a LoraModel, got ${describe(model)}`)
  }
  checkKeys('options', options, OPTIONS)
  const given = get('options', options, 'samples') as CalibrationSamples | undefined
  const onProgress = get('options', options, 'onProgress') as AnalysisOptions['onProgress']
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    fail('ERR_LILY_ARGUMENT', 'onProgress', `expected a function, got ${describe(onProgress)}`)
  }
  if (isLoraModel(model)) {
    if (given === undefined) return analyseLora(model, onProgress)
    fail('ERR_LILY_ARGUMENT', 'samples', 'are for routers, which LoRA does not have; leave them out')
  }
  const samples = new Map(given === undefined ? [] : readSamples(model, given))
  const { r, strideA, numB, scaling } = model.config

  const groups = new Map<Parameter, LilyLayer[]>()
  for (const layer of model.layers.values()) {
    const group = groups.get(layer.b)
    if (group === undefined) groups.set(layer.b, [layer])
    else group.push(layer)
  }
  const factors = new Map<Parameter, Float64Array>()
  const factorFor = async ({ a }: LilyLayer) => {
    const factor = factors.get(a) ?? gramFactor(new Float64Array(await valuesOf(a)), r)
    factors.set(a, factor)
    return factor
  }

  const targets: TargetAnalysis[] = []
  let done = 0
  for (const [b, group] of groups) {
    const { target, inFeatures, outFeatures } = group[0].shape
    const parameters = countElements(group.flatMap(({ a, router }) => [a, router, b]))
    const trainable = parameters - countElements(group.filter(({ isFrozen }) => isFrozen).map(({ router }) => router))
    const loraRank = trainable / (group.length * (inFeatures + outFeatures))
    const experts = await valuesOf(b)
    const combined = new Float64Array(experts.length / numB)
    const layers: LayerAnalysis[] = []
    for (const layer of group) {
      onProgress?.(layer.name, done++, model.layers.size)
      const router = await analyseRouter(layer, samples.get(layer))
      const update = analyseUpdate(
        await factorFor(layer),
        combine(experts, router.weights, combined),
        r,
        scaling,
        loraRank,
      )
      layers.push({ name: layer.name, router, update })
    }
    const expertAnalysis = analyseExperts(experts, numB)
    targets.push({
      target,
      inFeatures,
      outFeatures,
      parameters,
      trainable,
      loraRank,
      experts: expertAnalysis,
      layers,
    })
  }
  return { r, strideA, numB, scaling, targets }
}

/** Number of elements of parameters, each counted once. */
function countElements(parameters: readonly Parameter[]): number {
  return [...new Set(parameters)].reduce((sum, { value: { shape } }) => sum + shape[0] * shape[1], 0)
}
