/** One adapted layer of a model. */
import { fail } from '../base/errors.js'
import { checkKeys, get, type Known, readFlag } from '../base/options.js'
import { Capture, refuseInCapture } from '../memory/capture.js'
import { CPU } from '../memory/device.js'
import { type GradientOf, lilyBackward, type LilyNeeds } from '../operations/backward.js'
import { lilyForward, type LilyForwardOptions, type SavedOf } from '../operations/forward.js'
import type { Problem, Routing } from '../operations/problem.js'
import { type LilySaved, readSaved } from '../operations/saved.js'
import type { TensorLike } from '../tensor/resolve.js'
import type { Stream } from '../tensor/stream.js'
import { operandOf, type Tensor } from '../tensor/tensor.js'
import type { Parameter } from './parameter.js'
import type { LayerShape, SharedLayer } from './sharing.js'

/** Options of {@link LilyLayer.forward}: those of lilyForward, but for the scaling, which the model's config has. */
export type LayerForwardOptions = Omit<LilyForwardOptions, 'scaling'>

/** Result of {@link LilyLayer.forward}. */
export interface LayerForwardResult<O> {
  /** The y that was given, or a new tensor with the leading dimensions of x. */
  readonly y: Tensor
  /** What backward needs; undefined with `save: false`. */
  readonly saved: SavedOf<O, LilySaved>
}

/** Options of {@link LilyLayer.backward}. */
export interface LayerBackwardOptions {
  /** [..., d_in] of M rows, added to in place and returned. Without it a new tensor is. */
  readonly dx?: TensorLike | undefined
  /** Which gradients are wanted: `{ dx: false }` in a first layer, `{ da: false }` to freeze A. Default: all. */
  readonly needs?: LilyNeeds | undefined
  /**
   * Whether this layer leaves its part of the gradient of B to a fold with that of others. Default: on a device, where
   * that saves memory traffic which counts beside the call's own; see docs/model.md.
   */
  readonly deferB?: boolean | undefined
  /** The CUDA stream to run in, or its handle. Default: that of the operands. */
  readonly stream?: Stream | bigint | number | undefined
}

const BACKWARD_OPTIONS: Known = new Set<keyof LayerBackwardOptions>(['dx', 'needs', 'deferB', 'stream'])

/** The adapter of one linear layer: y += scaling * h C, with parameters that it may share with others. */
export class LilyLayer {
  /** Weights of the experts, [E], that stand for the router's; null: the router decides. */
  #frozen: Float32Array | null = null
  #isMerged = false

  /** @internal */
  constructor(
    readonly shape: SharedLayer,
    readonly scaling: number,
    readonly a: Parameter,
    readonly router: Parameter,
    readonly b: Parameter,
  ) {}

  get name(): string {
    return this.shape.name
  }

  get inFeatures(): LayerShape['inFeatures'] {
    return this.shape.inFeatures
  }

  get outFeatures(): LayerShape['outFeatures'] {
    return this.shape.outFeatures
  }

  /** A copy of the weights, [E], that {@link LilyModel.freeze} has set; undefined where the router decides. */
  get frozenWeights(): Float32Array | undefined {
    return this.#frozen?.slice()
  }

  /** Whether the base weight has this layer's update in it; see {@link LilyModel.merge}. */
  get isMerged(): boolean {
    return this.#isMerged
  }

  /**
   * {@link lilyForward} with the layer's parameters. A frozen layer's routing is 'fixed' unless the options say otherwise.
   *
   * @param x [..., d_in]
   * @param y [..., d_out]: the base layer's output, added to in place; without it a new tensor is returned
   * @throws LilyError; a refused call has written nothing. ERR_LILY_ARGUMENT where the layer is merged
   */
  forward<O extends LayerForwardOptions = object>(x: TensorLike, y?: TensorLike, options?: O): LayerForwardResult<O> {
    this.refuseMerged()
    const given: LayerForwardOptions = options ?? {}
    if ('scaling' in given) fail('ERR_LILY_ARGUMENT', 'scaling', "is the model's config.scaling; leave it out")
    const { a, router, b, scaling } = this
    const routing: Routing = given.routing ?? (this.#frozen === null ? 'batch' : 'fixed')
    const weights = given.routing === undefined ? this.#frozen : null
    const operands = {
      x,
      y,
      a: a.value,
      b: b.value,
      router: routing === 'uniform' || routing === 'fixed' ? undefined : router.value,
    }
    const all = weights === null ? { ...given, routing, scaling } : { ...given, routing, scaling, weights }
    return lilyForward(operands, all) as LayerForwardResult<O>
  }

  /**
   * {@link lilyBackward} of a call of {@link forward}. The gradients of the parameters add up in `model.parameters()`
   * until `zeroGrad`.
   *
   * @param dy [..., d_out] of M rows: the gradient of y
   * @param saved what this layer's forward returned; it may be disposed of after this
   * @returns the gradient of x; undefined with `needs: { dx: false }`
   * @throws LilyError; a refused call has written nothing
   */
  backward<O extends LayerBackwardOptions = object>(
    dy: TensorLike,
    saved: LilySaved,
    options?: O,
  ): GradientOf<O, 'dx'> {
    const given: LayerBackwardOptions = options ?? {}
    checkKeys('options', given, BACKWARD_OPTIONS)
    const state = readSaved('saved', saved, 'lilyForward')
    const { problem } = state
    this.#checkOwn(problem)
    const { dx, needs, stream } = given
    if (given.deferB === true) refuseInCapture('what a fold is left', 'leave deferB out')
    const wants = (name: keyof LilyNeeds) => needs === undefined || readFlag(needs, name, true)
    const isDeferred =
      wants('db') &&
      (get('options', given, 'deferB') === undefined ? this.#deferPays(problem) : readFlag(given, 'deferB', false))

    const gradients = {
      dy,
      dx,
      da: wants('da') ? this.a.accumulator : undefined,
      dRouter: problem.router !== null && wants('dRouter') ? this.router.accumulator : undefined,
      db: wants('db') && !isDeferred ? this.b.accumulator : undefined,
    }
    const result = lilyBackward(gradients, saved, { needs, stream, deferB: isDeferred })
    if (isDeferred) this.b.defer(state.takeDeferred())
    return result.dx as GradientOf<O, 'dx'>
  }

  /** @internal */
  freeze(weights: Float32Array | null): void {
    this.#frozen = weights
  }

  /** @internal */
  refuseMerged(): void {
    if (!this.#isMerged) return
    fail('ERR_LILY_ARGUMENT', 'layer', `'${this.name}' is merged: its base weight does its work; unmerge it first`)
  }

  /** @internal */
  markMerged(isMerged: boolean): void {
    this.#isMerged = isMerged
  }

  /** The saved call is of this layer's parameters, as they are now. */
  #checkOwn({ a, b, router }: Problem): void {
    const isOwn = (parameter: Parameter, operand: Problem['a']) => operandOf(parameter.value) === operand
    if (isOwn(this.a, a) && isOwn(this.b, b) && (router === null || isOwn(this.router, router))) return
    fail('ERR_LILY_ARGUMENT', 'saved', `is not of a forward of '${this.name}' since its model was last moved`)
  }

  /**
   * Adding to the gradient of B reads and writes E r d_out numbers a layer. A deferred one writes G r d_out and the fold
   * reads them, which saves 2 (E - G) r d_out of float32 where layers share the fold. On a device that counts from a
   * sixteenth of the M d_out of dy and the 3 M d_in of x and dx on; a host's caches hide it. Weights that are the caller's
   * may change before the fold.
   */
  #deferPays({ x, groups, experts, rank, tokens, makesWeights, dOut, dIn }: Problem): boolean {
    // A replay knows nothing of what waits for a fold.
    if (Capture.current !== null) return false
    if (x.device === CPU || !makesWeights || groups >= experts || this.b.layers.length < 2) return false
    return 16 * 2 * (experts - groups) * rank * dOut >= tokens * (dOut + 3 * dIn)
  }
}
