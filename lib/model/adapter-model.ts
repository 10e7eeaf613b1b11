/** The adapter of a base model: what {@link LilyModel} and {@link LoraModel} have in common. */
import { type DType, readFloatDType } from '../base/dtype.js'
import { countOf, describe, describeOther, fail, LilyError } from '../base/errors.js'
import { type Known, type Named, readProperties } from '../base/options.js'
import { grouped } from '../base/summary.js'
import { disposeSymbol } from '../base/symbols.js'
import type { PretrainedFiles } from '../checkpoint/adapter-files.js'
import type { LoadOptions, Origin } from '../checkpoint/load.js'
import { modulesOf, type SavedModules } from '../checkpoint/modules-to-save.js'
import type { SaveOptions } from '../checkpoint/save.js'
import { readDevice } from '../memory/backends.js'
import type { Device } from '../memory/device.js'
import type { StackSizes } from '../operations/call.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import type { Tensor } from '../tensor/tensor.js'
import type { AdapterLayer } from './adapter-layer.js'
import { type ModelDropout, readSeed } from './dropout.js'
import { type Initialisation, initialValues } from './initial.js'
import { type LayerShape, readLayers } from './layer-shape.js'
import type { AdaptedLayer, Layout, ParameterShape } from './layout.js'
import { checkMerging, isNamed, type MergeOptions, type Merging, readMerging } from './merge-layers.js'
import { Parameter } from './parameter.js'
import type { TargetOptions } from './targets.js'

/** Options of `create` of {@link AdapterModelClass}, for either kind of adapter. */
export interface AdapterModelOptions<C = TargetOptions & { readonly r?: number | undefined }> {
  /** Linear layers of the base model, in the order in which it calls them. Those that `config` targets are adapted. */
  readonly layers: readonly LayerShape[]
  /** Configuration, with PEFT's defaults for omitted fields. */
  readonly config: C
  /**
   * Seed of the initial values and of dropout, from 0 to 2^32 - 1. A seed gives the same numbers on every machine. Default:
   * random.
   */
  readonly seed?: number | undefined
  /** Type of the parameters. 'bfloat16' and 'float16' require activations of the same type. Default 'float32'. */
  readonly dtype?: DType | undefined
}

/** What the classes {@link LilyModel} and {@link LoraModel} have in common: programs take either. */
export interface AdapterModelClass {
  /**
   * Creates an adapter on the host with PEFT's initial values.
   *
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DTYPE, ERR_LILY_OUT_OF_MEMORY
   */
  create(options: AdapterModelOptions): AdapterModel
  /**
   * Reads an adapter that PEFT or `savePretrained` saved.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT, ERR_LILY_ARGUMENT, ERR_LILY_DTYPE, ERR_LILY_OUT_OF_MEMORY
   */
  fromPretrained(folder: string | URL | PretrainedFiles, options?: LoadOptions): Promise<AdapterModel>
}

/** The contents of a checkpoint. */
export interface AdapterModelParts<C> {
  readonly config: C
  readonly layers: readonly LayerShape[]
  /** All parameters by name, of their shapes, of one dtype and on one device. The model then owns them. */
  readonly values: ReadonlyMap<string, Tensor>
  /** Seed of dropout. */
  readonly seed: number
  /** The other contents of the folder that the model was read from. */
  readonly origin?: Origin | undefined
}

const OPTIONS: Known = new Set<keyof AdapterModelOptions>(['layers', 'config', 'seed', 'dtype'])

/**
 * Reads the options of `create`, and draws the initial values.
 *
 * @param initialisationOf how the values of each parameter are drawn
 */
export function initialParts<C>(
  options: unknown,
  readConfig: (config: unknown) => C,
  layOut: (layers: readonly LayerShape[], config: C) => Layout,
  initialisationOf: (config: C) => Initialisation,
): AdapterModelParts<C> {
  const read = readProperties('options', options, OPTIONS, ({ config, layers, seed, dtype = 'float32' }) => ({
    config: readConfig(config),
    layers: readLayers(layers),
    seed: readSeed(seed),
    dtype: readFloatDType('dtype', dtype),
  }))
  const { config, layers, seed, dtype } = read
  const { parameters } = layOut(layers, config)
  return { config, layers, seed, values: initialValues(parameters.values(), seed, dtype, initialisationOf(config)) }
}

/** The layers and the parameters of a model. */
interface ModelParts<L> {
  readonly layers: ReadonlyMap<string, L>
  readonly parameters: ReadonlyMap<string, Parameter>
}

/**
 * Creates the parameters of a layout, and its layers.
 *
 * @param createLayer creates a layer with the parameters of these names
 * @param stackOf the sizes of a stack of experts; null for other parameters
 */
export function createLayers<S extends AdaptedLayer, L>(
  layout: Layout<S>,
  values: ReadonlyMap<string, Tensor>,
  createLayer: (shape: S, parameter: (name: string) => Parameter) => L,
  stackOf: (shape: ParameterShape) => StackSizes | null = () => null,
): ModelParts<L> {
  const parameters = new Map<string, Parameter>()
  for (const [name, shape] of layout.parameters) {
    parameters.set(name, new Parameter(shape, values.get(name) as Tensor, stackOf(shape)))
  }
  const parameter = (name: string) => parameters.get(name) as Parameter
  const layers = new Map(Array.from(layout.layers, ([name, shape]) => [name, createLayer(shape, parameter)]))
  return { layers, parameters }
}

/**
 * The layer of this name.
 *
 * @param argument the argument of the caller that has the name
 * @throws LilyError ERR_LILY_ARGUMENT if no adapted layer has this name
 */
export function layerOf<L>(layers: ReadonlyMap<string, L>, argument: string, name: string): L {
  const layer = layers.get(name)
  if (layer !== undefined) return layer
  const [first] = layers.keys()
  return fail('ERR_LILY_ARGUMENT', argument, `expected an adapted layer, such as '${first}', got ${describe(name)}`)
}

/** Whether the constructor of {@link AdapterModel} has made an object: it has not made a proxy of one. */
export let isAdapterModel: (value: unknown) => value is AdapterModel

export function checkModel(model: unknown, expected = 'a LilyModel or a LoraModel'): asserts model is AdapterModel {
  if (isAdapterModel(model)) return
  const got = describeOther(model, 'LilyModel', 'LoraModel')
  fail('ERR_LILY_ARGUMENT', 'model', `expected ${expected}, got ${got}`)
}

/** Reads an adapter of either kind. */
type ReadPretrained = (folder: string | URL | PretrainedFiles, options: LoadOptions) => Promise<AdapterModel>

let readPretrained: ReadPretrained

/** Sets what {@link AdapterModel.fromPretrained} calls: the classes of both kinds extend it, so that this file imports neither. */
export function setReadPretrained(read: ReadPretrained): void {
  readPretrained = read
}

/**
 * The adapter of all layers of a base model, of either kind. The base model remains the caller's.
 *
 * @example
 * const model = await AdapterModel.fromPretrained('adapter') // a LilyModel or a LoraModel
 * const { y } = model.layer('layers.0.q_proj').forward({ x, y: baseOutput }, { save: false })
 */
export abstract class AdapterModel<L extends AdapterLayer = AdapterLayer> {
  /** The adapted layers by name, in the order given. */
  readonly layers: ReadonlyMap<string, L>
  readonly #parameters: ReadonlyMap<string, Parameter>
  #isDisposed = false

  /** @internal */
  protected constructor(
    { layers, parameters }: ModelParts<L>,
    /** @internal Of all layers. */
    readonly dropout: ModelDropout,
    /** @internal The other contents of the folder that the model was read from. */
    readonly origin: Origin | undefined,
    /** @internal The layers of the base model, as far as they are known, adapted or not. */
    readonly baseLayers: readonly LayerShape[],
  ) {
    this.layers = layers
    this.#parameters = parameters
  }

  static {
    isAdapterModel = (value): value is AdapterModel =>
      typeof value === 'object' && value !== null && #parameters in value
  }

  /**
   * Reads an adapter of either kind that PEFT or {@link savePretrained} saved, with the inputs of
   * {@link LilyModel.fromPretrained}: its `peft_type` tells whether the result is a {@link LilyModel} or a {@link LoraModel}.
   *
   * @param folder its path, or, where there is no file system, the files that it would have; see docs/checkpoints.md
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT, with the names of the file and of the field or tensor;
   *   ERR_LILY_ARGUMENT, ERR_LILY_DTYPE, ERR_LILY_OUT_OF_MEMORY
   * @example
   * const model = await AdapterModel.fromPretrained('adapter')
   * if (model instanceof LilyModel) console.log(model.config.routing)
   */
  static async fromPretrained(
    folder: string | URL | PretrainedFiles,
    options: LoadOptions = {},
  ): Promise<AdapterModel> {
    return readPretrained(folder, options)
  }

  /** The fields of adapter_config.json for a model that was read from a folder; undefined for others. */
  get adapterConfig(): Readonly<Record<string, unknown>> | undefined {
    return this.origin?.fields
  }

  /**
   * The tensors of the modules that PEFT's modules_to_save lists, such as a classifier's head: by module name, then by
   * tensor name. Empty for a model that was created. {@link savePretrained} writes them again, and with them tensors of
   * other types than float32, bfloat16 and float16, such as counters, which are not in the result.
   */
  get modulesToSave(): SavedModules {
    const { origin } = this
    return origin === undefined ? new Map() : modulesOf(origin.others, origin.fields.modules_to_save)
  }

  /**
   * Saves the adapter to a folder, which is created if necessary. PEFT loads the format 'peft'. A model that was read
   * and not modified is written bit-identically. All files are replaced as one: the folder holds the old or the new
   * adapter, also after a crash, and if several processes save at once. Do not change the parameters until the promise
   * resolves.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT if a file cannot be written, or if a parameter is infinite or
   *   NaN: the old files are intact; ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED, ERR_LILY_CUDA
   */
  abstract savePretrained(folder: string | URL, options?: SaveOptions<'peft'>): Promise<void>

  /**
   * The files that {@link savePretrained} writes, bit for bit, where there is no file system.
   *
   * @throws LilyError (as a rejection) as {@link LilyModel.pretrainedFiles}
   */
  abstract pretrainedFiles(options?: SaveOptions<'peft'>): Promise<File[]>

  /**
   * The adapted layer of this name.
   *
   * @throws LilyError ERR_LILY_ARGUMENT if no adapted layer has this name
   */
  layer(name: string): L {
    return layerOf(this.layers, 'name', name)
  }

  /**
   * The trainable parameters by name, in a fixed order. A parameter has PEFT's name in the first layer that uses it,
   * such as 'layers.0.q_proj.lora_A.weight'. The entries stay the same for the life of the model. {@link to} and
   * {@link toHost} replace the tensors of the entries.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  parameters(): ReadonlyMap<string, Parameter> {
    return this.allParameters()
  }

  /** @internal Whether `dispose()` has been called. */
  get isDisposed(): boolean {
    return this.#isDisposed
  }

  /** @internal All parameters by name, trainable or not. */
  allParameters(): ReadonlyMap<string, Parameter> {
    if (!this.#isDisposed) return this.#parameters
    throw new LilyError('ERR_LILY_DISPOSED', 'this model is disposed of; use it before dispose()')
  }

  /**
   * Whether the model trains: if so, and if the rate of dropout in its config is not 0, each `forward` of a layer that saves
   * for backward drops elements of x (docs/math.md#dropout). A model that was created trains; one that was read does not, as
   * in PEFT.
   */
  get training(): boolean {
    return this.dropout.isTraining
  }

  /** Turns dropout on, and returns the model; see {@link training}. Throws nothing. */
  train(): this {
    this.dropout.isTraining = true
    return this
  }

  /** Turns dropout off, and returns the model; see {@link training}. Throws nothing. */
  eval(): this {
    this.dropout.isTraining = false
    return this
  }

  /**
   * int32 `[4]`: the random state of dropout. Words 0 and 1 are the seed, words 2 and 3 the position, which each call with
   * dropout advances by 1, the low word first. It is the model's memory, and may be written: on the host, and on CUDA in device
   * memory if the rate is not 0, so that each replay of a captured graph draws anew. `savePretrained(folder, { optimiser })`
   * saves it and {@link readPretrainedState} restores it. {@link to} and {@link toHost} replace the tensor, and so does
   * {@link readPretrainedState} on CUDA: call it before captureGraph.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  get dropoutState(): Tensor {
    this.allParameters()
    return this.dropout.state
  }

  /**
   * Sets all gradients to zero, in place, also of parameters that are not trainable.
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
   * Moves parameters, gradients and the state of dropout to a device and returns the model. `saved` objects of earlier
   * forward calls become invalid.
   *
   * @throws LilyError as `Tensor.to`; nothing has been moved
   */
  to(device: { readonly type: Device['type']; readonly id?: number | undefined }): this {
    this.prepareMove(readDevice('device', device))()
    return this
  }

  /** @internal Copies all parameters to a device. Returns what replaces them by their copies. */
  prepareMove(device: Device): () => void {
    const parameters = this.#checkedParameters()
    const moved = parameters.map((parameter) => parameter.onDevice(device))
    const { state: from } = this.dropout
    const state = this.dropout.onDevice(device)
    return () => {
      for (const [i, parameter] of parameters.entries()) parameter.replaceBy(moved[i])
      this.dropout.replaceBy({ from, state })
    }
  }

  /**
   * Moves parameters, gradients and the state of dropout to the host and returns the model. Do not use the model until the
   * promise resolves.
   *
   * @throws LilyError (as a rejection) as `Tensor.toHost`
   */
  async toHost(): Promise<this> {
    const move = await this.prepareMoveToHost()
    move()
    return this
  }

  /** @internal Copies all parameters to the host, as {@link prepareMove} does to a device. */
  async prepareMoveToHost(): Promise<() => void> {
    const parameters = this.#checkedParameters()
    const { state: from } = this.dropout
    const [state, moved] = await Promise.all([
      from.toHost(),
      Promise.all(parameters.map((parameter) => parameter.onHost())),
    ])
    this.allParameters() // may be disposed of by now
    return () => {
      for (const [i, parameter] of parameters.entries()) parameter.replaceBy(moved[i])
      this.dropout.replaceBy({ from, state })
    }
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
   * Adds the update of a layer to the weight of its base layer, in place: scaling * B A for LoRA, and scaling * C^T A
   * with C = sum_e w_e B_e for Lily, whose layer must be frozen or have routing 'uniform' or 'learned', and whose activation
   * must be 'none'. The base layer then computes the sum of both, and `forward` of the merged layer throws.
   *
   * Each element is rounded once, to the type of the weight; see docs/serving.md for 16-bit parameters on a device.
   * Parameters in host memory must be finite; those on a device are not checked.
   *
   * @param weight [d_out, d_in], as in torch.nn.Linear: float32, bfloat16 or float16, on the model's device. A LoraModel with
   *   fanInFanOut takes [d_in, d_out]
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED: the weight
   *   is unchanged; ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA
   */
  merge(name: string, weight: TensorLike): void
  /**
   * Merges all layers. Everything is checked before the first weight is written. Two weights may not share memory, as those
   * that a base model ties do: each layer needs one of its own.
   *
   * @param weights by layer name, as a Map or an object: one for each adapted layer, or for some with `subset: true`
   * @throws LilyError as for one layer: all weights are unchanged. ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA: the layers whose
   *   `isMerged` is true are merged, and the other weights are unchanged
   * @example
   * model.merge({ 'layers.0.q_proj': q, 'layers.0.v_proj': v })
   */
  merge(weights: Named<TensorLike>, options?: MergeOptions): void
  merge(first: string | Named<TensorLike>, second?: TensorLike | MergeOptions): void {
    const merging = this.#readMerging(first, second)
    for (const { layer } of merging.targets) layer.checkNotMerged()
    this.#addUpdates(merging, 1)
  }

  /**
   * Subtracts the update that {@link merge} added. The parameters must not have changed: then the subtracted update
   * equals the added one, and an element differs from its original by at most two roundings, half a unit in the last
   * place of the merged element and half a unit of its own. Neither this nor that the weight is the merged one is checked;
   * a copy of it is accepted.
   *
   * @param weight [d_out, d_in]: the merged weight
   * @throws LilyError as {@link merge}
   */
  unmerge(name: string, weight: TensorLike): void
  /**
   * Subtracts the updates of all layers.
   *
   * @param weights the merged weights by layer name: one for each adapted layer, or for some with `subset: true`
   * @throws LilyError as {@link merge}
   */
  unmerge(weights: Named<TensorLike>, options?: MergeOptions): void
  unmerge(first: string | Named<TensorLike>, second?: TensorLike | MergeOptions): void {
    const merging = this.#readMerging(first, second)
    const other = merging.targets.find(({ layer }) => !layer.isMerged)?.layer
    if (other !== undefined) {
      const { names } = merging
      fail('ERR_LILY_ARGUMENT', names, `expected a merged layer, but '${other.name}' is not merged; merge it first`)
    }
    this.#addUpdates(merging, -1)
  }

  #readMerging(first: unknown, second: unknown): Merging {
    if (isNamed(first)) return readMerging(this.layers, first, second)
    // First, so that a weight without a name is not taken for a missing weight.
    const layer = this.layer(first as string)
    return { targets: [{ layer, argument: 'weight', weight: resolve('weight', second) }], names: 'name' }
  }

  #addUpdates(merging: Merging, sign: 1 | -1): void {
    const [{ layer: only }] = merging.targets
    checkMerging(merging, merging.names === 'name' ? only.parameters : this.allParameters().values())
    for (const { layer, weight } of merging.targets) {
      layer.addUpdate(weight, sign)
      layer.markMerged(sign === 1)
    }
  }

  /** Releases parameters and gradients. Throws nothing. */
  dispose(): void {
    this.#isDisposed = true
    for (const parameter of this.#parameters.values()) parameter.dispose()
    this.dropout.dispose()
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  /** @internal A line for the console, which ends with the fields of the configuration. */
  protected summary(className: string, config: string): string {
    if (this.#isDisposed) return `${className} { disposed }`
    const [first] = this.#parameters.values()
    const sizeOf = (parameters: ReadonlyMap<string, Parameter>) =>
      [...parameters.values()].reduce((sum, { size }) => sum + size, 0)
    const [all, trainable] = [sizeOf(this.#parameters), sizeOf(this.parameters())]
    const parameters = `${grouped(all)} parameters${trainable === all ? '' : ` (${grouped(trainable)} trainable)`}`
    return `${className} { ${first.placeText()}, ${countOf(this.layers.size, 'layer')}, ${parameters}, ${config} }`
  }

  #first(): Parameter {
    return this.allParameters().values().next().value as Parameter
  }
}
