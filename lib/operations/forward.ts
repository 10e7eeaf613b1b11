/** Forward of Lily: y += scaling * act(x a^T) C, where C mixes the experts of b (arXiv 2407.09946). */
import type { Known } from '../base/options.js'
import type { TensorLike } from '../tensor/resolve.js'
import type { Stream } from '../tensor/stream.js'
import type { Tensor } from '../tensor/tensor.js'
import { checkPlaces, finishForward, type ForwardCall, prepareForward, readInputs } from './forward-call.js'
import { runForward, runForwardAsync } from './launch.js'
import type { Activation, Pool, Precision, Routing } from './problem.js'
import { lilyProblem } from './routing.js'
import type { LilySaved } from './saved.js'
import { readSettings } from './settings.js'
import type { MaskLike, OffsetsLike, WeightsLike } from './small-operands.js'

/** Operands of {@link lilyForward}. M is the product of the leading dimensions of x. */
export interface LilyForwardOperands {
  /** [..., d_in]: activations entering the adapted layer. */
  readonly x: TensorLike
  /** [r, d_in]: the low-dimension projector. r is at most 4096. */
  readonly a: TensorLike
  /** [E, r]: the layer's router, with routing batch, sequence and token only. E is at most 64. */
  readonly router?: TensorLike | undefined
  /** [E, r, d_out], or [E*r, d_out] as PEFT stores it: the high-dimension projectors. */
  readonly b: TensorLike
  /** [..., d_out]: the base layer's output, added to in place. Without it a new tensor is returned. */
  readonly y?: TensorLike | undefined
}

/** Options of {@link lilyForward}. */
export interface LilyForwardOptions {
  /** Direct multiplier s, not alpha / r. Default 1. */
  readonly scaling?: number | undefined
  /** How tokens share the experts' weights. Default 'batch'. */
  readonly routing?: Routing | undefined
  /** What batch and sequence routing pool. Default 'probabilities'. */
  readonly pool?: Pool | undefined
  /** Applied to hidden. Default 'none'. */
  readonly activation?: Activation | undefined
  readonly precision?: Precision | undefined
  /** [M], with batch and sequence routing: tokens that are 0 count in no pool. Their y is computed all the same. */
  readonly mask?: MaskLike | undefined
  /** [G + 1], from 0 to M: sequences of sequence routing (and fixed). Default: the rows of a 3-D x. */
  readonly sequenceOffsets?: OffsetsLike | undefined
  /** [E] or [G, E]: the experts' weights of fixed routing. */
  readonly weights?: WeightsLike | undefined
  /** Keep what backward needs. Default true; false for inference. */
  readonly save?: boolean | undefined
  /** Add to the y that is given. Default true; false overwrites it. */
  readonly accumulate?: boolean | undefined
  /** The CUDA stream to run in, or its handle. Default: that of the operands. The cpu has none. */
  readonly stream?: Stream | bigint | number | undefined
}

/** The routing that options ask for, as a type. */
export type RoutingOf<O> = 'routing' extends keyof O ? (O['routing'] extends Routing ? O['routing'] : Routing) : 'batch'

/** `S`, undefined where options say `save: false`, either where that is not known. */
export type SavedOf<O, S> = 'save' extends keyof O
  ? O['save'] extends true
    ? S
    : O['save'] extends false
      ? undefined
      : S | undefined
  : S

/** Result of {@link lilyForward}. */
export interface LilyForwardResult<O> {
  /** [..., d_out]: the y that was given, or a new tensor with the leading dimensions of x. */
  readonly y: Tensor
  /** What backward needs; undefined with `save: false`. */
  readonly saved: SavedOf<O, LilySaved<RoutingOf<O>>>
}

const OPERANDS: Known = new Set(['x', 'a', 'router', 'b', 'y'])
const OPTIONS: Known = new Set([
  'scaling',
  'routing',
  'pool',
  'activation',
  'precision',
  'mask',
  'sequenceOffsets',
  'weights',
  'save',
  'accumulate',
  'stream',
])

/**
 * The Lily adapter of one linear layer: y += scaling * h C, where h = act(x a^T) and C = sum_e w_e B_e mixes the
 * high-dimension projectors by the weights that the routing makes of softmax(h router^T). Source: arXiv 2407.09946.
 *
 * | routing | router | mask | groups | saved.probabilities | saved.weights |
 * |---|---|---|---|---|---|
 * | batch | required | may | 1 | with pool 'probabilities' | [1, E] |
 * | sequence | required | may | `sequenceOffsets`, or the rows of a 3-D x | with pool 'probabilities' | [G, E] |
 * | token | required | refused | M | yes | no |
 * | uniform | refused | refused | 1 | no | [1, E] |
 * | fixed | refused | refused | `weights` [E]: 1; [G, E]: as sequence | no | as given |
 *
 * It returns when the work is done. The operands must not change before backward has run.
 *
 * @throws LilyError; a refused call has written nothing
 * @example
 * const { y, saved } = lilyForward({ x, a, router, b, y: baseOutput }, { scaling: 2 })
 */
export function lilyForward<O extends LilyForwardOptions = object>(
  operands: LilyForwardOperands,
  options?: O,
): LilyForwardResult<O> {
  const call = prepare(operands, options)
  runForward(call)
  return finishForward(call) as LilyForwardResult<O>
}

/**
 * {@link lilyForward} off the main thread. Its checks and reads are made before it returns; what they refuse rejects the
 * promise. While it runs the operands must not change, nor their memory be transferred or resized.
 */
export async function lilyForwardAsync<O extends LilyForwardOptions = object>(
  operands: LilyForwardOperands,
  options?: O,
): Promise<LilyForwardResult<O>> {
  const call = prepare(operands, options)
  await runForwardAsync(call)
  return finishForward(call) as LilyForwardResult<O>
}

function prepare(operands: LilyForwardOperands, options: LilyForwardOptions = {}): ForwardCall {
  const inputs = readInputs(operands, OPERANDS)
  const settings = readSettings(options, OPTIONS)
  checkPlaces(inputs, settings)
  const problem = lilyProblem(inputs, settings)
  return prepareForward(problem, inputs.y, settings)
}
