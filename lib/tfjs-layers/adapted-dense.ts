/** A dense layer with an adapter, as a layer of TensorFlow.js. */
import { serialization, type Tensor, tidy, zeros } from '@tensorflow/tfjs-core'
import { layers, type LayersModel, type LayerVariable } from '@tensorflow/tfjs-layers'
import { describe, fail } from '../base/errors.js'
import { checkKeys, isPlain, type Known } from '../base/options.js'
import { quoted } from '../base/summary.js'
import { inspectSymbol } from '../base/symbols.js'
import type { AdapterLayer } from '../model/adapter-layer.js'
import type { AdapterModel } from '../model/adapter-model.js'
import type { LilyLayer } from '../model/lily-layer.js'
import { poolsTokens } from '../operations/check-routing.js'
import { adaptedLinear } from '../tfjs/adapted-linear.js'

type Layer = layers.Layer
type LayerArgs = NonNullable<ConstructorParameters<typeof layers.Layer>[0]>
type Shape = Parameters<Layer['computeOutputShape']>[0]

/** Arguments of {@link AdaptedDense}, in addition to the arguments of every layer. */
export interface AdaptedDenseArgs extends LayerArgs {
  /** A tf.layers.dense, usually of a trained model. Its weights are used in place and not trained. */
  readonly dense: Layer
  /** The adapter: `model.layer(name)` of a LilyModel or a LoraModel. */
  readonly adapter: AdapterLayer
}

const ARGUMENTS: Known = new Set<keyof AdaptedDenseArgs>([
  'dense',
  'adapter',
  // Arguments of every layer.
  'name',
  'trainable',
  'dtype',
  'inputShape',
  'batchInputShape',
  'batchSize',
  'weights',
  'inputDType',
])

/**
 * A frozen tf.layers.dense with an adapter: activation(x kernel + bias + adapter(x)). None of its weights is trainable; the
 * parameters of the adapter belong to its model, and AdapterOptimizer of lily-kernels/tfjs trains them. The
 * model's config has its routing, pool and activation. The routings 'batch' and 'sequence' use the mask of the input, for
 * example from an embedding with `maskZero`.
 *
 * A saved LayersModel has the weights of the dense layer and the name of the adapter. Save the adapter with
 * `savePretrained`, and call {@link attachAdapter} after loading.
 *
 * @example
 * const hidden = new AdaptedDense({ dense, adapter: adapter.layer('layers.0.proj') }).apply(input)
 */
export class AdaptedDense extends layers.Layer {
  /** Name of the class in TensorFlow.js. */
  static readonly className = 'AdaptedDense'
  /** The frozen layer. */
  readonly dense: Layer
  /** Name of the adapter in its model. */
  readonly adapterName: string
  readonly #activation: Layer
  #adapter: AdapterLayer | null

  /**
   * Wraps a dense layer.
   *
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE
   */
  constructor(args: AdaptedDenseArgs) {
    const { dense, adapter, ...rest } = readArguments(args)
    super(rest)
    this.supportsMasking = true
    this.dense = readDense(dense)
    const { name, inFeatures } = readAdapter(adapter)
    // Here, and not in build: its weights then have the names that they have without this layer around it.
    if (!this.dense.built) tidy(() => void this.dense.apply(zeros([1, inFeatures])))
    this.adapterName = name
    this.#adapter = isLayer(adapter) ? this.#checked(adapter) : null
    // The activation comes after the adapter, so that the dense layer cannot apply it itself.
    this.#activation = layers.activation({ activation: this.dense.getConfig().activation as 'linear' })
  }

  /**
   * Connects the layer with its adapter.
   *
   * @throws LilyError ERR_LILY_ARGUMENT if the model has no layer of this name; ERR_LILY_SHAPE
   */
  attach(model: AdapterModel): void {
    this.prepareAttach(model)()
  }

  /** @internal Checks the adapter. Returns what connects the layer with it. */
  prepareAttach(model: AdapterModel): () => void {
    if (typeof (model as Partial<AdapterModel> | null | undefined)?.layer !== 'function') {
      fail('ERR_LILY_ARGUMENT', 'adapter', `expected a LilyModel or a LoraModel, got ${describe(model)}`)
    }
    const adapter = this.#checked(model.layer(this.adapterName))
    return () => {
      this.#adapter = adapter
    }
  }

  /** None: the parameters of the adapter belong to its model. */
  override get trainableWeights(): LayerVariable[] {
    return []
  }

  /** The weights of the dense layer. */
  override get nonTrainableWeights(): LayerVariable[] {
    // The constructor of the base class reads this before there is a dense layer.
    return (this.dense as Layer | undefined)?.weights ?? []
  }

  /** The shape that the dense layer returns, `[..., units]`. Throws nothing of its own. */
  override computeOutputShape(inputShape: Shape): Shape {
    return this.dense.computeOutputShape(inputShape)
  }

  /**
   * The output of the layer, `[..., units]`, for inputs `[..., d_in]`.
   *
   * @throws LilyError ERR_LILY_ARGUMENT if the layer was loaded without its adapter; as adapt
   */
  override call(inputs: Tensor | Tensor[], { mask }: { readonly mask?: Tensor }): Tensor {
    const adapter = this.#adapter
    if (adapter === null) {
      fail(
        'ERR_LILY_ARGUMENT',
        'adapter',
        `layer '${this.name}' was loaded without its adapter '${this.adapterName}'; call attachAdapter(model, adapter)`,
      )
    }
    return tidy(() => {
      const x = Array.isArray(inputs) ? inputs[0] : inputs
      const [kernel, bias] = this.dense.weights.map((weight) => weight.read())
      const y = adaptedLinear(x, kernel, adapter, { bias, ...(usesMask(adapter) && { mask }) })
      return this.#activation.apply(y) as Tensor
    })
  }

  /** What a saved model has of this layer: the dense layer, and the name of the adapter. Throws nothing. */
  override getConfig(): serialization.ConfigDict {
    const { dense, adapterName } = this
    const [inFeatures] = dense.weights[0].shape
    return {
      ...super.getConfig(),
      dense: dense.getConfig(),
      // The loader of TensorFlow.js changes strings to camel case, except in fields called name.
      adapter: { name: adapterName, inFeatures },
    }
  }

  /** @internal What a saved model is loaded with. */
  static override fromConfig<T extends serialization.Serializable>(
    cls: serialization.SerializableConstructor<T>,
    config: serialization.ConfigDict,
  ): T {
    // The loader of TensorFlow.js adds the custom objects.
    const { customObjects: _, ...args } = config
    return new cls({ ...args, dense: layers.dense(args.dense as never) })
  }

  static {
    serialization.registerClass(this)
  }

  [inspectSymbol](): string {
    const { name, adapterName } = this
    const detached = this.#adapter === null ? ', not attached' : ''
    return `AdaptedDense { ${quoted(name)}, adapter ${quoted(adapterName)}${detached} }`
  }

  #checked(adapter: AdapterLayer): AdapterLayer {
    const { name, inFeatures, outFeatures } = adapter
    const [dIn, dOut] = this.dense.weights[0].shape
    if (dIn === inFeatures && dOut === outFeatures) return adapter
    return fail(
      'ERR_LILY_SHAPE',
      'adapter',
      `expected ${dIn} to ${dOut} features, as the dense layer '${this.dense.name}' has, got ${inFeatures} to ` +
        `${outFeatures} in '${name}'`,
    )
  }
}

/**
 * Connects all {@link AdaptedDense} layers of a model that was loaded, including its nested models, with the layers of an
 * adapter, by their names.
 *
 * @returns the model
 * @throws LilyError ERR_LILY_ARGUMENT if there is none, or the adapter lacks one; ERR_LILY_SHAPE: no layer is connected
 * @example
 * const net = attachAdapter(await tf.loadLayersModel('file://net/model.json'), await LilyModel.fromPretrained('adapter'))
 */
export function attachAdapter(model: LayersModel, adapter: AdapterModel): LayersModel {
  const layers = layersOf(model)
  if (layers === null) fail('ERR_LILY_ARGUMENT', 'model', `expected a LayersModel, got ${describe(model)}`)
  const adapted = adaptedAmong(layers)
  if (adapted.length === 0) fail('ERR_LILY_ARGUMENT', 'model', 'expected a model with AdaptedDense layers, got none')
  for (const attach of adapted.map((layer) => layer.prepareAttach(adapter))) attach()
  return model
}

/** The layers of a model; null for a layer that is none, and for anything else. */
function layersOf(model: unknown): readonly Layer[] | null {
  const { layers } = (model ?? {}) as { readonly layers?: unknown }
  return Array.isArray(layers) ? layers : null
}

function adaptedAmong(layers: readonly Layer[]): AdaptedDense[] {
  return layers.flatMap((layer) => (layer instanceof AdaptedDense ? [layer] : adaptedAmong(layersOf(layer) ?? [])))
}

function readArguments(args: AdaptedDenseArgs): AdaptedDenseArgs {
  // A layer in their place would fail at a property of it.
  if (!isPlain(args)) {
    fail('ERR_LILY_ARGUMENT', 'args', `expected { dense, adapter: model.layer(name) }, got ${describe(args)}`)
  }
  checkKeys('args', args, ARGUMENTS)
  return args
}

function readDense(dense: unknown): Layer {
  const { getClassName } = (dense ?? {}) as Partial<Layer>
  if (typeof getClassName === 'function' && getClassName.call(dense) === 'Dense') return dense as Layer
  return fail('ERR_LILY_ARGUMENT', 'dense', `expected a tf.layers.dense, got ${describe(dense)}`)
}

/** What a saved model has of an adapter. */
type StoredAdapter = Pick<AdapterLayer, 'name' | 'inFeatures'>

function readAdapter(adapter: unknown): StoredAdapter {
  const { name, inFeatures } = (adapter ?? {}) as { name?: unknown; inFeatures?: unknown }
  if (typeof name === 'string' && typeof inFeatures === 'number') return { name, inFeatures }
  return fail('ERR_LILY_ARGUMENT', 'adapter', `expected model.layer(name), got ${describe(adapter)}`)
}

function isLayer(adapter: StoredAdapter | AdapterLayer): adapter is AdapterLayer {
  return 'forward' in adapter
}

/** Whether an adapter pools tokens. LoRA has no routing. */
function usesMask({ routing }: AdapterLayer & Partial<Pick<LilyLayer, 'routing'>>): boolean {
  return routing !== undefined && poolsTokens(routing)
}
