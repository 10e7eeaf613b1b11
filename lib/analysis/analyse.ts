/** What an adapter has learnt: which experts its routers choose, how the experts differ, how many directions it changes. */
import { checkKeys, get, type Known } from '../base/options.js'
import { accountFor } from '../model/accounting.js'
import { type CalibrationSamples, readSamples } from '../model/calibrate.js'
import type { LilyLayer } from '../model/layer.js'
import type { LilyModel } from '../model/model.js'
import type { Parameter } from '../model/parameter.js'
import { toFloat32 } from '../tensor/numbers.js'
import { analyseExperts, type ExpertAnalysis } from './experts.js'
import { analyseRouter, type RouterAnalysis } from './routers.js'
import { analyseUpdate, factorOf, mix, type UpdateAnalysis } from './updates.js'

/** Options of {@link analyse}. */
export interface AnalysisOptions {
  /** What enters each layer, as {@link LilyModel.calibrate} takes it. */
  readonly samples?: CalibrationSamples | undefined
  /** Called before each layer with its name, how many are done, and how many there are. */
  readonly onProgress?: ((name: string, done: number, layers: number) => void) | undefined
}

/** One layer: its router, and the update of its weight with the router's weights. */
export interface LayerAnalysis {
  readonly name: string
  readonly router: RouterAnalysis
  readonly update: UpdateAnalysis
}

/** The layers that share one set of experts. */
export interface TargetAnalysis {
  readonly target: string
  readonly inFeatures: number
  readonly outFeatures: number
  /** Numbers of A, routers and B together. */
  readonly parameters: number
  /** The rank of LoRA on these layers with as many parameters; mostly no integer. */
  readonly loraRank: number
  readonly experts: ExpertAnalysis
  /** In the model's order. */
  readonly layers: readonly LayerAnalysis[]
}

/** Result of {@link analyse}: plain data. */
export interface Analysis {
  readonly r: number
  readonly strideA: number
  readonly numB: number
  readonly scaling: number
  readonly targets: readonly TargetAnalysis[]
}

const OPTIONS: Known = new Set<keyof AnalysisOptions>(['samples', 'onProgress'])

/**
 * Looks at an adapter. A layer's router is looked at with the sample of what enters it; without one the layer's weights
 * are those it is frozen with, else 1/E, which says nothing of its router.
 *
 * Takes some r³ + r² d operations of the main thread for each layer: seconds where r is 900, milliseconds where it is 50.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE
 */
export async function analyse(model: LilyModel, options: AnalysisOptions = {}): Promise<Analysis> {
  checkKeys('options', options, OPTIONS)
  const given = get('options', options, 'samples') as CalibrationSamples | undefined
  const samples = new Map(given === undefined ? [] : readSamples(model, given))
  const { r, strideA, numB, scaling } = model.config

  const groups = new Map<Parameter, LilyLayer[]>()
  for (const layer of model.layers.values()) groups.set(layer.b, [...(groups.get(layer.b) ?? []), layer])
  const factors = new Map<Parameter, Float64Array>()
  const factorFor = async ({ a }: LilyLayer) => {
    const factor = factors.get(a) ?? factorOf(Float64Array.from(await valuesOf(a)), r)
    factors.set(a, factor)
    return factor
  }

  const targets: TargetAnalysis[] = []
  let done = 0
  for (const [b, group] of groups) {
    const { target, inFeatures, outFeatures } = group[0].shape
    const { parameters, loraRank } = accountFor(
      group.map(({ name }) => ({ name, inFeatures, outFeatures })),
      model.config,
    )
    const experts = await valuesOf(b)
    const layers: LayerAnalysis[] = []
    for (const layer of group) {
      options.onProgress?.(layer.name, done++, model.layers.size)
      const router = await analyseRouter(layer, samples.get(layer))
      const update = analyseUpdate(await factorFor(layer), mix(experts, router.weights), r, scaling, loraRank)
      layers.push({ name: layer.name, router, update })
    }
    const expertAnalysis = analyseExperts(experts, numB)
    targets.push({
      target,
      inFeatures,
      outFeatures,
      parameters: parameters.total,
      loraRank,
      experts: expertAnalysis,
      layers,
    })
  }
  return { r, strideA, numB, scaling, targets }
}

async function valuesOf({ value }: Parameter): Promise<Float32Array> {
  const { dtype, data } = await value.toHost()
  return toFloat32(dtype, data)
}
