/** One adapted layer of a model: what the layers of {@link LilyModel} and of {@link LoraModel} have in common. */
import { checkFloat, checkMatrix, checkTokenRows, checkType } from '../base/checks.js'
import { describe, fail } from '../base/errors.js'
import { type Exact, type Known, readProperties } from '../base/options.js'
import { quoted } from '../base/summary.js'
import { checkPlace, checkSameDevice, refuseReadOnly } from '../memory/checks.js'
import type { Operand } from '../memory/operand.js'
import type { BackwardCall, ForwardCall } from '../operations/allocate.js'
import type { GradientOf } from '../operations/backward.js'
import type { CallState } from '../operations/call-state.js'
import { checkVersions } from '../operations/check.js'
import type { LilyForwardOptions, SavedOf } from '../operations/forward.js'
import type { LoraBackwardOptions } from '../operations/lora.js'
import { readWeight } from '../operations/linear-problem.js'
import { Output } from '../operations/output.js'
import type { PackedLinear } from '../operations/packed-linear.js'
import {
  type BackwardSettings,
  type ForwardInputs,
  type ForwardSettings,
  type GradientName,
  readBackwardOptions,
  readForwardOptions,
} from '../operations/read.js'
import type { ParameterGradients, RowsAdapter } from '../operations/rows.js'
import { runBackward } from '../operations/run.js'
import type { Saved } from '../operations/saved.js'
import { resolve, resolveIfGiven, type TensorLike } from '../tensor/resolve.js'
import type { Stream } from '../tensor/stream.js'
import type { Tensor } from '../tensor/tensor.js'
import type { LayerShape } from './layer-shape.js'
import type { ModelDropout } from './dropout.js'
import type { AdaptedLayer } from './layout.js'
import { checkParameterType } from './merge.js'
import type { Parameter } from './parameter.js'

/** Options of {@link AdapterLayer.forward}. Lily's layers have more. */
// eslint-disable-next-line @typescript-eslint/no-empty-object-type -- the API pages list the properties of interfaces
export interface AdapterForwardOptions extends Pick<
  LilyForwardOptions,
  'precision' | 'save' | 'accumulate' | 'stream'
> {}

/** What a forward call keeps for its backward, of either kind of adapter. */
export type AdapterSaved = Saved

/** Result of {@link AdapterLayer.forward}. */
export interface AdapterForwardResult<O, S = AdapterSaved> {
  /** `[..., d_out]`: the y that was passed, or a new tensor with the leading dimensions of x. */
  readonly y: Tensor
  /** What backward needs; undefined with `save: false`. */
  readonly saved: SavedOf<O, S>
}

/** Operands of {@link AdapterLayer.forward}. */
export interface AdapterForwardOperands {
  /** `[..., d_in]`: activations entering the layer. */
  readonly x: TensorLike
  /** `[..., d_out]`: the base layer's output, to which the adapter's is added in place. Default: a new tensor. */
  readonly y?: TensorLike | undefined
  /**
   * `[d_out, d_in]`, in the type of x or float32, or of 16 bits under an x in float32: the base layer's frozen
   * weight; the call then also computes the base layer (docs/linear.md). Default: the adapter alone.
   */
  readonly weight?: TensorLike | PackedLinear | undefined
  /** `[d_out]`, in the type of weight or float32: the base layer's bias, together with `weight`. */
  readonly bias?: TensorLike | undefined
}

/** Operands of {@link AdapterLayer.backward}. */
export interface AdapterBackwardOperands<S = AdapterSaved> {
  /** [..., d_out], M rows: the gradient of y. */
  readonly dy: TensorLike
  /** What forward of this layer returned. It may be disposed of afterwards. */
  readonly saved: S
  /**
   * `[..., d_in]`: the x of forward again, if its memory has moved since, as views of a WebAssembly.Memory do when it grows.
   * Shape, type and numbers must be the same as in forward. Default: the x that `saved` refers to.
   */
  readonly x?: TensorLike | undefined
  /** [..., d_in], M rows: the gradient of x is added to it in place. Default: a new tensor is returned. */
  readonly dx?: TensorLike | undefined
}

/** Options of {@link AdapterLayer.backward}. Lily's layers have more. */
export interface AdapterBackwardOptions {
  /**
   * Which gradients to compute: `{ dx: false }` for a first layer, `{ da: false }` for an A that is not trained. Also leave
   * such an A out of the optimiser: weight decay changes a parameter whose gradient is zero. Default: all.
   */
  readonly needs?: LoraBackwardOptions['needs']
  /** Keep `saved` for a further backward, which is an error otherwise. Default false. */
  readonly retain?: boolean | undefined
  /** Add to the given dx. Default true; false overwrites it. The gradients of the parameters are added to in any case. */
  readonly accumulate?: boolean | undefined
  /** CUDA stream to run in, or its cudaStream_t. Default: the stream of the operands. */
  readonly stream?: Stream | bigint | number | undefined
}

/** What a forward call of a layer is given, read once. One reading serves several layers. */
export interface LayerForwardInputs extends Pick<ForwardInputs, 'x' | 'weight' | 'bias' | 'y'> {
  /** y in the form in which it is given. */
  readonly given: TensorLike | undefined
  /** The layer has the modes that are left out. */
  readonly settings: ForwardSettings<null>
}

const LEFT_OUT = { routing: null, pool: null, activation: null } as const

const FORWARD_OPERANDS: Known = new Set<keyof AdapterForwardOperands>(['x', 'y', 'weight', 'bias'])
const BACKWARD_OPERANDS: Known = new Set<keyof AdapterBackwardOperands>(['dy', 'saved', 'x', 'dx'])

export function readLayerForward(operands: object, options: object = {}, known: Known): LayerForwardInputs {
  checkNamed(operands, 'x', '{ x, y?, weight?, bias? }', 'forward({ x, y }, options)')
  const inputs = readProperties('operands', operands, FORWARD_OPERANDS, ({ x, weight, bias, y }) => ({
    x: resolve('x', x),
    weight: weight === undefined ? null : readWeight(weight),
    bias: resolveIfGiven('bias', bias),
    y: Output.of('y', y),
    given: y as TensorLike | undefined,
  }))
  return { ...inputs, settings: readForwardOptions(options, known, LEFT_OUT) }
}

/**
 * Checks that operands are named. A call with a tensor in their place gets an error that shows the form, and not that a
 * tensor has an unknown property.
 */
function checkNamed(operands: unknown, required: string, expected: string, form: string): void {
  if (typeof operands === 'object' && operands !== null && required in operands) return
  fail('ERR_LILY_ARGUMENT', 'operands', `expected ${expected}, got ${describe(operands)}; call layer.${form}`)
}

/** What a backward call of a layer is given, read once. */
export interface LayerBackwardInputs {
  readonly dy: Operand
  /** In the place of the x of forward; null: that x. */
  readonly x: Operand | null
  readonly dx: Output | null
  /** dx in the form in which it is given. */
  readonly given: TensorLike | undefined
  /** What forward returned, of either kind of layer. */
  readonly saved: unknown
  /** A `deferB` that is left out depends on the layer. */
  readonly settings: BackwardSettings<null>
}

export function readLayerBackward(
  operands: object,
  options: object = {},
  known: Known,
  knownNeeds: Known,
): LayerBackwardInputs {
  checkNamed(operands, 'dy', '{ dy, saved, x?, dx? }', 'backward({ dy, saved, dx }, options)')
  const inputs = readProperties('operands', operands, BACKWARD_OPERANDS, ({ dy, saved, x, dx }) => ({
    dy: resolve('dy', dy),
    saved,
    x: resolveIfGiven('x', x),
    dx: Output.of('dx', dx),
    given: dx as TensorLike | undefined,
  }))
  const settings = readBackwardOptions(options, known, knownNeeds, null)
  return { ...inputs, settings: { ...settings, accumulateParameters: true } }
}

/** The gradient of a parameter, to which a backward call adds; null if it is not needed. */
export function gradientOf(name: GradientName, isNeeded: boolean, { accumulator }: Parameter): Output | null {
  return isNeeded ? Output.of(name, accumulator) : null
}

/** The adapter of one linear layer: it adds to the layer's output. */
export abstract class AdapterLayer {
  #isMerged = false

  /** @internal */
  protected constructor(
    /** Name, sizes and target of the layer, and the names of its parameters. */
    readonly shape: AdaptedLayer,
    /** Factor s on the adapter's output. */
    readonly scaling: number,
    /** A `[r, d_in]`. Layers of LilyModel may share it. */
    readonly a: Parameter,
    /** B: `[E*r, d_out]` of Lily, shared by all layers of the target; `[d_out, r]` of LoRA. */
    readonly b: Parameter,
    /** @internal The model's dropout. */
    readonly dropout: ModelDropout,
  ) {}

  /** Name of the base model's linear layer, such as 'layers.0.q_proj'. */
  get name(): string {
    return this.shape.name
  }

  /** d_in, the number of features that enter the layer. */
  get inFeatures(): LayerShape['inFeatures'] {
    return this.shape.inFeatures
  }

  /** d_out, the number of features that leave it. */
  get outFeatures(): LayerShape['outFeatures'] {
    return this.shape.outFeatures
  }

  /** Whether this layer's update is merged into the base weight; see {@link AdapterModel.merge}. */
  get isMerged(): boolean {
    return this.#isMerged
  }

  /**
   * Adds the adapter's output to y. With a `weight` it also computes the base layer. If the model trains with dropout, a call
   * that saves for backward drops elements of x, which the base layer sees as they are; see {@link AdapterModel.training}.
   *
   * @throws LilyError as lilyForward; ERR_LILY_ARGUMENT if the layer is merged
   */
  abstract forward<O extends Exact<O, AdapterForwardOptions> = object>(
    operands: AdapterForwardOperands,
    options?: O,
  ): AdapterForwardResult<O>

  /**
   * The gradients of a call of {@link forward}. The parameters' gradients accumulate in `model.parameters()` until
   * `zeroGrad`.
   *
   * @returns the gradient of x, which includes dy weight if forward had a `weight`; undefined with `needs: { dx: false }`
   * @throws LilyError as lilyBackward; ERR_LILY_ARGUMENT if `saved` is not from this layer, or from before the model
   *   was moved
   */
  abstract backward<O extends Exact<O, AdapterBackwardOptions> = object>(
    operands: AdapterBackwardOperands,
    options?: O,
  ): GradientOf<O, 'dx'>

  /** @internal Everything but the last phase of {@link forward}: it writes nothing. */
  abstract prepareForward(inputs: LayerForwardInputs): ForwardCall

  /** @internal The parameters of a forward call, and the layer's scaling, weights and modes, in the place of those left out. */
  abstract operationOf(settings: ForwardSettings<null>): RowsAdapter

  /** @internal Everything but the last phase of {@link backward}: it writes nothing. */
  abstract prepareBackward(inputs: LayerBackwardInputs): BackwardCall

  /** @internal The gradients of the parameters to which the backward of a saved call adds. */
  abstract gradientsOf(state: CallState, needs: BackwardSettings['needs']): ParameterGradients

  /** @internal The last phase of {@link backward}. */
  runBackward(call: BackwardCall): { readonly dx?: Tensor } {
    return runBackward(call)
  }

  /** @internal Checks of x only those where the operation would name a parameter, which the caller does not pass. */
  checkInput(x: Operand): void {
    checkTokenRows('x', x, x.rows, this.inFeatures)
    const { value } = this.a
    if (value.dtype !== 'float32') checkType('x', x, value.dtype)
    checkSameDevice('x', x, 'the model', resolve(this.a.name, value))
  }

  /** @internal The parameters of this layer, which others may use as well. */
  get parameters(): readonly Parameter[] {
    return [this.a, this.b]
  }

  /** @internal Those that the update of the layer consists of. */
  get updating(): readonly Parameter[] {
    return [this.a, this.b]
  }

  /** @internal Rows and columns of the base layer's weight. */
  get weightShape(): readonly [number, number] {
    return [this.outFeatures, this.inFeatures]
  }

  /** @internal Checks that the update is a matrix, which does not depend on the input. */
  abstract checkUpdate(argument: string): void

  /** @internal Checks a weight of the base model, but not that its memory is apart from other operands. */
  checkWeight(argument: string, weight: Operand): void {
    checkMatrix(argument, weight, ...this.weightShape)
    checkFloat(argument, weight)
    if (weight.isReadOnly) refuseReadOnly(argument)
    for (const parameter of this.parameters) parameter.checkValue()
    checkPlace(argument, weight, 'the model', resolve(this.a.name, this.a.value))
    for (const { value } of this.updating) checkParameterType(argument, value, weight.dtype)
  }

  /** @internal Adds `sign` times the layer's update to a weight of the base model that was checked, in place. */
  abstract addUpdate(weight: Operand, sign: 1 | -1): void

  /** @internal */
  checkNotMerged(): void {
    if (!this.#isMerged) return
    fail(
      'ERR_LILY_ARGUMENT',
      'layer',
      `expected a layer that is not merged, but '${this.name}' is merged into its base weight; unmerge it first`,
    )
  }

  /** @internal */
  markMerged(isMerged: boolean): void {
    this.#isMerged = isMerged
  }

  /** @internal A line for the console, with the fields of the kind of layer. */
  protected summary(className: string, fields: string): string {
    const { name, inFeatures, outFeatures, isMerged, a } = this
    const merged = isMerged ? ', merged' : ''
    return `${className} { ${quoted(name)}, ${a.placeText()}, d_in ${inFeatures}, d_out ${outFeatures}, ${fields}${merged} }`
  }

  /** @internal Checks that a saved call used the current parameters of this layer, and their current values. */
  protected checkParameters(state: CallState, routerOfLayer: Parameter | null): void {
    const { a, b, router } = state.problem
    const isCurrent = (parameter: Parameter, operand: Operand) => resolve(parameter.name, parameter.value) === operand
    const isRouter = (operand: Operand) => routerOfLayer !== null && isCurrent(routerOfLayer, operand)
    if (!isCurrent(this.a, a) || !isCurrent(this.b, b) || (router !== null && !isRouter(router))) {
      fail(
        'ERR_LILY_ARGUMENT',
        'saved',
        `expected what forward of '${this.name}' returned since its model was last moved; run forward again`,
      )
    }
    checkVersions(state, [this.a.name, routerOfLayer?.name ?? 'router', this.b.name])
  }
}
