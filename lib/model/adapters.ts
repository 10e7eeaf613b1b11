/** Several adapters of one base model. */
import { adaptersSavedKey, isOf } from '../base/copies.js'
import { describe, fail } from '../base/errors.js'
import { disposeSymbol } from '../base/symbols.js'
import type { LilySaved } from '../operations/saved.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import type { LayerBackwardOptions, LayerForwardOptions, LilyLayer } from './layer.js'
import { LilyModel } from './model.js'
import type { Parameter } from './parameter.js'

/** What {@link AdaptersLayer.forward} saves for backward: one saved call per active adapter. */
export class AdaptersSaved {
  /** @internal */
  constructor(
    /** By adapter name. */
    readonly calls: ReadonlyMap<string, LilySaved>,
    readonly layers: ReadonlyMap<string, LilyLayer>,
  ) {}

  static [Symbol.hasInstance](value: unknown): value is AdaptersSaved {
    return isOf(adaptersSavedKey, value)
  }

  /** @internal */
  get [adaptersSavedKey](): true {
    return true
  }

  /** Releases all saved calls. */
  dispose(): void {
    for (const saved of this.calls.values()) saved.dispose()
  }

  [disposeSymbol](): void {
    this.dispose()
  }
}

/**
 * Named adapters of one base model, any number of which are active. The outputs of the active adapters add up, as in
 * PEFT, whose method names this class uses. The adapters may target different layers.
 *
 * @example
 * const adapters = new LilyAdapters()
 * adapters.addAdapter('french', french)
 * adapters.addAdapter('polite', polite)
 * adapters.setAdapter(['french', 'polite'])
 * adapters.layer('layers.0.q_proj').forward(x, baseOutput)
 */
export class LilyAdapters {
  readonly #models = new Map<string, LilyModel>()
  #active: readonly string[] = []
  #isEnabled = true

  /** Names of the active adapters, in the order in which their outputs are added; empty while adapters are disabled. */
  get activeAdapters(): readonly string[] {
    return this.#isEnabled ? this.#active : []
  }

  /** All adapters by name. */
  get adapters(): ReadonlyMap<string, LilyModel> {
    return this.#models
  }

  /**
   * Adds an adapter, which this object then owns. The first one becomes active.
   *
   * @throws LilyError ERR_LILY_ARGUMENT; ERR_LILY_SHAPE if another adapter has different sizes for a layer
   */
  addAdapter(name: string, model: LilyModel): this {
    if (typeof name !== 'string' || name === '' || name.includes('.')) {
      fail('ERR_LILY_ARGUMENT', 'name', `expected a name without a dot, got ${describe(name)}`)
    }
    if (this.#models.has(name))
      fail(
        'ERR_LILY_ARGUMENT',
        'name',
        `expected a new name, got '${name}', which is in use; delete that adapter first`,
      )
    if (!(model instanceof LilyModel)) {
      fail('ERR_LILY_ARGUMENT', 'model', `expected a LilyModel, got ${describe(model)}`)
    }
    for (const other of this.#models.values()) checkSizes(name, model, other)
    this.#models.set(name, model)
    if (this.#models.size === 1) this.#active = [name]
    return this
  }

  /**
   * Activates exactly these adapters.
   *
   * @throws LilyError ERR_LILY_ARGUMENT
   */
  setAdapter(names: string | readonly string[]): this {
    const active = typeof names === 'string' ? [names] : [...names]
    for (const name of active) this.#model(name)
    if (new Set(active).size !== active.length)
      fail('ERR_LILY_ARGUMENT', 'names', `expected each name once, got one twice: ${active.join(', ')}`)
    this.#active = active
    return this
  }

  /** Disables all adapters, so that only the base model computes, until {@link enableAdapters}. */
  disableAdapters(): void {
    this.#isEnabled = false
  }

  /** Reverses {@link disableAdapters}. */
  enableAdapters(): void {
    this.#isEnabled = true
  }

  /**
   * Removes an adapter and disposes of it. Other active adapters stay active.
   *
   * @throws LilyError ERR_LILY_ARGUMENT
   */
  deleteAdapter(name: string): void {
    this.#model(name).dispose()
    this.#models.delete(name)
    this.#active = this.#active.filter((active) => active !== name)
  }

  /**
   * A layer that at least one adapter targets.
   *
   * @throws LilyError ERR_LILY_ARGUMENT
   */
  layer(name: string): AdaptersLayer {
    if ([...this.#models.values()].some((model) => model.layers.has(name))) {
      return new AdaptersLayer(name, () => this.#activeLayers(name))
    }
    return fail('ERR_LILY_ARGUMENT', 'name', `expected a layer that an adapter targets, got ${describe(name)}`)
  }

  /**
   * Moves all adapters to a device, in place; see {@link LilyModel.to}.
   *
   * @throws LilyError as `Tensor.to`
   */
  to(device: Parameters<LilyModel['to']>[0]): this {
    for (const model of this.#models.values()) model.to(device)
    return this
  }

  /**
   * Parameters of the active adapters, as '<adapter>.<parameter>', for an optimiser.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  parameters(): Map<string, Parameter> {
    const parameters = new Map<string, Parameter>()
    for (const name of this.activeAdapters) {
      for (const [key, parameter] of this.#model(name).parameters()) parameters.set(`${name}.${key}`, parameter)
    }
    return parameters
  }

  /**
   * Sets the gradients of all adapters to zero, active or not.
   *
   * @throws LilyError as `LilyModel.zeroGrad`
   */
  zeroGrad(): void {
    for (const model of this.#models.values()) model.zeroGrad()
  }

  /** Disposes of all adapters. */
  dispose(): void {
    for (const name of [...this.#models.keys()]) this.deleteAdapter(name)
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  #model(name: string): LilyModel {
    const model = this.#models.get(name)
    if (model !== undefined) return model
    const known = [...this.#models.keys()].join(', ')
    return fail(
      'ERR_LILY_ARGUMENT',
      'name',
      `expected one of the adapters ${known === '' ? '(none)' : known}, got ${describe(name)}`,
    )
  }

  #activeLayers(name: string): Map<string, LilyLayer> {
    const layers = new Map<string, LilyLayer>()
    for (const adapter of this.activeAdapters) {
      const layer = this.#model(adapter).layers.get(name)
      if (layer !== undefined) layers.set(adapter, layer)
    }
    return layers
  }
}

/** Checks that two adapters agree on the sizes of the layers that both target. */
function checkSizes(name: string, model: LilyModel, other: LilyModel): void {
  for (const layer of model.layers.values()) {
    const { inFeatures, outFeatures } = other.layers.get(layer.name) ?? layer
    if (inFeatures === layer.inFeatures && outFeatures === layer.outFeatures) continue
    fail(
      'ERR_LILY_SHAPE',
      'model',
      `expected ${inFeatures} to ${outFeatures} features for layer '${layer.name}', as another adapter has, got ` +
        `${layer.inFeatures} to ${layer.outFeatures} in '${name}'; add adapters of one base model`,
    )
  }
}

/**
 * Checks all active adapters before the first one writes: otherwise an error of a later one would leave y half updated.
 */
function checkAgreement(layers: ReadonlyMap<string, LilyLayer>): void {
  const [first] = layers.values()
  for (const [adapter, layer] of layers) {
    layer.checkNotMerged()
    const [value, other] = [layer.a.value, first.a.value]
    if (value.dtype === other.dtype && value.device === other.device) continue
    fail(
      'ERR_LILY_ARGUMENT',
      'adapters',
      `expected one dtype and device for all active adapters, got another for '${adapter}'; convert or move it`,
    )
  }
}

/** One layer of the base model, with the adapters that are active at the time of each call. */
export class AdaptersLayer {
  /** @internal */
  constructor(
    readonly name: string,
    private readonly activeLayers: () => ReadonlyMap<string, LilyLayer>,
  ) {}

  /**
   * Adds the outputs of the active adapters to y, in place.
   *
   * @param x [..., d_in]
   * @param y [..., d_out]: the base layer's output
   * @returns y, unchanged if no adapter is active, and what {@link backward} needs
   * @throws LilyError as `LilyLayer.forward`
   */
  forward(x: TensorLike, y: TensorLike, options: LayerForwardOptions = {}): { y: TensorLike; saved: AdaptersSaved } {
    resolve('y', y)
    const layers = this.activeLayers()
    checkAgreement(layers)
    const calls = new Map<string, LilySaved>()
    for (const [adapter, layer] of layers) {
      const { saved } = layer.forward(x, y, options)
      if (saved !== undefined) calls.set(adapter, saved)
    }
    return { y, saved: new AdaptersSaved(calls, layers) }
  }

  /**
   * Adds the gradient of x to dx, in place, and the gradients of the parameters to the adapters that were active in
   * forward.
   *
   * @param dy [..., d_out], M rows: the gradient of y
   * @param saved what forward returned
   * @param options.dx [..., d_in], M rows, such as the base layer's gradient of x; required unless `needs.dx` is false
   * @returns `options.dx`
   * @throws LilyError as `LilyLayer.backward`
   */
  backward(dy: TensorLike, saved: AdaptersSaved, options: LayerBackwardOptions = {}): TensorLike | undefined {
    if (!(saved instanceof AdaptersSaved)) {
      fail(
        'ERR_LILY_ARGUMENT',
        'saved',
        `expected the saved object that forward of this layer returned, got ${describe(saved)}`,
      )
    }
    if (options.needs?.dx !== false) resolve('dx', options.dx)
    for (const [adapter, call] of saved.calls) saved.layers.get(adapter)?.backward(dy, call, options)
    return options.dx
  }
}
