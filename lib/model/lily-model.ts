/** The Lily adapter of a base model. */
import { isOf, modelKey } from '../base/copies.js'
import { type DType, readFloatDType } from '../base/dtype.js'
import { describe, fail, LilyError } from '../base/errors.js'
import { checkKeys, get, type Known } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import { disposeSymbol } from '../base/symbols.js'
import { type LoadOptions, loadPretrained, type Origin } from '../checkpoint/load.js'
import { modulesOf, type SavedModules } from '../checkpoint/modules-to-save.js'
import { saveLora, type SaveOptions, savePretrained } from '../checkpoint/save.js'
import { readDevice } from '../memory/backends.js'
import type { Device } from '../memory/device.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import type { Tensor } from '../tensor/tensor.js'
import { calibrate, type Calibration, type CalibrationOptions, type CalibrationSamples } from './calibrate.js'
import { type LilyConfig, type LilyConfigOptions, readConfig } from './lily-config.js'
import { type FrozenWeights, readFrozenWeights } from './freeze.js'
import { initialValues } from './initial.js'
import { LilyLayer } from './lily-layer.js'
import { exportLora, type LoraAdapter } from './lora-export.js'
import { addUpdate } from './merge.js'
import { Parameter } from './parameter.js'
import { type LayerShape, readLayers } from './layer-shape.js'
import { shareLayers } from './sharing.js'

/** Options of {@link LilyModel.create}. */
export interface LilyModelOptions {
  /** Linear layers of the base model, in the order in which it calls them. Those that `config` targets are adapted. */
  readonly layers: readonly LayerShape[]
  /** Configuration, with PEFT's defaults for omitted fields. */
  readonly config: LilyConfigOptions
  /** Seed of the initial values, from 0 to 2^32 - 1. A seed gives the same values on every machine. Default: random. */
  readonly seed?: number | undefined
  /** Type of the parameters. 'bfloat16' and 'float16' require activations of the same type. Default 'float32'. */
  readonly dtype?: DType | undefined
}

/** The contents of a checkpoint. */
export interface LilyModelParts {
  readonly config: LilyConfig
  readonly layers: readonly LayerShape[]
  /** By parameter name (see {@link shareLayers}), all of one dtype on one device. The model then owns them. */
  readonly values: ReadonlyMap<string, Tensor>
  /** The other contents of the folder that the model was read from. */
  readonly origin?: Origin | undefined
  /** Weights of the layers that are frozen. */
  readonly frozen?: ReadonlyMap<string, Float32Array> | undefined
}

/** Whether a value is a LilyModel, of any copy of this package. A proxy of one is not. */
export function isModel(value: unknown): value is LilyModel {
  try {
    return isOf(modelKey, value) && (value as LilyModel)[modelKey]()
  } catch {
    return false // something else has the symbol
  }
}

const OPTIONS: Known = new Set<keyof LilyModelOptions>(['layers', 'config', 'seed', 'dtype'])

/**
 * Lily adapters for the layers of a base model (arXiv 2407.09946). Layers of one target share A in blocks of `strideA`
 * layers and one set of B_e; every layer has its own router. Gradients of parameters accumulate over layers and calls
 * until {@link zeroGrad}.
 *
 * @example
 * const config = { r: 16, strideA: 2, numB: 4, targetModules: ['q_proj'] }
 * const model = LilyModel.create({ layers, config, seed: 1 })
 * const layer = model.layer('model.layers.0.self_attn.q_proj')
 * const { y, saved } = layer.forward(x, baseOutput)
 * const dx = layer.backward(dy, saved)
 */
export class LilyModel {
  /** The adapted layers by name, in the order given. */
  readonly layers: ReadonlyMap<string, LilyLayer>
  readonly #parameters: ReadonlyMap<string, Parameter>
  #trainable: ReadonlyMap<string, Parameter>
  readonly #origin: Origin | undefined
  #isDisposed = false

  private constructor(
    readonly config: LilyConfig,
    { layers: shapes, values, origin, frozen }: Omit<LilyModelParts, 'config'>,
  ) {
    const sharing = shareLayers(shapes, config)
    const stack = { experts: config.numB, rank: config.r }
    const parameters = new Map<string, Parameter>()
    for (const shared of sharing.parameters.values()) {
      const { name, kind, shape } = shared
      const value = checkedValue(values, name, shape)
      parameters.set(name, new Parameter(shared, value, kind === 'b' ? { ...stack, dOut: shape[1] } : null))
    }
    const parameter = (name: string) => parameters.get(name) as Parameter
    const layers = new Map<string, LilyLayer>()
    for (const shape of sharing.layers.values()) {
      const { name, a, router, b } = shape
      layers.set(name, new LilyLayer(shape, config.scaling, parameter(a), parameter(router), parameter(b)))
    }
    for (const [name, weights] of frozen ?? []) layers.get(name)?.freeze(weights)
    this.layers = layers
    this.#parameters = parameters
    this.#trainable = this.#findTrainable()
    this.#origin = origin
  }

  static [Symbol.hasInstance](value: unknown): value is LilyModel {
    return isOf(modelKey, value)
  }

  /** @internal */
  [modelKey](): boolean {
    return #parameters in this
  }

  /** The fields of adapter_config.json for a model that was read from a folder; undefined for others. */
  get adapterConfig(): Readonly<Record<string, unknown>> | undefined {
    return this.#origin?.fields
  }

  /**
   * The tensors of the modules that PEFT's modules_to_save lists, such as a classifier's head: by module name, then by
   * tensor name. Empty for a model that was created. {@link savePretrained} writes them again.
   */
  get modulesToSave(): SavedModules {
    return this.#origin === undefined ? new Map() : modulesOf(this.#origin.others, this.#origin.fields.modules_to_save)
  }

  /**
   * Creates an adapter on the host with PEFT's initial values: A uniform in [-1/sqrt(d_in), 1/sqrt(d_in)), routers
   * uniform in [-1/sqrt(r), 1/sqrt(r)), B zero.
   *
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DTYPE, ERR_LILY_OUT_OF_MEMORY
   */
  static create(options: LilyModelOptions): LilyModel {
    checkKeys('options', options, OPTIONS)
    const config = readConfig(get('options', options, 'config'))
    const layers = readLayers(get('options', options, 'layers'))
    const seed = readSeed(get('options', options, 'seed'))
    const dtype = readParameterDType(get('options', options, 'dtype'))
    const { parameters } = shareLayers(layers, config)
    return new LilyModel(config, {
      layers,
      values: initialValues(parameters.values(), seed, dtype, !config.initWeights),
    })
  }

  /**
   * Reads an adapter that PEFT or {@link savePretrained} saved: a folder with adapter_config.json and the tensors. All
   * copies of a shared parameter must be bit-identical; one is kept. The parameters are on the host, in the type of the
   * file.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT, with the names of the file and of the field or tensor;
   *   ERR_LILY_ARGUMENT, ERR_LILY_OUT_OF_MEMORY
   * @example
   * const model = await LilyModel.fromPretrained('adapter')
   * model.to({ type: 'cuda', id: 0 })
   */
  static async fromPretrained(folder: string | URL, options: LoadOptions = {}): Promise<LilyModel> {
    return LilyModel.fromParts(await loadPretrained(folder, options))
  }

  /**
   * Saves the adapter to a folder, which is created if necessary. PEFT loads the format 'peft'. A model that was read
   * and not modified is written bit-identically. All files are replaced as one: the folder holds the old or the new
   * adapter, also after a crash, and if several processes save at once. The weights that {@link freeze} set are saved
   * too; PEFT ignores them. Do not change the parameters until the promise resolves.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT if a file cannot be written: the old files are intact;
   *   ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED, ERR_LILY_CUDA
   */
  async savePretrained(folder: string | URL, options: SaveOptions = {}): Promise<void> {
    return savePretrained(this, this.#origin, folder, options)
  }

  /**
   * Saves the result of {@link exportLora} as a LoRA adapter in PEFT's format, which servers of LoRA adapters load. Its
   * rank is r and its lora_alpha is scaling * r. All layers must be frozen.
   *
   * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT if a layer is not frozen; ERR_LILY_CHECKPOINT if a file cannot
   *   be written, or if the folder contains a Lily adapter, which cannot be recovered from LoRA
   */
  async saveLora(folder: string | URL): Promise<void> {
    return saveLora(this, this.#origin, folder)
  }

  /** @internal Creates a model from existing values. */
  static fromParts({ config, ...parts }: LilyModelParts): LilyModel {
    const types = new Set(Array.from(parts.values.values(), ({ dtype }) => dtype))
    if (types.size > 1) {
      fail(
        'ERR_LILY_DTYPE',
        'values',
        `expected one dtype for all parameters, got ${[...types].join(', ')}; convert them`,
      )
    }
    return new LilyModel(config, parts)
  }

  /**
   * The adapted layer of this name.
   *
   * @throws LilyError ERR_LILY_ARGUMENT if no adapted layer has this name
   */
  layer(name: string): LilyLayer {
    const layer = this.layers.get(name)
    if (layer !== undefined) return layer
    const [first] = this.layers.keys()
    return fail('ERR_LILY_ARGUMENT', 'name', `expected an adapted layer, such as '${first}', got ${describe(name)}`)
  }

  /**
   * The trainable parameters by name, in a fixed order. A shared parameter has PEFT's name in the first layer that uses
   * it, such as 'layers.0.q_proj.lily_A.weight'. The routers of frozen layers are not among them, because constant
   * weights replace them; {@link savePretrained} still saves them. The entries stay the same for the life of the model,
   * and so does the map until {@link freeze} or {@link unfreeze} changes which layers are frozen: then create a new
   * AdamW. {@link to} and {@link toHost} replace the tensors of the entries.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  parameters(): ReadonlyMap<string, Parameter> {
    this.allParameters()
    return this.#trainable
  }

  /** @internal All parameters by name, with the routers of frozen layers. */
  allParameters(): ReadonlyMap<string, Parameter> {
    if (!this.#isDisposed) return this.#parameters
    throw new LilyError('ERR_LILY_DISPOSED', 'this model is disposed of; use it before dispose()')
  }

  /**
   * Sets all gradients to zero, in place, those of routers of frozen layers included.
   *
   * @throws LilyError ERR_LILY_DISPOSED, or ERR_LILY_ARGUMENT for a gradient whose memory was transferred: all gradients
   *   are unchanged; ERR_LILY_CUDA
   */
  zeroGrad(): void {
    this.prepareZeroGrad()()
  }

  /** @internal Checks all gradients. Returns what sets them to zero. */
  prepareZeroGrad(): () => void {
    const parameters = [...this.allParameters().values()]
    for (const parameter of parameters) parameter.checkGrad()
    return () => {
      for (const parameter of parameters) parameter.zeroGrad()
    }
  }

  /** The device of the parameters. */
  get device(): Device {
    return this.#first().value.device
  }

  /** The type of the parameters. */
  get dtype(): DType {
    return this.#first().value.dtype
  }

  /**
   * Moves parameters and gradients to a device and returns the model. `saved` objects of earlier forward calls become
   * invalid.
   *
   * @throws LilyError as `Tensor.to`; nothing has been moved
   */
  to(device: { readonly type: 'cpu' | 'cuda'; readonly id?: number | undefined }): this {
    this.prepareMove(readDevice('device', device))()
    return this
  }

  /** @internal Copies all parameters to a device. Returns what replaces them by their copies. */
  prepareMove(device: Device): () => void {
    const parameters = this.#checkedParameters()
    const moved = parameters.map((parameter) => parameter.onDevice(device))
    return () => {
      for (const [i, parameter] of parameters.entries()) parameter.replaceBy(moved[i])
    }
  }

  /**
   * Moves parameters and gradients to the host and returns the model. Do not use the model until the promise resolves.
   *
   * @throws LilyError (as a rejection) as `Tensor.toHost`
   */
  async toHost(): Promise<this> {
    const parameters = this.#checkedParameters()
    const moved = await Promise.all(parameters.map((parameter) => parameter.onHost()))
    for (const [i, parameter] of parameters.entries()) parameter.replaceBy(moved[i])
    return this
  }

  /** The parameters, whose memory is valid. */
  #checkedParameters(): Parameter[] {
    const parameters = [...this.allParameters().values()]
    for (const parameter of parameters) {
      parameter.checkValue()
      parameter.checkGrad()
    }
    return parameters
  }

  /**
   * Replaces routers by constant expert weights. Frozen layers can be merged and exported, and the output of one
   * sequence no longer depends on the rest of the batch. Their routers are no longer among {@link parameters}.
   *
   * @param weights 'uniform' (1/E for all layers), or [E] by layer name, as {@link calibrate} returns; layers without
   *   an entry do not change
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE; no layer has been frozen
   */
  freeze(weights: FrozenWeights): void {
    const frozen = readFrozenWeights(this, weights)
    for (const [layer, values] of frozen) layer.freeze(values)
    this.#updateTrainable()
  }

  /**
   * Restores the routers of all layers.
   *
   * @throws LilyError ERR_LILY_ARGUMENT if a layer is merged
   */
  unfreeze(): void {
    for (const layer of this.layers.values()) layer.checkNotMerged()
    for (const layer of this.layers.values()) layer.freeze(null)
    this.#updateTrainable()
  }

  /**
   * Averages the routers' weights over sample inputs, and computes the error of freezing the layers to them.
   *
   * @param samples inputs of each layer, by layer name: [..., d_in], one tensor per call
   * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT, and as `LilyLayer.forward`
   * @example
   * const { weights, relativeError } = await model.calibrate({ 'layers.0.q_proj': [x1, x2] })
   * model.freeze(weights)
   */
  async calibrate(samples: CalibrationSamples, options: CalibrationOptions = {}): Promise<Calibration> {
    return calibrate(this, samples, options)
  }

  /**
   * Adds the update of a frozen layer, scaling * C^T A with C = sum_e w_e B_e, to the weight of its base layer, in
   * place. The base layer then computes the sum of both (for activation 'none'), and `forward` of the merged layer
   * throws.
   *
   * Each element is rounded once, to the type of the weight; see docs/model.md for 16-bit parameters on a device.
   *
   * @param weight [d_out, d_in], as in torch.nn.Linear: float32, bfloat16 or float16, on the model's device
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED: the weight
   *   is unchanged; ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA
   */
  merge(name: string, weight: TensorLike): void {
    const target = resolve('weight', weight)
    const layer = this.layer(name)
    layer.checkNotMerged()
    addUpdate(layer, target, 1)
    layer.markMerged(true)
  }

  /**
   * Subtracts the update that {@link merge} added. The parameters must not have changed: then the subtracted update
   * equals the added one, and an element differs from its original by at most two roundings, half a unit in the last
   * place of the merged element and half a unit of its own.
   *
   * @param weight [d_out, d_in]: the merged weight
   * @throws LilyError as {@link merge}
   */
  unmerge(name: string, weight: TensorLike): void {
    const target = resolve('weight', weight)
    const layer = this.layer(name)
    if (!layer.isMerged)
      fail('ERR_LILY_ARGUMENT', 'name', `expected a merged layer, but '${name}' is not merged; merge it first`)
    addUpdate(layer, target, -1)
    layer.markMerged(false)
  }

  /**
   * Returns the adapter as LoRA of rank r: one pair of matrices per layer, float32, on the host. All layers must be
   * frozen.
   *
   * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT if a layer is not frozen; as `Tensor.toHost`
   */
  async exportLora(): Promise<LoraAdapter> {
    return exportLora(this)
  }

  /** Releases parameters and gradients. */
  dispose(): void {
    this.#isDisposed = true
    for (const parameter of this.#parameters.values()) parameter.dispose()
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  #findTrainable(): ReadonlyMap<string, Parameter> {
    const isTrainable = ({ kind, layers }: Parameter) =>
      kind !== 'router' || this.layers.get(layers[0])?.isFrozen === false
    const trainable = [...this.#parameters].filter(([, parameter]) => isTrainable(parameter))
    return trainable.length === this.#parameters.size ? this.#parameters : new Map(trainable)
  }

  /** Keeps the map if its entries are the same: a call freezes more layers, or unfreezes all. */
  #updateTrainable(): void {
    const trainable = this.#findTrainable()
    if (trainable.size !== this.#trainable.size) this.#trainable = trainable
  }

  #first(): Parameter {
    return this.allParameters().values().next().value as Parameter
  }
}

/** The value of one parameter, whose shape is checked. */
function checkedValue(values: ReadonlyMap<string, Tensor>, name: string, shape: readonly [number, number]): Tensor {
  const value = values.get(name)
  if (value === undefined)
    fail('ERR_LILY_ARGUMENT', 'values', `expected '${name}' of shape ${shapeText(shape)}, got none`)
  if (value.shape.length === 2 && value.shape.every((size, axis) => size === shape[axis])) return value
  return fail('ERR_LILY_SHAPE', name, `expected ${shapeText(shape)}, got ${shapeText(value.shape)}`)
}

function readSeed(value: unknown): number {
  if (value === undefined) return Math.floor(Math.random() * 2 ** 32)
  if (Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 32) return value as number
  return fail('ERR_LILY_ARGUMENT', 'seed', `expected an integer from 0 to 2^32 - 1, got ${describe(value)}`)
}

function readParameterDType(value: unknown): DType {
  return value === undefined ? 'float32' : readFloatDType('dtype', value)
}
