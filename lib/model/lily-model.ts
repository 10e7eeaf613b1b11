/** The Lily adapter of a base model. */
import { CREATE, checkCreate } from '../base/create.js'
import { inspectSymbol } from '../base/symbols.js'
import type { PretrainedFiles } from '../checkpoint/adapter-files.js'
import { type LoadOptions, loadPretrained } from '../checkpoint/load.js'
import { LILY } from '../checkpoint/peft-lily.js'
import { adapterFiles, asLoraFiles, saveAdapter, saveAsLora, type SaveOptions } from '../checkpoint/save.js'
import {
  AdapterModel,
  type AdapterModelOptions,
  type AdapterModelParts,
  createLayers,
  initialParts,
} from './adapter-model.js'
import { calibrate, type Calibration, type CalibrationSamples, Calibrator, checkRouters } from './calibrate.js'
import { ModelDropout } from './dropout.js'
import { type FrozenWeights, readFrozenWeights } from './freeze.js'
import { type Initialisation, UNIFORM, ZERO } from './initial.js'
import { type LilyConfig, type LilyConfigOptions, readConfig } from './lily-config.js'
import { LilyLayer } from './lily-layer.js'
import { exportLora, type LoraAdapter } from './lora-export.js'
import type { Parameter } from './parameter.js'
import { shareLayers } from './sharing.js'

/** Options of {@link LilyModel.create}. */
export type LilyModelOptions = AdapterModelOptions<LilyConfigOptions>

/** The contents of a checkpoint. */
export interface LilyModelParts extends AdapterModelParts<LilyConfig> {
  /** Weights of the layers that are frozen. */
  readonly frozen?: ReadonlyMap<string, Float32Array> | undefined
}

/**
 * Lily adapters for the layers of a base model (arXiv 2407.09946). Layers of one target share A in blocks of `strideA`
 * layers and one set of B_e; every layer has its own router. Gradients of parameters accumulate over layers and calls
 * until {@link zeroGrad}.
 *
 * @example
 * const config = { r: 16, strideA: 2, numB: 4, targetModules: ['q_proj'] }
 * const model = LilyModel.create({ layers, config, seed: 1 })
 * const layer = model.layer('model.layers.0.self_attn.q_proj')
 * const { y, saved } = layer.forward({ x, y: baseOutput })
 * const dx = layer.backward({ dy, saved })
 */
export class LilyModel extends AdapterModel<LilyLayer> {
  #trainable: ReadonlyMap<string, Parameter>

  private constructor(
    key: symbol,
    /** The configuration, with the defaults filled in. */
    readonly config: LilyConfig,
    parts: Omit<LilyModelParts, 'config'>,
  ) {
    checkCreate(key, 'LilyModel', 'LilyModel.create(options) or LilyModel.fromPretrained(folder)')
    const { layers: shapes, values, seed, origin, frozen } = parts
    const dropout = new ModelDropout(config.dropout, seed, origin === undefined)
    const created = createLayers(
      shareLayers(shapes, config),
      values,
      (shape, parameter) =>
        new LilyLayer(shape, config, parameter(shape.a), parameter(shape.router), parameter(shape.b), dropout),
      ({ kind, shape }) => (kind === 'b' ? { experts: config.numB, rank: config.r, dOut: shape[1] } : null),
    )
    for (const [name, weights] of frozen ?? []) created.layers.get(name)?.freeze(weights)
    super(created, dropout, origin, shapes)
    this.#trainable = this.#findTrainable()
  }

  /**
   * Creates an adapter on the host with PEFT's initial values: A uniform in [-1/sqrt(d_in), 1/sqrt(d_in)), routers
   * uniform in [-1/sqrt(r), 1/sqrt(r)), B zero. The logits of routing 'learned', which PEFT does not have, are normal with
   * the standard deviation 1: experts that began with equal weights would stay equal.
   *
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DTYPE, ERR_LILY_OUT_OF_MEMORY
   */
  static create(options: LilyModelOptions): LilyModel {
    const initialisationOf =
      ({ initWeights, routing }: LilyConfig): Initialisation =>
      ({ kind }) => {
        if (kind === 'router' && routing === 'learned') return { standardDeviation: 1 }
        return kind === 'b' && initWeights ? ZERO : UNIFORM
      }
    return LilyModel.fromParts(initialParts(options, readConfig, shareLayers, initialisationOf))
  }

  /**
   * Reads an adapter that PEFT or {@link savePretrained} saved: a folder with adapter_config.json and the tensors. All
   * copies of a shared parameter must be bit-identical; one is kept. The parameters are on the host, in the type of the
   * file unless `options.dtype` names another one.
   *
   * @param folder its path, or, where there is no file system, the files that it would have; see docs/checkpoints.md
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT, with the names of the file and of the field or tensor;
   *   ERR_LILY_ARGUMENT, ERR_LILY_DTYPE, ERR_LILY_OUT_OF_MEMORY
   * @example
   * const model = await LilyModel.fromPretrained('adapter')
   * model.to({ type: 'cuda', id: 0 })
   */
  static override async fromPretrained(
    folder: string | URL | PretrainedFiles,
    options: LoadOptions = {},
  ): Promise<LilyModel> {
    return LilyModel.fromParts(await loadPretrained([LILY], folder, options))
  }

  /**
   * Saves the adapter to a folder, which is created if necessary. PEFT loads the format 'peft', which cannot have routing
   * 'learned'. A model that was read and not modified is written bit-identically. All files are replaced as one: the folder
   * holds the old or the new adapter, also after a crash, and if several processes save at once. The weights that
   * {@link freeze} set are saved too; PEFT ignores them. Do not change the parameters until the promise resolves.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT if a file cannot be written, or if a parameter is infinite or
   *   NaN: the old files are intact; ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED, ERR_LILY_CUDA
   */
  override async savePretrained(folder: string | URL, options: SaveOptions = {}): Promise<void> {
    return saveAdapter(LILY, this, folder, options)
  }

  /**
   * The files that {@link savePretrained} writes, bit for bit, where there is no file system: for {@link fromPretrained},
   * an upload or a download. Tensors are copied one at a time. Do not change the parameters until the promise resolves.
   *
   * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED, ERR_LILY_CUDA; ERR_LILY_CHECKPOINT if
   *   the files cannot hold the model, or if a parameter is infinite or NaN
   */
  override async pretrainedFiles(options: SaveOptions = {}): Promise<File[]> {
    return adapterFiles(LILY, this, options)
  }

  /**
   * Saves the result of {@link exportLora} as a LoRA adapter in PEFT's format, which servers of LoRA adapters load. Its
   * rank is r and its lora_alpha is scaling * r. All layers must be frozen, or the routing be 'uniform' or 'learned'.
   *
   * @throws LilyError (as a rejection) ERR_LILY_DISPOSED; ERR_LILY_ARGUMENT as {@link exportLora}; ERR_LILY_CHECKPOINT
   *   if a file cannot be written, if an element is infinite or NaN, or if the folder contains a Lily adapter, which
   *   cannot be recovered from LoRA
   */
  async saveLora(folder: string | URL): Promise<void> {
    return saveAsLora(this, folder)
  }

  /**
   * The files that {@link saveLora} writes, where there is no file system.
   *
   * @throws LilyError (as a rejection) ERR_LILY_DISPOSED; ERR_LILY_ARGUMENT as {@link exportLora}; ERR_LILY_CHECKPOINT
   *   if an element is infinite or NaN
   */
  async loraFiles(): Promise<File[]> {
    return asLoraFiles(this)
  }

  /** @internal Creates a model from existing values. */
  static fromParts({ config, ...parts }: LilyModelParts): LilyModel {
    return new LilyModel(CREATE, config, parts)
  }

  /**
   * The trainable parameters by name, in a fixed order. A shared parameter has PEFT's name in the first layer that uses
   * it, such as 'layers.0.q_proj.lily_A.weight'. The routers of frozen layers are not among them, because constant
   * weights replace them, and no router is with routing 'uniform'; {@link savePretrained} still saves them. The entries
   * stay the same for the life of the model, and so does the map until {@link freeze} or {@link unfreeze} changes which
   * layers are frozen: then create a new AdamW. {@link to} and {@link toHost} replace the tensors of the entries.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  override parameters(): ReadonlyMap<string, Parameter> {
    this.allParameters()
    return this.#trainable
  }

  /**
   * Replaces routers by constant expert weights. Frozen layers can be merged and exported, and the output of one
   * sequence no longer depends on the rest of the batch. Their routers are no longer among {@link parameters}.
   *
   * @param weights 'uniform' (1/E for all layers), or [E] by layer name, as {@link calibrate} returns; layers without
   *   an entry do not change
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DISPOSED; no layer has been frozen
   */
  freeze(weights: FrozenWeights): void {
    this.allParameters()
    const frozen = readFrozenWeights(this, weights)
    for (const [layer, values] of frozen) layer.freeze(values)
    this.#updateTrainable()
  }

  /**
   * Restores the routers of all layers.
   *
   * @throws LilyError ERR_LILY_ARGUMENT if a layer is merged, ERR_LILY_DISPOSED
   */
  unfreeze(): void {
    this.allParameters()
    for (const layer of this.layers.values()) layer.checkNotMerged()
    for (const layer of this.layers.values()) layer.freeze(null)
    this.#updateTrainable()
  }

  /**
   * Averages the routers' weights over sample inputs, and computes the error of freezing the layers to them. Routing, pool
   * and activation are as in {@link config}.
   *
   * @param samples inputs of each layer, by layer name: [..., d_in], or [B, N, d_in] with routing 'sequence'; one tensor
   *   per call
   * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT, also with routing 'uniform' or 'learned', which use no router; and
   *   as `LilyLayer.forward`
   * @example
   * const { weights, relativeError } = await model.calibrate({ 'layers.0.q_proj': [x1, x2] })
   * model.freeze(weights)
   */
  async calibrate(samples: CalibrationSamples): Promise<Calibration> {
    return calibrate(this, samples)
  }

  /**
   * Starts a calibration call by call, for inputs that do not fit into memory together: its result equals the result
   * of {@link calibrate} for the same calls, to the bit.
   *
   * @throws LilyError ERR_LILY_ARGUMENT with routing 'uniform' or 'learned', which use no router; ERR_LILY_DISPOSED
   * @example
   * const calibrator = model.calibrator()
   * // Wherever the base model computes the input x of a layer:
   * await calibrator.observe('layers.0.q_proj', x)
   * // At the end:
   * model.freeze((await calibrator.finish()).weights)
   */
  calibrator(): Calibrator {
    this.allParameters()
    checkRouters('model', this)
    return new Calibrator(this)
  }

  /**
   * Returns the adapter as LoRA of rank r: one pair of matrices per layer, float32, on the host. All layers must be
   * frozen, or the routing be 'uniform' or 'learned', and the activation 'none'.
   *
   * @throws LilyError (as a rejection) ERR_LILY_DISPOSED; ERR_LILY_ARGUMENT if a layer uses its router, or for activation
   *   'relu'; as `Tensor.toHost`
   */
  async exportLora(): Promise<LoraAdapter> {
    return exportLora(this)
  }

  [inspectSymbol](): string {
    const { r, numB, strideA, routing } = this.config
    return this.summary('LilyModel', `r ${r}, E ${numB}, stride_A ${strideA}, routing '${routing}'`)
  }

  #findTrainable(): ReadonlyMap<string, Parameter> {
    const isTrainable = ({ kind, layers }: Parameter) => kind !== 'router' || this.layers.get(layers[0])?.usesRouter
    const all = this.allParameters()
    const trainable = [...all].filter(([, parameter]) => isTrainable(parameter))
    return trainable.length === all.size ? all : new Map(trainable)
  }

  /** Keeps the map if its entries are the same: a call freezes more layers, or unfreezes all. */
  #updateTrainable(): void {
    const trainable = this.#findTrainable()
    if (trainable.size !== this.#trainable.size) this.#trainable = trainable
  }
}
