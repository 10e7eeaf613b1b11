/** The Lily adapter of a whole model. */
import { type DType, readDType } from '../base/dtype.js'
import { describe, fail, LilyError } from '../base/errors.js'
import { checkKeys, get, type Known } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import { disposeSymbol } from '../base/symbols.js'
import { type LoadOptions, loadPretrained, type Origin } from '../checkpoint/load.js'
import { saveLora, type SaveOptions, savePretrained } from '../checkpoint/save.js'
import type { Device } from '../memory/device.js'
import type { TensorLike } from '../tensor/resolve.js'
import type { Tensor } from '../tensor/tensor.js'
import { calibrate, type Calibration, type CalibrationOptions, type CalibrationSamples } from './calibrate.js'
import { type LilyConfig, type LilyConfigOptions, readConfig } from './config.js'
import { frozenWeights, type FrozenWeights } from './freeze.js'
import { initialValues } from './initial.js'
import { LilyLayer } from './layer.js'
import { exportLora, type LoraAdapter } from './lora-export.js'
import { addUpdate } from './merge.js'
import { Parameter } from './parameter.js'
import { type LayerShape, shareLayers } from './sharing.js'

/** What {@link LilyModel.create} takes. */
export interface LilyModelOptions {
  /** The linear layers of the base model, in the order in which it calls them. Those that config targets are adapted. */
  readonly layers: readonly LayerShape[]
  readonly config: LilyConfigOptions
  /** From 0 to 2^32 - 1; the same seed gives the same parameters everywhere. Default: another one each time. */
  readonly seed?: number | undefined
  /** Of the parameters; 'bfloat16' and 'float16' go with activations of that type only. Default 'float32'. */
  readonly dtype?: DType | undefined
}

/** What a checkpoint holds. */
export interface LilyModelParts {
  readonly config: LilyConfig
  readonly layers: readonly LayerShape[]
  /** By names of shareLayers, all of one dtype, on one device; the model takes them over. */
  readonly values: ReadonlyMap<string, Tensor>
  /** What the folder that they came from has beside them. */
  readonly origin?: Origin | undefined
}

const OPTIONS: Known = new Set<keyof LilyModelOptions>(['layers', 'config', 'seed', 'dtype'])

/**
 * Lily across the layers of a model (arXiv 2407.09946): layers of one target share A in blocks of `strideA` and one set
 * of B_e; each has its own router. Gradients of what they share add up until {@link zeroGrad}.
 *
 * @example
 * const model = LilyModel.create({ layers, config: { r: 16, strideA: 2, numB: 4, targetModules: ['q_proj'] }, seed: 1 })
 * const layer = model.layer('model.layers.0.self_attn.q_proj')
 * const { y, saved } = layer.forward(x, baseOutput)
 * const dx = layer.backward(dy, saved)
 */
export class LilyModel {
  /** The adapted layers by name, in the order given. */
  readonly layers: ReadonlyMap<string, LilyLayer>
  readonly #parameters: ReadonlyMap<string, Parameter>
  readonly #origin: Origin | undefined
  #isDisposed = false

  private constructor(
    readonly config: LilyConfig,
    { layers: shapes, values, origin }: Omit<LilyModelParts, 'config'>,
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
    this.layers = layers
    this.#parameters = parameters
    this.#origin = origin
  }

  /** The fields of the adapter_config.json that the model was read with; undefined for one that was created. */
  get adapterConfig(): Readonly<Record<string, unknown>> | undefined {
    return this.#origin?.fields
  }

  /**
   * A new adapter, initialised as PEFT does: A uniform within 1/sqrt(d_in), routers within 1/sqrt(r), B zero.
   *
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DTYPE
   */
  static create(options: LilyModelOptions): LilyModel {
    checkKeys('options', options, OPTIONS)
    const config = readConfig(get('options', options, 'config'))
    const layers = get('options', options, 'layers') as readonly LayerShape[]
    const seed = readSeed(get('options', options, 'seed'))
    const dtype = readParameterDType(get('options', options, 'dtype'))
    const { parameters } = shareLayers(layers, config)
    return new LilyModel(config, {
      layers,
      values: initialValues(parameters.values(), seed, dtype, !config.initWeights),
    })
  }

  /**
   * Reads an adapter that PEFT, or {@link savePretrained}, has saved: a folder with adapter_config.json and the tensors.
   * Copies of a shared parameter must agree to the bit; one is kept. The parameters are on the host, of the file's type.
   *
   * @throws LilyError ERR_LILY_CHECKPOINT, which names the file and the field or the tensor
   * @example
   * const model = await LilyModel.fromPretrained('adapter')
   * model.to({ type: 'cuda', id: 0 })
   */
  static async fromPretrained(folder: string | URL, options: LoadOptions = {}): Promise<LilyModel> {
    return LilyModel.fromParts(await loadPretrained(folder, options))
  }

  /**
   * Saves the adapter in a folder, which is made where it is not there. In the format 'peft' PEFT loads it; a model that
   * was read and not changed is written as it was, to the bit. A crash leaves each file as it was, or as it shall be.
   * Weights of {@link freeze} are not saved. The parameters must not change until the promise resolves.
   *
   * @throws LilyError ERR_LILY_CHECKPOINT where a file cannot be written; the old files are still there then
   */
  async savePretrained(folder: string | URL, options: SaveOptions = {}): Promise<void> {
    return savePretrained(this, this.#origin, folder, options)
  }

  /**
   * Saves what {@link exportLora} gives as an adapter folder of PEFT's LoRA, which any server of LoRA adapters can load:
   * rank r, lora_alpha = scaling * r. All layers must be frozen.
   *
   * @throws LilyError ERR_LILY_ARGUMENT where a layer is not frozen, ERR_LILY_CHECKPOINT where a file cannot be written,
   *   or would replace a Lily adapter, of which LoRA holds less
   */
  async saveLora(folder: string | URL): Promise<void> {
    return saveLora(this, this.#origin, folder)
  }

  /** @internal A model of values that exist already. */
  static fromParts({ config, ...parts }: LilyModelParts): LilyModel {
    const types = new Set(Array.from(parts.values.values(), ({ dtype }) => dtype))
    if (types.size > 1) {
      fail('ERR_LILY_DTYPE', 'values', `expected parameters of one dtype, got ${[...types].join(', ')}; convert them`)
    }
    return new LilyModel(config, parts)
  }

  /** @throws LilyError ERR_LILY_ARGUMENT for a name that is not adapted */
  layer(name: string): LilyLayer {
    const layer = this.layers.get(name)
    if (layer !== undefined) return layer
    const [first] = this.layers.keys()
    return fail('ERR_LILY_ARGUMENT', 'name', `no layer ${describe(name)} is adapted; the first of them is '${first}'`)
  }

  /**
   * The parameters by PEFT's name of the first layer that uses each, such as 'layers.0.q_proj.lily_A.weight', in a fixed
   * order. The map and its entries stay the same for the life of the model; their tensors are replaced by {@link to}.
   */
  parameters(): ReadonlyMap<string, Parameter> {
    if (!this.#isDisposed) return this.#parameters
    throw new LilyError('ERR_LILY_DISPOSED', 'this model has been disposed of; use it before dispose()')
  }

  /** Makes all gradients zero, in place. */
  zeroGrad(): void {
    for (const parameter of this.parameters().values()) parameter.zeroGrad()
  }

  get device(): Device {
    return this.#first().value.device
  }

  get dtype(): DType {
    return this.#first().value.dtype
  }

  /**
   * Moves parameters and gradients to a device, in place, and returns the model. What forwards have saved before it is
   * of no use any more.
   *
   * @throws LilyError as `Tensor.to`; nothing has been moved then
   */
  to(device: { readonly type: 'cpu' | 'cuda'; readonly id?: number | undefined }): this {
    const parameters = [...this.parameters().values()]
    const moved = parameters.map((parameter) => parameter.onDevice(device))
    for (const [i, parameter] of parameters.entries()) parameter.moveTo(moved[i])
    return this
  }

  /** Moves parameters and gradients to the host, in place. The model must not be used until the promise resolves. */
  async toHost(): Promise<this> {
    const parameters = [...this.parameters().values()]
    const moved = await Promise.all(parameters.map((parameter) => parameter.onHost()))
    for (const [i, parameter] of parameters.entries()) parameter.moveTo(moved[i])
    return this
  }

  /**
   * Replaces routers by weights that no longer depend on the input, so that layers can be merged and exported, and so
   * that an output does not depend on the batch.
   *
   * @param weights 'uniform', 1/E everywhere; or [E] by layer, as {@link calibrate} gives them: other layers stay as they are
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE; nothing is frozen then
   */
  freeze(weights: FrozenWeights): void {
    const frozen = frozenWeights(this, weights)
    for (const [layer, values] of frozen) layer.freeze(values)
  }

  /** Gives all layers back to their routers. None may be merged. */
  unfreeze(): void {
    for (const layer of this.layers.values()) layer.refuseMerged()
    for (const layer of this.layers.values()) layer.freeze(null)
  }

  /**
   * Pools the routers' weights over a sample of activations, and says what freezing them costs.
   *
   * @param samples by layer, what enters it: [..., d_in], one tensor for each call
   * @example
   * const { weights, relativeError } = await model.calibrate({ 'layers.0.q_proj': [x1, x2] })
   * model.freeze(weights)
   */
  async calibrate(samples: CalibrationSamples, options: CalibrationOptions = {}): Promise<Calibration> {
    return calibrate(this, samples, options)
  }

  /**
   * Adds a frozen layer's update, scaling * C^T A with C = sum_e w_e B_e, to the weight of its base layer, in place. The
   * base layer then computes what it and the adapter did (with activation 'none'), and forward of the layer is refused.
   *
   * Each element is rounded once, to the type of the weight; see docs/model.md for 16-bit parameters on a device.
   *
   * @param weight [d_out, d_in], as PyTorch's Linear has it, where the model is: float32, or 16 bits
   * @throws LilyError; a refused call has written nothing
   */
  merge(name: string, weight: TensorLike): void {
    const layer = this.layer(name)
    layer.refuseMerged()
    addUpdate(layer, weight, 1)
    layer.markMerged(true)
  }

  /**
   * Subtracts what {@link merge} has added. Parameters must be as they were: then the very numbers that were added are
   * subtracted, and each element comes back but for two roundings: half a unit in the last place of the merged element,
   * and half of its own.
   *
   * @throws LilyError; a refused call has written nothing
   */
  unmerge(name: string, weight: TensorLike): void {
    const layer = this.layer(name)
    if (!layer.isMerged) fail('ERR_LILY_ARGUMENT', 'name', `'${name}' is not merged; merge it first`)
    addUpdate(layer, weight, -1)
    layer.markMerged(false)
  }

  /**
   * The adapter as LoRA of rank r, once for each layer, in float32 on the host. All layers must be frozen.
   *
   * @throws LilyError ERR_LILY_ARGUMENT
   */
  async exportLora(): Promise<LoraAdapter> {
    return exportLora(this)
  }

  /** Lets go of parameters and gradients. */
  dispose(): void {
    this.#isDisposed = true
    for (const parameter of this.#parameters.values()) parameter.dispose()
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  #first(): Parameter {
    return this.parameters().values().next().value as Parameter
  }
}

function checkedValue(values: ReadonlyMap<string, Tensor>, name: string, shape: readonly [number, number]): Tensor {
  const value = values.get(name)
  if (value === undefined) fail('ERR_LILY_ARGUMENT', 'values', `'${name}' of shape ${shapeText(shape)} is missing`)
  if (value.shape.length === 2 && value.shape.every((size, axis) => size === shape[axis])) return value
  return fail('ERR_LILY_SHAPE', name, `expected ${shapeText(shape)}, got ${shapeText(value.shape)}`)
}

function readSeed(value: unknown): number {
  if (value === undefined) return Math.floor(Math.random() * 2 ** 32)
  if (Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 32) return value as number
  return fail('ERR_LILY_ARGUMENT', 'seed', `expected an integer from 0 to 2^32 - 1, got ${describe(value)}`)
}

function readParameterDType(value: unknown): DType {
  const dtype = value === undefined ? 'float32' : readDType('dtype', value)
  if (dtype === 'float32' || dtype === 'bfloat16' || dtype === 'float16') return dtype
  return fail('ERR_LILY_DTYPE', 'dtype', `expected float32, bfloat16 or float16, got ${dtype}`)
}
