/** Analysis of a trained adapter: reads the arguments, and leaves the rest to the file of its method. */
import { describe, fail } from '../base/errors.js'
import { checkKeys, type Known } from '../base/options.js'
import { checkModel } from '../model/adapter-model.js'
import { type CalibrationSamples, readSamples } from '../model/calibrate.js'
import type { LilyModel } from '../model/lily-model.js'
import { LoraModel } from '../model/lora-model.js'
import { type Analysis, analyseLily } from './analyse-lily.js'
import { analyseLora, type LoraAnalysis } from './analyse-lora.js'

/** Options of {@link analyse}. */
export interface AnalysisOptions {
  /** Sample inputs of layers, in the form that {@link LilyModel.calibrate} expects. */
  readonly samples?: CalibrationSamples | undefined
  /** Called before each layer with its name, the number of layers done, and the number of all layers. */
  readonly onProgress?: ((name: string, done: number, layers: number) => void) | undefined
}

const OPTIONS: Known = new Set<keyof AnalysisOptions>(['samples', 'onProgress'])

/**
 * Analyses the updates of a LoRA adapter, which has no routers and no experts: there is no option `samples`.
 *
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED
 */
export async function analyse(model: LoraModel, options?: Pick<AnalysisOptions, 'onProgress'>): Promise<LoraAnalysis>
// Last, since TypeScript 7 explains the error of a call by the last overload alone.
/**
 * Analyses an adapter. The weights of a layer are the mean of its router's weights over the layer's samples, with routing
 * and pool of the model's config. Without samples they are the weights that the layer is frozen with, or the mixture that it
 * has learned, or else 1/E, which is independent of the router.
 *
 * For each layer it runs about 3 r³ + 4 r² d operations in float64, on all threads of the CPU backend; the call blocks
 * the main thread for one layer at a time.
 *
 * docs/checkpoints.md#what-an-adapter-has-learnt defines the singular values of an update.
 *
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT, also for a model with activation 'relu', whose updates are no
 *   matrices, and for samples with routing 'uniform' or 'learned', which use no router; ERR_LILY_SHAPE,
 *   ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED
 * @example
 * const { targets } = await analyse(model, { samples: { 'layers.0.q_proj': [x] } })
 * for (const { layers } of targets) for (const { name, update } of layers) console.log(name, update.effectiveRank)
 */
export async function analyse(model: LilyModel, options?: AnalysisOptions): Promise<Analysis>
export async function analyse(
  model: LilyModel | LoraModel,
  options: AnalysisOptions = {},
): Promise<Analysis | LoraAnalysis> {
  checkModel(model)
  checkKeys('options', options, OPTIONS)
  const { samples, onProgress } = options as AnalysisOptions
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    fail('ERR_LILY_ARGUMENT', 'onProgress', `expected a function, got ${describe(onProgress)}`)
  }
  if (model instanceof LoraModel) {
    if (samples === undefined) return analyseLora(model, onProgress)
    fail('ERR_LILY_ARGUMENT', 'samples', 'are for routers, which LoRA does not have; leave them out')
  }
  return analyseLily(model, new Map(samples === undefined ? [] : readSamples(model, samples)), onProgress)
}
