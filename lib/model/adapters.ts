/** Several adapters of one base model. */
import { checkFloat, checkTokenRows, checkType } from '../base/checks.js'
import { countOf, describe, describeOther, fail } from '../base/errors.js'
import { elementsOf, type Exact } from '../base/options.js'
import { quoted } from '../base/summary.js'
import { disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { readDevice } from '../memory/backends.js'
import { checkPlace, refuseOverlap } from '../memory/checks.js'
import type { Operand } from '../memory/operand.js'
import { checkFrozen, checkSavedWeight } from '../operations/check.js'
import { run } from '../operations/dispatch.js'
import type { SavedOf } from '../operations/forward.js'
import type { LinearCall } from '../operations/linear-problem.js'
import { prepareLinear, workOf } from '../operations/linear.js'
import type { Output } from '../operations/output.js'
import type { ForwardSettings } from '../operations/read.js'
import { joinBackward, joinForward, type RowsAdapter } from '../operations/rows.js'
import { runBackward, runForward } from '../operations/run.js'
import type { RowsState } from '../operations/rows-state.js'
import { readRowsSaved, type RowsSaved, type Saved } from '../operations/saved.js'
import type { TensorLike } from '../tensor/resolve.js'
import type {
  AdapterBackwardOperands,
  AdapterForwardOperands,
  AdapterLayer,
  LayerBackwardInputs,
  LayerForwardInputs,
} from './adapter-layer.js'
import { type AdapterModel, checkModel } from './adapter-model.js'
import { failUnknown, findLayers, type NamedRows, readAdaptersForward } from './adapters-rows.js'
import { type LayerBackwardOptions, type LayerForwardOptions, readLilyBackward } from './lily-layer.js'
import type { LayerShape } from './layer-shape.js'
import type { Parameter } from './parameter.js'

/** One adapter's part of a saved call. */
interface AdapterCall {
  readonly adapter: string
  readonly layer: AdapterLayer
  readonly saved: Saved
}

/** The part of the base layer in a saved call that no adapter has computed. */
type FrozenCall = Pick<LayerForwardInputs, 'weight'> & Pick<ForwardSettings, 'precision'>

/** The parts of a saved call. */
interface SavedParts {
  /** The name of the layer. */
  readonly layer: string
  readonly calls: readonly AdapterCall[]
  readonly frozen: FrozenCall
  /** The call with an adapter per row, whose parts are `calls`; null: each of `calls` has all rows. */
  readonly joined: RowsSaved | null
}

type CallParts = Pick<SavedParts, 'calls' | 'joined'>

const NO_PARTS: CallParts = { calls: [], joined: null }

/** The parts of a saved call: null once it is disposed of; undefined for any other value. */
let partsOf: (saved: unknown) => SavedParts | null | undefined

/**
 * What {@link AdaptersLayer.forward} saves for backward: one saved call per active adapter, or, with the option `rows`, per
 * adapter that the rows name and that adapts the layer.
 */
export class AdaptersSaved {
  /** By adapter name. With `rows` each has the rows of its adapter alone, in their order: `hidden` is [M_k, r]. */
  readonly calls: ReadonlyMap<string, Saved>

  #parts: SavedParts | null

  /** @internal */
  constructor(parts: SavedParts) {
    this.#parts = parts
    this.calls = new Map(parts.calls.map(({ adapter, saved }) => [adapter, saved]))
  }

  /** By adapter name: the numbers of its rows of x, ascending; undefined for a call without `rows`, or once disposed of. */
  get rows(): ReadonlyMap<string, Int32Array> | undefined {
    const { calls, joined } = this.#parts ?? NO_PARTS
    const rows = joined?.rows
    return rows && new Map(calls.map(({ adapter }, k) => [adapter, rows[k]]))
  }

  static {
    partsOf = (saved) => (saved instanceof AdaptersSaved ? saved.#parts : undefined)
  }

  /** Releases all saved calls. Throws nothing. */
  dispose(): void {
    const { calls, joined } = this.#parts ?? NO_PARTS
    if (joined === null) for (const { saved } of calls) saved.dispose()
    else joined.dispose()
    this.#parts = null
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  [inspectSymbol](): string {
    if (this.#parts === null) return 'AdaptersSaved { disposed }'
    const { layer, calls } = this.#parts
    return `AdaptersSaved { ${quoted(layer)}, ${countOf(calls.length, 'adapter')} }`
  }
}

/** Names of adapters that the console shows. */
const MAX_SHOWN = 8

/**
 * Named adapters of one base model; any number of them can be active. The outputs of the active adapters add up, as in
 * PEFT, whose method names this class uses. The adapters may target different layers, and be of either kind; `M` may be
 * LilyModel or LoraModel for one kind only.
 *
 * @example
 * const adapters = new LilyAdapters()
 * adapters.addAdapter('french', french)
 * adapters.addAdapter('polite', polite)
 * adapters.setAdapter(['french', 'polite'])
 * adapters.layer('layers.0.q_proj').forward({ x, y: baseOutput })
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
    checkModel(model)
    if (model.isDisposed) fail('ERR_LILY_DISPOSED', 'model', 'this model is disposed of; add it before dispose()')
    for (const [otherName, other] of this.#models) {
      if (other === model)
        fail(
          'ERR_LILY_ARGUMENT',
          'model',
          `expected each model once, got the model of adapter '${otherName}' again; create or read another one`,
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
    const active = (typeof names === 'string' ? [names] : elementsOf(names)) as string[] | null
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
      if (shape !== undefined) return new AdaptersLayer(shape, this.#models, () => this.#activeLayers(name))
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

  /** Turns the dropout of all adapters on; see {@link AdapterModel.train}. Throws nothing. */
  train(): this {
    for (const model of this.#models.values()) model.train()
    return this
  }

  /** Turns the dropout of all adapters off; see {@link AdapterModel.eval}. Throws nothing. */
  eval(): this {
    for (const model of this.#models.values()) model.eval()
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

  [inspectSymbol](): string {
    const active = new Set(this.activeAdapters)
    const names = Array.from(this.#models.keys(), (name) => `${quoted(name)}${active.has(name) ? ' (active)' : ''}`)
    const more = names.length > MAX_SHOWN ? [`${names.length - MAX_SHOWN} more`] : []
    return `LilyAdapters { ${[...names.slice(0, MAX_SHOWN), ...more].join(', ') || 'no adapters'} }`
  }

  #model(name: string): M {
    return this.#models.get(name) ?? failUnknown('name', name, this.#models)
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

/** Checks that the adapters of a call have one type and device. */
function checkAgreement(layers: ReadonlyMap<string, AdapterLayer>): void {
  const [first] = layers.values()
  for (const [adapter, layer] of layers) {
    const [value, other] = [layer.a.value, first.a.value]
    if (value.dtype === other.dtype && value.device === other.device) continue
    fail(
      'ERR_LILY_ARGUMENT',
      'adapters',
      `expected one dtype and device for all adapters of a call, got another for '${adapter}'; convert or move it`,
    )
  }
}

function refuseDropout(adapter: string): never {
  fail(
    'ERR_LILY_ARGUMENT',
    'rows',
    `expected adapters without dropout, got '${adapter}', which trains with it; call eval(), or pass save: false`,
  )
}

/** The call of an adapter, which adds to what the base layer or another adapter has written to y. */
function addingTo(inputs: LayerForwardInputs): LayerForwardInputs {
  const [y, settings] = [inputs.y?.addedTo() ?? null, { ...inputs.settings, accumulate: true }]
  return { ...inputs, weight: null, bias: null, y, settings }
}

/** The same of backward: it adds to dx. */
function addingBackward(inputs: LayerBackwardInputs): LayerBackwardInputs {
  return { ...inputs, dx: inputs.dx?.addedTo() ?? null, settings: { ...inputs.settings, accumulate: true } }
}

/** Checks a forward call without an active adapter, so that its errors do not depend on which adapters are active. */
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

/** The call dx += dy W; null if forward had no weight. */
function prepareFrozenBackward(
  { weight, precision }: FrozenCall,
  dy: Operand,
  dx: Output | null,
  { stream, accumulate }: Pick<ForwardSettings, 'stream' | 'accumulate'>,
): LinearCall | null {
  if (weight === null) return null
  checkSavedWeight(weight, 'dy', dy)
  return prepareLinear({ x: dy, weight, bias: null, y: dx }, { precision, accumulate, stream }, true)
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

/** Options of {@link AdaptersLayer.forward}. The options of routing go to all adapters of the call. */
export interface AdaptersForwardOptions extends LayerForwardOptions {
  /**
   * The name of the adapter of each sequence (a row of a 3-D x, or delimited by `sequenceOffsets`, an array on the host),
   * otherwise of each token; null: the base model alone. Which adapters are active has no effect then. An adapter that does
   * not adapt the layer adds nothing. A `mask` is for the adapters that pool tokens; the others ignore it. An adapter
   * that trains with dropout is refused unless `save` is false. Default: all active adapters compute all rows.
   */
  readonly rows?: readonly (string | null)[] | undefined
  /** `[G]`: a factor on the adapter's output for each element of `rows`. Default 1. */
  readonly scale?: readonly number[] | Float32Array | undefined
  /** Whether it is an error if `rows` names an adapter that does not adapt the layer. Default false. */
  readonly strict?: boolean | undefined
}

/** Result of {@link AdaptersLayer.forward}. */
export interface AdaptersForwardResult<Y, O> {
  /** The y that was passed. */
  readonly y: Y
  /** What backward needs; undefined with `save: false`. */
  readonly saved: SavedOf<O, AdaptersSaved>
}

/** Operands of {@link AdaptersLayer.forward}. */
export interface AdaptersForwardOperands<Y = TensorLike> extends AdapterForwardOperands {
  /**
   * `[..., d_out]`: the base layer's output, to which the outputs of the adapters are added in place; with a `weight`,
   * what the base layer's output is added to. With `accumulate: false` it is overwritten.
   */
  readonly y: TensorLike & Y
}

/** Operands of {@link AdaptersLayer.backward}. */
export interface AdaptersBackwardOperands<D = TensorLike | undefined> extends AdapterBackwardOperands<AdaptersSaved> {
  /** `[..., d_in]`, M rows, such as the base layer's gradient of x; required unless `needs.dx` is false. */
  readonly dx?: (TensorLike & D) | undefined
}

/** One layer of the base model, with the adapters that are active at the time of each call, or that its rows name. */
export class AdaptersLayer {
  /** @internal */
  constructor(
    private readonly shape: LayerShape,
    private readonly models: ReadonlyMap<string, AdapterModel>,
    private readonly activeLayers: () => ReadonlyMap<string, AdapterLayer>,
  ) {}

  /** Name of the base model's linear layer, such as 'layers.0.q_proj'. */
  get name(): string {
    return this.shape.name
  }

  /**
   * Adds the outputs of the active adapters to y, in place. With a `weight` it computes the base layer before. Everything
   * is checked before anything is written. With the option `rows` each row gets the output of the adapter that it names, in
   * one call: y_t += c_t s_k h_t C_k (docs/math.md#adapters-per-row); `accumulate: false` also overwrites the rows of the
   * base.
   *
   * @returns y, unchanged if no adapter is active, no weight and no rows are given, and what {@link backward} needs
   * @throws LilyError as `LilyLayer.forward`; ERR_LILY_ARGUMENT or ERR_LILY_SHAPE for `rows`, `scale` and `strict`,
   *   ERR_LILY_ARGUMENT if `rows` names an adapter that trains with dropout and `save` is not false: y is unchanged
   * @example
   * const { y, saved } = adapters.layer(name).forward({ x, y, weight }, { rows: ['french', null, 'polite'] })
   */
  forward<Y extends TensorLike, O extends Exact<O, AdaptersForwardOptions> = object>(
    operands: AdaptersForwardOperands<Y>,
    options?: O,
  ): AdaptersForwardResult<Y, O> {
    const { inputs, rows } = readAdaptersForward(operands, options)
    if (inputs.y === null) fail('ERR_LILY_ARGUMENT', 'y', 'is required, got undefined; pass a tensor')
    const { weight, settings } = inputs
    const { calls, joined } = rows === null ? this.#forwardActive(inputs) : this.#forwardRows(inputs, rows)
    const saved = settings.save
      ? new AdaptersSaved({ layer: this.name, calls, frozen: { weight, precision: settings.precision }, joined })
      : undefined
    return { y: inputs.given, saved } as AdaptersForwardResult<Y, O>
  }

  /** All active adapters compute all rows. */
  #forwardActive(inputs: LayerForwardInputs): CallParts {
    const layers = this.activeLayers()
    const { inFeatures: dIn, outFeatures: dOut } = this.shape
    if (layers.size === 0) checkWithoutAdapters(this.shape, inputs)
    checkAgreement(layers)
    const { weight, settings } = inputs
    // The first adapter's call also computes the frozen layer, and may overwrite y; the others add to it.
    const prepared = Array.from(layers, ([adapter, layer], i) => {
      return { adapter, layer, call: layer.prepareForward(i === 0 ? inputs : addingTo(inputs)) }
    })
    if (layers.size === 0) checkFrozen({ dIn, dOut }, inputs)
    const linear = layers.size > 0 || weight === null ? null : prepareLinear({ ...inputs, weight }, settings, false)
    if (linear !== null) run(workOf(linear))
    const calls: AdapterCall[] = []
    for (const { adapter, layer, call } of prepared) {
      const saved = runForward(call).saved
      if (saved !== undefined) calls.push({ adapter, layer, saved })
    }
    return { calls, joined: null }
  }

  /** Each row has the adapter that `rows` names. */
  #forwardRows(inputs: LayerForwardInputs, rows: NamedRows): CallParts {
    const { x, weight, bias, y, settings } = inputs
    const named = findLayers(this.name, rows, inputs, this.models)
    const { layers } = named
    if (layers.size === 0) checkWithoutAdapters(this.shape, inputs)
    checkAgreement(layers)
    // The call has the mask and the offsets, and each adapter their parts for its own rows.
    const ofEach = { ...settings, mask: null, sequenceOffsets: null }
    const operations: RowsAdapter[] = []
    for (const [adapter, layer] of layers) {
      layer.checkNotMerged()
      if (settings.save && layer.dropout.isActive) refuseDropout(adapter)
      layer.checkInput(x)
      operations.push(layer.operationOf(ofEach))
    }
    // The adapters that this.shape is of may have been deleted, and others added.
    const [{ outFeatures: dOut } = this.shape] = layers.values()
    const call = joinForward({ x, weight, bias, y, dOut }, operations, named, settings)
    const { saved: joined } = runForward(call)
    if (joined === undefined) return { calls: [], joined: null }
    const calls = Array.from(layers, ([adapter, layer], k) => ({ adapter, layer, saved: joined.adapters[k] }))
    return { calls, joined }
  }

  /**
   * Adds the gradient of x to dx, in place, and the gradients of the parameters to the adapters that were active in
   * forward, or that its rows named: then each gets the gradients of its rows. If forward had a `weight`, dx also gets
   * dy weight. With `accumulate: false` the sum overwrites dx: rows of the base that have no weight become 0, but dx is
   * unchanged if forward had neither rows, nor a weight, nor an active adapter. Everything is checked before the first
   * gradient is written.
   *
   * @returns `operands.dx`, `[..., d_in]`
   * @throws LilyError as `LilyLayer.backward`: dx and all gradients are unchanged
   */
  backward<D extends TensorLike | undefined = undefined, O extends Exact<O, LayerBackwardOptions> = object>(
    operands: AdaptersBackwardOperands<D>,
    options?: O,
  ): D {
    const inputs = readLilyBackward(operands, options)
    const { dy, saved, dx, settings } = inputs
    if (settings.needs.dx && dx === null) {
      fail(
        'ERR_LILY_ARGUMENT',
        'dx',
        "is required, got undefined; pass the base layer's gradient of x, to which the adapters add, or needs: { dx: false }",
      )
    }
    const parts = partsOf(saved)
    if (parts === undefined) {
      fail(
        'ERR_LILY_ARGUMENT',
        'saved',
        `expected the saved object that forward of this layer returned, got ${describeOther(saved, 'AdaptersSaved')}`,
      )
    }
    if (parts === null) fail('ERR_LILY_DISPOSED', 'saved', 'has been disposed of; call backward before dispose()')
    const { calls, frozen, joined } = parts
    if (parts.layer !== this.name) {
      fail(
        'ERR_LILY_ARGUMENT',
        'saved',
        `expected what forward of layer '${this.name}' returned, got what layer '${parts.layer}' returned`,
      )
    }
    if (joined !== null) {
      const state = readRowsSaved('saved', joined) as RowsState
      const gradients = calls.map(({ layer }, k) => layer.gradientsOf(state.adapters[k], settings.needs))
      runBackward(joinBackward(state, inputs, gradients, settings))
      return inputs.given as D
    }
    if (calls.length === 0) checkBackwardWithoutAdapters(this.shape, inputs)
    const linear = calls.length === 0 && settings.needs.dx ? prepareFrozenBackward(frozen, dy, dx, settings) : null
    const prepared = calls.map(({ layer, saved }, i) => {
      const call = layer.prepareBackward({ ...(i === 0 ? inputs : addingBackward(inputs)), saved })
      return { layer, call }
    })
    if (linear !== null) run(workOf(linear))
    for (const { layer, call } of prepared) layer.runBackward(call)
    return inputs.given as D
  }

  [inspectSymbol](): string {
    const { name, inFeatures, outFeatures } = this.shape
    const adapters = [...this.models.values()].filter(({ layers }) => layers.has(name)).length
    return `AdaptersLayer { ${quoted(name)}, d_in ${inFeatures}, d_out ${outFeatures}, ${countOf(adapters, 'adapter')} }`
  }
}
