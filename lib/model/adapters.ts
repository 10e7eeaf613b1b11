/** Several adapters of one base model. */
import { checkFloat, checkTokenRows, checkType } from '../base/checks.js'
import { adaptersSavedKey, isOf } from '../base/copies.js'
import { describe, fail, reading } from '../base/errors.js'
import { copyArray, type Exact } from '../base/options.js'
import { disposeSymbol } from '../base/symbols.js'
import { readDevice } from '../memory/backends.js'
import { checkPlace, refuseOverlap } from '../memory/checks.js'
import type { Operand } from '../memory/operand.js'
import type { SavedOf } from '../operations/forward.js'
import { runForward } from '../operations/run.js'
import type { Saved } from '../operations/saved.js'
import type { TensorLike } from '../tensor/resolve.js'
import type { AdapterLayer, LayerBackwardInputs, LayerForwardInputs } from './adapter-layer.js'
import type { AdapterModel } from './adapter-model.js'
import { type LayerBackwardOptions, type LayerForwardOptions, readLilyBackward, readLilyForward } from './lily-layer.js'
import type { LayerShape } from './layer-shape.js'
import { isModel } from './lily-model.js'
import { isLoraModel } from './lora-model.js'
import type { Parameter } from './parameter.js'

/** One adapter's part of a saved call. */
interface AdapterCall {
  readonly adapter: string
  readonly layer: AdapterLayer
  readonly saved: Saved
}

/** The parts of a saved call; undefined for any other value. */
let callsOf: (saved: unknown) => readonly AdapterCall[] | undefined

/** What {@link AdaptersLayer.forward} saves for backward: one saved call per active adapter. */
export class AdaptersSaved {
  readonly #calls: readonly AdapterCall[]
  /** By adapter name. */
  readonly calls: ReadonlyMap<string, Saved>

  /** @internal */
  constructor(calls: readonly AdapterCall[]) {
    this.#calls = calls
    this.calls = new Map(calls.map(({ adapter, saved }) => [adapter, saved]))
  }

  static {
    callsOf = (saved) => (isOf(adaptersSavedKey, saved) ? (saved as AdaptersSaved)[adaptersSavedKey]() : undefined)
  }

  static [Symbol.hasInstance](value: unknown): value is AdaptersSaved {
    return isOf(adaptersSavedKey, value)
  }

  /** @internal */
  [adaptersSavedKey](): readonly AdapterCall[] {
    return this.#calls
  }

  /** Releases all saved calls. Throws nothing. */
  dispose(): void {
    for (const { saved } of this.#calls) saved.dispose()
  }

  [disposeSymbol](): void {
    this.dispose()
  }
}

/**
 * Named adapters of one base model, any number of which are active. The outputs of the active adapters add up, as in
 * PEFT, whose method names this class uses. The adapters may target different layers, and be of either kind; `M` may be
 * LilyModel or LoraModel for one kind only.
 *
 * @example
 * const adapters = new LilyAdapters()
 * adapters.addAdapter('french', french)
 * adapters.addAdapter('polite', polite)
 * adapters.setAdapter(['french', 'polite'])
 * adapters.layer('layers.0.q_proj').forward(x, baseOutput)
 */
export class LilyAdapters<M extends AdapterModel = AdapterModel> {
  readonly #models = new Map<string, M>()
  #active: readonly string[] = []
  #isEnabled = true

  /** Names of the active adapters, in the order in which their outputs are added; empty while adapters are disabled. */
  get activeAdapters(): readonly string[] {
    return this.#isEnabled ? this.#active : []
  }

  /** All adapters by name. */
  get adapters(): ReadonlyMap<string, M> {
    return this.#models
  }

  /**
   * Adds an adapter, which this object then owns. The first one becomes active.
   *
   * @throws LilyError ERR_LILY_ARGUMENT, also for a model that was added before; ERR_LILY_DISPOSED; ERR_LILY_SHAPE if
   *   another adapter has different sizes for a layer
   */
  addAdapter(name: string, model: M): this {
    if (typeof name !== 'string' || name === '' || name.includes('.')) {
      fail('ERR_LILY_ARGUMENT', 'name', `expected a name without a dot, got ${describe(name)}`)
    }
    if (this.#models.has(name))
      fail(
        'ERR_LILY_ARGUMENT',
        'name',
        `expected a new name, got '${name}', which is in use; delete that adapter first`,
      )
    if (!isModel(model) && !isLoraModel(model)) {
      fail('ERR_LILY_ARGUMENT', 'model', `expected a LilyModel or a LoraModel, got ${describe(model)}`)
    }
    if (model.isDisposed) fail('ERR_LILY_DISPOSED', 'model', 'this model is disposed of; add it before dispose()')
    for (const [otherName, other] of this.#models) {
      if (other === model)
        fail(
          'ERR_LILY_ARGUMENT',
          'model',
          `expected each model once, got that of adapter '${otherName}' again; create or read another one`,
        )
      checkSizes(name, model, other)
    }
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
    const active = (typeof names === 'string' ? [names] : copyArray('names', names)) as string[] | null
    if (active === null) {
      fail('ERR_LILY_ARGUMENT', 'names', `expected a name or an array of names, got ${describe(names)}`)
    }
    for (const name of active) this.#model(name)
    if (new Set(active).size !== active.length)
      fail('ERR_LILY_ARGUMENT', 'names', `expected each name once, got one twice: ${active.join(', ')}`)
    this.#active = active
    return this
  }

  /** Disables all adapters, so that only the base model computes, until {@link enableAdapters}. Throws nothing. */
  disableAdapters(): void {
    this.#isEnabled = false
  }

  /** Reverses {@link disableAdapters}. Throws nothing. */
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
    for (const { layers } of this.#models.values()) {
      const shape = layers.get(name)?.shape
      if (shape !== undefined) return new AdaptersLayer(shape, () => this.#activeLayers(name))
    }
    return fail('ERR_LILY_ARGUMENT', 'name', `expected a layer that an adapter targets, got ${describe(name)}`)
  }

  /**
   * Moves all adapters to a device, in place; see {@link AdapterModel.to}.
   *
   * @throws LilyError as `AdapterModel.to`; no adapter has been moved
   */
  to(device: Parameters<AdapterModel['to']>[0]): this {
    const target = readDevice('device', device)
    const moves = Array.from(this.#models.values(), (model) => model.prepareMove(target))
    for (const move of moves) move()
    return this
  }

  /**
   * Moves all adapters to the host, in place; see {@link AdapterModel.toHost}.
   *
   * @throws LilyError (as a rejection) as `AdapterModel.toHost`; no adapter has been moved
   */
  async toHost(): Promise<this> {
    const moves = await Promise.all(Array.from(this.#models.values(), (model) => model.prepareMoveToHost()))
    for (const move of moves) move()
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
   * @throws LilyError as `AdapterModel.zeroGrad`: the gradients of all adapters are unchanged
   */
  zeroGrad(): void {
    const clears = Array.from(this.#models.values(), (model) => model.prepareZeroGrad())
    for (const clear of clears) clear()
  }

  /** Disposes of all adapters. Throws nothing. */
  dispose(): void {
    for (const name of [...this.#models.keys()]) this.deleteAdapter(name)
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  #model(name: string): M {
    const model = this.#models.get(name)
    if (model !== undefined) return model
    const known = [...this.#models.keys()].join(', ')
    return fail(
      'ERR_LILY_ARGUMENT',
      'name',
      `expected one of the adapters ${known === '' ? '(none)' : known}, got ${describe(name)}`,
    )
  }

  #activeLayers(name: string): Map<string, AdapterLayer> {
    const layers = new Map<string, AdapterLayer>()
    for (const adapter of this.activeAdapters) {
      const layer = this.#model(adapter).layers.get(name)
      if (layer !== undefined) layers.set(adapter, layer)
    }
    return layers
  }
}

/** Checks that two adapters agree on the sizes of the layers that both target. */
function checkSizes(name: string, model: AdapterModel, other: AdapterModel): void {
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

/** Checks that the active adapters have one type and device. */
function checkAgreement(layers: ReadonlyMap<string, AdapterLayer>): void {
  const [first] = layers.values()
  for (const [adapter, layer] of layers) {
    const [value, other] = [layer.a.value, first.a.value]
    if (value.dtype === other.dtype && value.device === other.device) continue
    fail(
      'ERR_LILY_ARGUMENT',
      'adapters',
      `expected one dtype and device for all active adapters, got another for '${adapter}'; convert or move it`,
    )
  }
}

/** The same call, which adds to y. */
function addingTo({ y, settings }: LayerForwardInputs): Pick<LayerForwardInputs, 'y' | 'settings'> {
  return { y: y?.addedTo() ?? null, settings: { ...settings, accumulate: true } }
}

/** Checks a forward call without an active adapter: what is wrong with it must not depend on which adapters are active. */
function checkWithoutAdapters({ inFeatures, outFeatures }: LayerShape, { x, y }: LayerForwardInputs): void {
  const first = { name: 'x', operand: x }
  checkTokens('x', x, first, inFeatures)
  if (y === null) return
  checkTokens('y', y.operand, first, outFeatures)
  refuseOverlap('y', y.operand, 'x', x)
}

/** Checks a backward call whose forward had no active adapter. */
function checkBackwardWithoutAdapters(
  { inFeatures, outFeatures }: LayerShape,
  { dy, x, dx }: LayerBackwardInputs,
): void {
  const first = { name: 'dy', operand: dy }
  checkTokens('dy', dy, first, outFeatures)
  if (x !== null) checkTokens('x', x, first, inFeatures)
  if (dx === null) return
  checkTokens('dx', dx.operand, first, inFeatures)
  refuseOverlap('dx', dx.operand, 'dy', dy)
  refuseOverlap('dx', dx.operand, 'x', x)
}

/** Checks an operand [..., columns] that has the device, the type and the tokens of the first operand of its call. */
function checkTokens(
  argument: string,
  operand: Operand,
  first: { readonly name: string; readonly operand: Operand },
  columns: number,
): void {
  checkPlace(argument, operand, first.name, first.operand)
  checkTokenRows(argument, operand, first.operand.rows, columns)
  checkType(argument, operand, first.operand.dtype)
  checkFloat(argument, operand)
}

/** Result of {@link AdaptersLayer.forward}. */
export interface AdaptersForwardResult<Y, O> {
  /** The y that was passed. */
  readonly y: Y
  /** What backward needs; undefined with `save: false`. */
  readonly saved: SavedOf<O, AdaptersSaved>
}

/** The type of the option `dx`. */
type DxOf<O> = 'dx' extends keyof O ? O['dx'] : undefined

/** One layer of the base model, with the adapters that are active at the time of each call. */
export class AdaptersLayer {
  /** @internal */
  constructor(
    private readonly shape: LayerShape,
    private readonly activeLayers: () => ReadonlyMap<string, AdapterLayer>,
  ) {}

  /** Name of the base model's linear layer, such as 'layers.0.q_proj'. */
  get name(): string {
    return this.shape.name
  }

  /**
   * Adds the outputs of the active adapters to y, in place. All adapters are checked before the first one is applied.
   *
   * @param x [..., d_in]
   * @param y [..., d_out]: the base layer's output. With `accumulate: false` the sum of the outputs overwrites it
   * @returns y, unchanged if no adapter is active, and what {@link backward} needs
   * @throws LilyError as `LilyLayer.forward`: y is unchanged
   */
  forward<Y extends TensorLike, O extends Exact<O, LayerForwardOptions> = object>(
    x: TensorLike,
    y: Y,
    options?: O,
  ): AdaptersForwardResult<Y, O> {
    const inputs = readLilyForward(x, y, options)
    if (inputs.y === null) fail('ERR_LILY_ARGUMENT', 'y', 'is required, got undefined; pass a tensor')
    const layers = this.activeLayers()
    if (layers.size === 0) checkWithoutAdapters(this.shape, inputs)
    checkAgreement(layers)
    const prepared = Array.from(layers, ([adapter, layer], i) => {
      // The first adapter may overwrite y; the others add to it.
      const call = layer.prepareForward(i === 0 ? inputs : { ...inputs, ...addingTo(inputs) })
      return { adapter, layer, call }
    })
    const calls: AdapterCall[] = []
    for (const { adapter, layer, call } of prepared) {
      const saved = runForward(call).saved
      if (saved !== undefined) calls.push({ adapter, layer, saved })
    }
    const saved = inputs.settings.save ? new AdaptersSaved(calls) : undefined
    return { y, saved } as AdaptersForwardResult<Y, O>
  }

  /**
   * Adds the gradient of x to dx, in place, and the gradients of the parameters to the adapters that were active in
   * forward. All of them are checked before the first gradient is written.
   *
   * @param dy [..., d_out], M rows: the gradient of y
   * @param saved what forward returned
   * @param options its `dx` is [..., d_in], M rows, such as the base layer's gradient of x; required unless `needs.dx` is false
   * @returns `options.dx`, `[..., d_in]`
   * @throws LilyError as `LilyLayer.backward`: dx and all gradients are unchanged
   */
  backward<O extends Exact<O, LayerBackwardOptions> = object>(
    dy: TensorLike,
    saved: AdaptersSaved,
    options?: O,
  ): DxOf<O> {
    const inputs = readLilyBackward(dy, options)
    if (inputs.settings.needs.dx && inputs.dx === null) {
      fail(
        'ERR_LILY_ARGUMENT',
        'dx',
        "is required, got undefined; pass the base layer's gradient of x, to which the adapters add, or needs: { dx: false }",
      )
    }
    const calls = reading('saved', () => callsOf(saved))
    if (calls === undefined) {
      fail(
        'ERR_LILY_ARGUMENT',
        'saved',
        `expected the saved object that forward of this layer returned, got ${describe(saved)}`,
      )
    }
    for (const { layer } of calls) {
      if (layer.name === this.name) continue
      fail(
        'ERR_LILY_ARGUMENT',
        'saved',
        `expected what forward of layer '${this.name}' returned, got that of layer '${layer.name}'`,
      )
    }
    if (calls.length === 0) checkBackwardWithoutAdapters(this.shape, inputs)
    const prepared = calls.map(({ layer, saved }) => ({ layer, call: layer.prepareBackward(inputs, saved) }))
    for (const { layer, call } of prepared) layer.runBackward(call)
    return inputs.given as DxOf<O>
  }
}
