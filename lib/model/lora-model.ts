/** The LoRA adapter of a base model. */
import { CREATE, checkCreate } from '../base/create.js'
import { inspectSymbol } from '../base/symbols.js'
import type { PretrainedFiles } from '../checkpoint/adapter-files.js'
import { type LoadOptions, loadPretrained } from '../checkpoint/load.js'
import { LORA } from '../checkpoint/peft-lora.js'
import { adapterFiles, saveAdapter, type SaveOptions } from '../checkpoint/save.js'
import {
  AdapterModel,
  type AdapterModelOptions,
  type AdapterModelParts,
  createLayers,
  initialParts,
} from './adapter-model.js'
import { ModelDropout } from './dropout.js'
import { type Initialisation, UNIFORM, ZERO } from './initial.js'
import { type LoraConfig, type LoraConfigOptions, readLoraConfig } from './lora-config.js'
import { LoraLayer } from './lora-layer.js'
import { layOutLora } from './lora-layout.js'

/** Options of {@link LoraModel.create}. */
export type LoraModelOptions = AdapterModelOptions<LoraConfigOptions>

/**
 * LoRA adapters for the layers of a base model (arXiv 2106.09685), with the methods of {@link LilyModel}. Each layer has
 * its own A and B. Gradients of parameters accumulate over calls until {@link zeroGrad}.
 *
 * @example
 * const config = { r: 16, loraAlpha: 32, targetModules: ['q_proj'] }
 * const model = LoraModel.create({ layers, config, seed: 1 })
 * const layer = model.layer('model.layers.0.self_attn.q_proj')
 * const { y, saved } = layer.forward({ x, y: baseOutput })
 * const dx = layer.backward({ dy, saved })
 */
export class LoraModel extends AdapterModel<LoraLayer> {
  private constructor(
    key: symbol,
    /** The configuration, with the defaults filled in. */
    readonly config: LoraConfig,
    parts: Omit<AdapterModelParts<LoraConfig>, 'config'>,
  ) {
    checkCreate(key, 'LoraModel', 'LoraModel.create(options) or LoraModel.fromPretrained(folder)')
    const { layers: shapes, values, seed, origin } = parts
    const dropout = new ModelDropout(config.loraDropout, seed, origin === undefined)
    const created = createLayers(
      layOutLora(shapes, config),
      values,
      (shape, parameter) => new LoraLayer(shape, parameter(shape.a), parameter(shape.b), config.fanInFanOut, dropout),
    )
    super(created, dropout, origin, shapes)
  }

  /**
   * Creates an adapter on the host with PEFT's initial values: A uniform in [-1/sqrt(d_in), 1/sqrt(d_in)), or normal with
   * the standard deviation 1/r for `initLoraWeights: 'gaussian'`, and B zero.
   *
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DTYPE, ERR_LILY_OUT_OF_MEMORY
   */
  static create(options: LoraModelOptions): LoraModel {
    return LoraModel.fromParts(initialParts(options, readLoraConfig, layOutLora, initialisationOf))
  }

  /**
   * Reads an adapter that PEFT or {@link savePretrained} saved: a folder with adapter_config.json and the tensors. The
   * parameters are on the host, in the type of the file unless `options.dtype` names another one. DoRA and other variants
   * are refused; docs/checkpoints.md lists how each field of PEFT's LoraConfig is read.
   *
   * @param folder its path, or, where there is no file system, the files that it would have
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT, with the names of the file and of the field or tensor;
   *   ERR_LILY_ARGUMENT, ERR_LILY_DTYPE, ERR_LILY_OUT_OF_MEMORY
   * @example
   * const model = await LoraModel.fromPretrained('adapter')
   * model.to({ type: 'cuda', id: 0 })
   */
  static override async fromPretrained(
    folder: string | URL | PretrainedFiles,
    options: LoadOptions = {},
  ): Promise<LoraModel> {
    return LoraModel.fromParts(await loadPretrained([LORA], folder, options))
  }

  /**
   * Saves the adapter to a folder, which is created if necessary. PEFT loads it. A model that was read and not modified
   * is written bit-identically. All files are replaced as one: the folder holds the old or the new adapter, also after a
   * crash, and if several processes save at once. Do not change the parameters until the promise resolves.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT if a file cannot be written, or if the folder contains a Lily
   *   adapter: the old files are intact; ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED, ERR_LILY_CUDA
   */
  override async savePretrained(folder: string | URL, options: SaveOptions<'peft'> = {}): Promise<void> {
    return saveAdapter(LORA, this, folder, options)
  }

  /**
   * The files that {@link savePretrained} writes, bit for bit, where there is no file system.
   *
   * @throws LilyError (as a rejection) as {@link LilyModel.pretrainedFiles}
   */
  override async pretrainedFiles(options: SaveOptions<'peft'> = {}): Promise<File[]> {
    return adapterFiles(LORA, this, options)
  }

  [inspectSymbol](): string {
    const { r, loraAlpha } = this.config
    return this.summary('LoraModel', `r ${r}, alpha ${loraAlpha}`)
  }

  /** @internal Creates a model from existing values. */
  static fromParts({ config, ...parts }: AdapterModelParts<LoraConfig>): LoraModel {
    return new LoraModel(CREATE, config, parts)
  }
}

function initialisationOf({ initLoraWeights }: LoraConfig): Initialisation {
  return ({ kind, shape: [rank] }) => {
    if (kind === 'b') return initLoraWeights === false ? UNIFORM : ZERO
    return initLoraWeights === 'gaussian' ? { standardDeviation: 1 / rank } : UNIFORM
  }
}
