/** One adapted layer of a {@link LilyModel}. */
import { fail } from '../base/errors.js'
import type { Exact, Known } from '../base/options.js'
import { inspectSymbol } from '../base/symbols.js'
import { Capture, refuseInCapture } from '../memory/capture.js'
import { refuseOverlap } from '../memory/checks.js'
import { CPU } from '../memory/device.js'
import type { Operand } from '../memory/operand.js'
import { allocateGradients, type BackwardCall, type ForwardCall } from '../operations/allocate.js'
import type { GradientOf, LilyNeeds } from '../operations/backward.js'
import type { CallState } from '../operations/call-state.js'
import { checkGradients } from '../operations/check.js'
import {
  FORWARD_OPTIONS,
  lilyForward,
  type LilyForwardOptions,
  prepareForward,
  type RowsOptions,
} from '../operations/forward.js'
import { lilyProblem, poolsTokens } from '../operations/check-routing.js'
import type { Problem, Routing } from '../operations/problem.js'
import {
  type BackwardSettings,
  DEFAULT_MODES,
  type ForwardSettings,
  GRADIENTS,
  type Modes,
} from '../operations/read.js'
import type { ParameterGradients, RowsAdapter } from '../operations/rows.js'
import { runForward } from '../operations/run.js'
import { type LilySaved, readSaved } from '../operations/saved.js'
import { toFloat32 } from '../tensor/numbers.js'
import { resolve } from '../tensor/resolve.js'
import type { Tensor } from '../tensor/tensor.js'
import {
  type AdapterBackwardOperands,
  type AdapterBackwardOptions,
  type AdapterForwardOperands,
  type AdapterForwardResult,
  AdapterLayer,
  gradientOf,
  type LayerBackwardInputs,
  type LayerForwardInputs,
  readLayerBackward,
  readLayerForward,
} from './adapter-layer.js'
import type { ModelDropout } from './dropout.js'
import { checkLinear, FREEZE_FIRST, type LilyConfig } from './lily-config.js'
import { addUpdate } from './merge.js'
import type { Parameter } from './parameter.js'
import type { SharedLayer } from './sharing.js'

/**
 * Options of {@link LilyLayer.forward}: the options of lilyForward without `scaling`, which is part of the model's config.
 * The model's config also has the defaults of `routing`, `pool` and `activation`; only a call with `save: false` may have
 * other ones.
 */
// eslint-disable-next-line @typescript-eslint/no-empty-object-type -- the API pages list the properties of interfaces
export interface LayerForwardOptions extends Omit<LilyForwardOptions, 'scaling' | 'encoder' | keyof RowsOptions> {}

/** Result of {@link LilyLayer.forward}. */
export type LayerForwardResult<O> = AdapterForwardResult<O, LilySaved>

/** Options of {@link LilyLayer.backward}. */
export interface LayerBackwardOptions extends AdapterBackwardOptions {
  /**
   * Which gradients to compute: `{ dx: false }` for a first layer, `{ da: false }` for an A that is not trained. Also leave
   * such an A out of the optimiser: weight decay changes a parameter whose gradient is zero. Default: all.
   */
  readonly needs?: Omit<LilyNeeds, 'dWeights'> | undefined
  /**
   * Defer this layer's gradient of B, so that one fold adds up the gradients of several layers. Default: true on a
   * device if that saves a significant part of the call's memory traffic, otherwise false; see docs/model.md.
   */
  readonly deferB?: boolean | undefined
}

// The model has the scaling. It folds deferred gradients by itself, so its calls cannot wait in an encoder.
export const LAYER_OPTIONS: Known = new Set(
  [...FORWARD_OPTIONS].filter((name) => name !== 'scaling' && name !== 'encoder'),
)
const MODES = ['routing', 'pool', 'activation'] as const
const BACKWARD_OPTIONS: Known = new Set<keyof LayerBackwardOptions>([
  'needs',
  'deferB',
  'retain',
  'accumulate',
  'stream',
])
const NEEDS: Known = new Set<keyof LilyNeeds>(GRADIENTS.filter((name) => name !== 'dWeights'))

/** Reads a forward call of a Lily layer. */
export function readLilyForward(operands: object, options?: object): LayerForwardInputs {
  return readLayerForward(operands, options, LAYER_OPTIONS)
}

/** Reads a backward call of a Lily layer. */
export function readLilyBackward(operands: object, options?: object): LayerBackwardInputs {
  return readLayerBackward(operands, options, BACKWARD_OPTIONS, NEEDS)
}

/** Whether a routing uses the parameter `router`: a router, or logits. */
function hasRouter(routing: Routing): boolean {
  return routing !== 'uniform' && routing !== 'fixed'
}

/** softmax(z), in float64 and rounded once. */
function softmax(z: Float32Array): Float32Array {
  const largest = Math.max(...z)
  const powers = Array.from(z, (value) => Math.exp(value - largest))
  const sum = powers.reduce((left, right) => left + right, 0)
  return Float32Array.from(powers, (power) => power / sum)
}

/** The adapter of one linear layer: y += scaling * h C. It may share its parameters with other layers. */
export class LilyLayer extends AdapterLayer {
  /** `[E]`: the expert weights that replace the router; null: the layer is not frozen. */
  #frozen: Float32Array | null = null
  /** Name, sizes and target of the layer, and the names of its parameters. */
  declare readonly shape: SharedLayer

  /** @internal */
  constructor(
    shape: SharedLayer,
    /** @internal The model's config. */
    readonly config: LilyConfig,
    a: Parameter,
    /** R `[E, r]`, of this layer alone; with routing 'learned' the logits z `[E, 1]` of its mixture. */
    readonly router: Parameter,
    b: Parameter,
    dropout: ModelDropout,
  ) {
    super(shape, config.scaling, a, b, dropout)
  }

  /** `[E]`: a copy of the weights that {@link LilyModel.freeze} set; undefined if the layer is not frozen. */
  get frozenWeights(): Float32Array | undefined {
    return this.#frozen?.slice()
  }

  /** Whether constant weights replace the router; see {@link LilyModel.freeze}. */
  get isFrozen(): boolean {
    return this.#frozen !== null
  }

  /** The default routing of {@link forward}: the routing of the model's config, or 'fixed' if the layer is frozen. */
  get routing(): Routing {
    return this.#frozen === null ? this.config.routing : 'fixed'
  }

  /** @internal Whether the layer uses its router, or the logits in its place: they are then trained. */
  get usesRouter(): boolean {
    return hasRouter(this.routing)
  }

  /** @internal `[E]`: weights of the experts that depend on no input; undefined if they depend on it. */
  async constantWeights(): Promise<Float32Array | undefined> {
    const { numB, routing } = this.config
    if (this.#frozen !== null) return this.frozenWeights
    if (routing === 'uniform') return new Float32Array(numB).fill(1 / numB)
    if (routing !== 'learned') return undefined
    const { dtype, data } = await this.router.value.toHost()
    return softmax(toFloat32(dtype, data))
  }

  /**
   * {@link lilyForward} with the layer's parameters, and with routing, pool and activation of the model's config. The
   * routing of a frozen layer is 'fixed', with the weights that it is frozen with, or `options.weights`.
   *
   * @throws LilyError as lilyForward; ERR_LILY_ARGUMENT if the layer is merged, or if a call that saves for backward is
   *   given another routing, pool or activation than the model's config has
   */
  override forward<O extends Exact<O, LayerForwardOptions> = object>(
    operands: AdapterForwardOperands,
    options?: O,
  ): LayerForwardResult<O> {
    return runForward(this.prepareForward(readLilyForward(operands, options))) as LayerForwardResult<O>
  }

  /** @internal Everything but the last phase of {@link forward}: it writes nothing. */
  override prepareForward({ x, weight, bias, y, settings }: LayerForwardInputs): ForwardCall {
    this.checkNotMerged()
    this.checkInput(x)
    const { a, router, b, settings: own } = this.operationOf(settings)
    const dropout = this.dropout.of(settings)
    return prepareForward({ x, weight, bias, a, router, b, y }, { ...settings, ...own, dropout })
  }

  /** @internal */
  override operationOf(settings: ForwardSettings<null>): RowsAdapter {
    const { routing, pool, activation } = this.#modesOf(settings)
    const frozen = settings.routing === null ? this.#frozen : null
    const frozenWeights = frozen && { numbers: frozen, shape: [frozen.length], source: null }
    const weights = settings.weights ?? frozenWeights
    return {
      a: resolve('a', this.a.value),
      router: hasRouter(routing) ? resolve('router', this.router.value) : null,
      b: resolve('b', this.b.value),
      settings: { routing, pool, activation, weights, scaling: this.scaling },
      problemOf: lilyProblem,
    }
  }

  /** The modes of a call. A call that saves for backward must have those that are saved with the model. */
  #modesOf(given: ForwardSettings<null>): Modes {
    const { config } = this
    const routing = given.routing ?? this.routing
    this.#checkRouter(routing)
    const pool = poolsTokens(routing) ? config.pool : (given.pool ?? DEFAULT_MODES.pool)
    const own = { routing: routing === config.routing ? routing : this.routing, pool, activation: config.activation }
    const modes = { routing, pool: given.pool ?? pool, activation: given.activation ?? config.activation }
    const other = MODES.find((name) => modes[name] !== own[name])
    if (other === undefined || !given.save) return modes
    const advice =
      modes[other] === 'fixed'
        ? 'freeze the model'
        : `set ${other} in the config of LilyModel, or lily_${other} in adapter_config.json`
    return fail(
      'ERR_LILY_ARGUMENT',
      other,
      `expected '${own[other]}', the ${other} of the layer, in a call that saves for backward, got '${modes[other]}'; ` +
        `${advice}, or pass save: false`,
    )
  }

  /** The parameter has one column per layer with routing 'learned', and otherwise r: of rank 1 both have the same shape. */
  #checkRouter(routing: Routing): void {
    const isLearned = this.config.routing === 'learned'
    if (!hasRouter(routing) || (routing === 'learned') === isLearned) return
    const [expected, has] = isLearned ? ["'learned'", 'logits and no router'] : ['one with a router', 'no logits']
    fail(
      'ERR_LILY_ARGUMENT',
      'routing',
      `expected ${expected}, 'uniform' or 'fixed', got '${routing}', but '${this.name}' has ${has}; set routing in the config ` +
        'of LilyModel',
    )
  }

  /**
   * {@link lilyBackward} for a call of {@link forward}. The gradients of the parameters accumulate in
   * `model.parameters()` until `zeroGrad`.
   *
   * @returns the gradient of x, which includes dy weight if forward had a `weight`; undefined with `needs: { dx: false }`
   * @throws LilyError as lilyBackward; ERR_LILY_ARGUMENT if `saved` is not from this layer, or from before the model
   *   was moved
   */
  override backward<O extends Exact<O, LayerBackwardOptions> = object>(
    operands: AdapterBackwardOperands<LilySaved>,
    options?: O,
  ): GradientOf<O, 'dx'> {
    const call = this.prepareBackward(readLilyBackward(operands, options))
    return this.runBackward(call).dx as GradientOf<O, 'dx'>
  }

  /** @internal Everything but the last phase of {@link backward}: it writes nothing. */
  override prepareBackward({ dy, saved, x, dx, settings }: LayerBackwardInputs): BackwardCall {
    const state = readSaved('saved', saved, 'lilyForward')
    const { problem } = state
    const { needs } = settings
    const gradients = this.gradientsOf(state, needs)
    if (settings.deferB === true) refuseInCapture('a deferred gradient of b', 'leave deferB out')
    const deferB = settings.deferB ?? (needs.db && this.#defersByDefault(problem))
    // A fold, which the call may end with, must not fail once dx is written.
    if (deferB && needs.db) this.b.checkGrad(true)
    const deferring = { ...settings, deferB }
    const inputs = { dy, x, dx, ...gradients, db: deferB ? null : gradients.db, dWeights: null }
    checkGradients(state, inputs, deferring)
    // The call has no db, but the fold adds to the model's.
    if (dx !== null && deferB) refuseOverlap('dx', dx.operand, 'the gradient of b', gradients.db?.operand)
    return allocateGradients(state, inputs, deferring)
  }

  /** @internal */
  override gradientsOf(state: CallState, needs: BackwardSettings['needs']): ParameterGradients {
    this.checkParameters(state, this.router)
    return {
      da: gradientOf('da', needs.da, this.a),
      dRouter: gradientOf('dRouter', needs.dRouter && state.problem.router !== null, this.router),
      db: gradientOf('db', needs.db, this.b),
    }
  }

  /** @internal The last phase of {@link backward}. */
  override runBackward(call: BackwardCall): { readonly dx?: Tensor } {
    const result = super.runBackward(call)
    if (call.deferredDb !== null) this.b.defer(call.state.takeDeferred())
    return result
  }

  /** @internal */
  freeze(weights: Float32Array | null): void {
    this.#frozen = weights
  }

  /** @internal */
  override get parameters(): readonly Parameter[] {
    return [this.a, this.router, this.b]
  }

  /** @internal */
  override get updating(): readonly Parameter[] {
    return this.routing === 'learned' ? this.parameters : super.updating
  }

  /** @internal */
  override checkUpdate(argument: string): void {
    const { routing, config } = this
    checkLinear(argument, config)
    if (routing === 'fixed' || routing === 'uniform' || routing === 'learned') return
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      `expected a frozen layer, but the weights of '${this.name}' depend on the input; ${FREEZE_FIRST}`,
    )
  }

  /** @internal */
  override addUpdate(weight: Operand, sign: 1 | -1): void {
    const { routing, scaling, a, router, b } = this
    const options = { routing, weights: this.frozenWeights, scaling: sign * scaling, precision: 'high' } as const
    addUpdate(weight, {
      a: a.value,
      router: routing === 'learned' ? router.value : undefined,
      b: b.value,
      of: 'lilyForward',
      forward: (operands) => lilyForward(operands, options),
    })
  }

  [inspectSymbol](): string {
    const { r, numB } = this.config
    return this.summary('LilyLayer', `r ${r}, E ${numB}, routing '${this.routing}'`)
  }

  /**
   * Whether to defer the gradient of B by default. Adding to the gradient reads and writes E r d_out float32 elements
   * per layer. Deferring writes G r d_out elements per layer, which the fold reads: if many layers share a fold, that
   * saves 2 (E - G) r d_out elements. On a device the gradient is deferred if the saving is at least 1/16 of the
   * elements of dy (M d_out) and of x and dx (3 M d_in). On the host caches hide the traffic. Calls with weights that
   * the caller passed are not deferred, since the weights may change before the fold.
   */
  #defersByDefault({ x, groups, experts, rank, tokens, computesWeights, dOut, dIn }: Problem): boolean {
    // A replay of the graph would not add its gradient to the list of deferred gradients.
    if (Capture.current !== null) return false
    if (x.device === CPU || !computesWeights || groups >= experts || this.b.layers.length < 2) return false
    return 16 * 2 * (experts - groups) * rank * dOut >= tokens * (dOut + 3 * dIn)
  }
}
