/** Several adapters of one base model. */
import { describe, fail } from '../base/errors.js'
import { disposeSymbol } from '../base/symbols.js'
import type { LilySaved } from '../operations/saved.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import type { LayerBackwardOptions, LayerForwardOptions, LilyLayer } from './layer.js'
import { LilyModel } from './model.js'
import type { Parameter } from './parameter.js'

/** What a forward of several adapters leaves for backward: one saved call for each that took part. */
export class AdaptersSaved {
  /** @internal */
  constructor(
    /** By the adapter's name. */
    readonly calls: ReadonlyMap<string, LilySaved>,
    readonly layers: ReadonlyMap<string, LilyLayer>,
  ) {}

  dispose(): void {
    for (const saved of this.calls.values()) saved.dispose()
  }

  [disposeSymbol](): void {
    this.dispose()
  }
}

/**
 * Named adapters of the same base model, of which one, several or none are active: the outputs of the active ones add up,
 * as in PEFT. An adapter may target other layers than the next.
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

  /** Those that take part, in the order in which they add up; none while disabled. */
  get activeAdapters(): readonly string[] {
    return this.#isEnabled ? this.#active : []
  }

  /** All by name. */
  get adapters(): ReadonlyMap<string, LilyModel> {
    return this.#models
  }

  /** Adds an adapter, which the set then owns. The first one becomes active. */
  addAdapter(name: string, model: LilyModel): this {
    if (typeof name !== 'string' || name === '' || name.includes('.')) {
      fail('ERR_LILY_ARGUMENT', 'name', `expected a name without a dot, got ${describe(name)}`)
    }
    if (this.#models.has(name)) fail('ERR_LILY_ARGUMENT', 'name', `'${name}' is there already; delete it first`)
    if (!(model instanceof LilyModel)) {
      fail('ERR_LILY_ARGUMENT', 'model', `expected a LilyModel, got ${describe(model)}`)
    }
    for (const other of this.#models.values()) checkSizes(name, model, other)
    this.#models.set(name, model)
    if (this.#models.size === 1) this.#active = [name]
    return this
  }

  /** Makes these, and no others, the active ones. */
  setAdapter(names: string | readonly string[]): this {
    const active = typeof names === 'string' ? [names] : [...names]
    for (const name of active) this.#model(name)
    if (new Set(active).size !== active.length) fail('ERR_LILY_ARGUMENT', 'names', 'an adapter is named twice')
    this.#active = active
    return this
  }

  /** Only the base model computes, until {@link enableAdapters}. */
  disableAdapters(): void {
    this.#isEnabled = false
  }

  enableAdapters(): void {
    this.#isEnabled = true
  }

  /** Disposes of an adapter. Where it was active, the others that are stay so. */
  deleteAdapter(name: string): void {
    this.#model(name).dispose()
    this.#models.delete(name)
    this.#active = this.#active.filter((active) => active !== name)
  }

  /** A layer that at least one adapter targets. */
  layer(name: string): AdaptersLayer {
    if ([...this.#models.values()].some((model) => model.layers.has(name))) {
      return new AdaptersLayer(name, () => this.#activeLayers(name))
    }
    return fail('ERR_LILY_ARGUMENT', 'name', `no adapter has a layer ${describe(name)}`)
  }

  /** Moves all adapters, in place; see {@link LilyModel.to}. */
  to(device: Parameters<LilyModel['to']>[0]): this {
    for (const model of this.#models.values()) model.to(device)
    return this
  }

  /** Those of the active adapters, as '<adapter>.<parameter>', for an optimiser. */
  parameters(): Map<string, Parameter> {
    const parameters = new Map<string, Parameter>()
    for (const name of this.activeAdapters) {
      for (const [key, parameter] of this.#model(name).parameters()) parameters.set(`${name}.${key}`, parameter)
    }
    return parameters
  }

  /** Of all adapters, active or not. */
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
    return fail('ERR_LILY_ARGUMENT', 'name', `no adapter ${describe(name)}; there are ${known === '' ? 'none' : known}`)
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

/** Adapters of one base model have layers of the same sizes. */
function checkSizes(name: string, model: LilyModel, other: LilyModel): void {
  for (const layer of model.layers.values()) {
    const { inFeatures, outFeatures } = other.layers.get(layer.name) ?? layer
    if (inFeatures === layer.inFeatures && outFeatures === layer.outFeatures) continue
    fail(
      'ERR_LILY_SHAPE',
      'model',
      `layer '${layer.name}' of '${name}' is ${layer.inFeatures} to ${layer.outFeatures}, ` +
        `in another adapter ${inFeatures} to ${outFeatures}; adapters of a set have one base model`,
    )
  }
}

/** What would refuse a later adapter when an earlier one has written already. */
function checkAgreement(layers: ReadonlyMap<string, LilyLayer>): void {
  const [first] = layers.values()
  for (const [adapter, layer] of layers) {
    layer.refuseMerged()
    const [value, other] = [layer.a.value, first.a.value]
    if (value.dtype === other.dtype && value.device === other.device) continue
    fail('ERR_LILY_ARGUMENT', 'adapters', `'${adapter}' has another dtype or device than the others that are active`)
  }
}

/** One layer with the adapters that are active when it is called. */
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
   * @param y [..., d_out]: the base layer's output, which is what is returned where no adapter is active
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
   * Adds the gradients of x to dx, in place, and those of the parameters to the adapters that took part in forward.
   *
   * @param options.dx [..., d_in] of M rows, such as the base layer's gradient; required unless `needs.dx` is false
   */
  backward(dy: TensorLike, saved: AdaptersSaved, options: LayerBackwardOptions = {}): TensorLike | undefined {
    if (!(saved instanceof AdaptersSaved)) {
      fail('ERR_LILY_ARGUMENT', 'saved', `expected what forward of this layer returned, got ${describe(saved)}`)
    }
    if (options.needs?.dx !== false) resolve('dx', options.dx)
    for (const [adapter, call] of saved.calls) saved.layers.get(adapter)?.backward(dy, call, options)
    return options.dx
  }
}
