/** Backward of Lily: the gradients of x, a, router and b (arXiv 2407.09946). */
import type { Known } from '../base/options.js'
import type { TensorLike } from '../tensor/resolve.js'
import type { Stream } from '../tensor/stream.js'
import type { Tensor } from '../tensor/tensor.js'
import { type BackwardCall, prepareGradients, readBackwardSettings, readGradients, tensorsOf } from './backward-call.js'
import { DeferredB } from './deferred-b.js'
import { runBackward, runBackwardAsync } from './launch.js'
import type { Routing } from './problem.js'
import { type LilySaved, readSaved, type Saved } from './saved.js'

/** Operands of {@link lilyBackward}. Gradients that are given are added to in place, and are what is returned. */
export interface LilyBackwardOperands {
  /** [..., d_out] of M rows: the gradient of y. */
  readonly dy: TensorLike
  /** [..., d_in] of M rows: the gradient of x. Without it a new tensor with the shape of x is returned. */
  readonly dx?: TensorLike | undefined
  /** [r, d_in]: the gradient of a. */
  readonly da?: TensorLike | undefined
  /** [E, r]: the gradient of router. */
  readonly dRouter?: TensorLike | undefined
  /** [E, r, d_out] or [E*r, d_out]: the gradient of b. Without it a new tensor with the shape of b is returned. */
  readonly db?: TensorLike | undefined
}

/** Which gradients are wanted; those that are false are not computed. Default: all. */
export interface LilyNeeds {
  readonly dx?: boolean | undefined
  readonly da?: boolean | undefined
  /** Without effect where the routing has no router. */
  readonly dRouter?: boolean | undefined
  readonly db?: boolean | undefined
}

/** Options of {@link lilyBackward}. */
export interface LilyBackwardOptions {
  readonly needs?: LilyNeeds | undefined
  /** Leave the gradient of b to {@link foldB}. Default false. */
  readonly deferB?: boolean | undefined
  /** Add to the gradients that are given. Default true; false overwrites them. */
  readonly accumulate?: boolean | undefined
  /** The CUDA stream to run in, or its handle. Default: that of the operands. The cpu has none. */
  readonly stream?: Stream | bigint | number | undefined
}

/** A gradient's type: undefined where options say that it is not wanted, either where that is not known. */
export type GradientOf<O, K extends string> = 'needs' extends keyof O
  ? O['needs'] extends object
    ? K extends keyof O['needs']
      ? Switched<O['needs'][K], Tensor, undefined>
      : Tensor
    : Tensor | undefined
  : Tensor

/** Type of a result that a flag switches. */
export type Switched<Flag, True, False> = Flag extends true ? True : Flag extends false ? False : True | False

/** Result of {@link lilyBackward}: the gradients that were given, or new tensors. */
export interface LilyGradients<R extends Routing, O> {
  /** The shape of x, contiguous. */
  readonly dx: GradientOf<O, 'dx'>
  /** [r, d_in] */
  readonly da: GradientOf<O, 'da'>
  /** [E, r]; undefined for routing uniform and fixed. */
  readonly dRouter: R extends 'uniform' | 'fixed' ? undefined : GradientOf<O, 'dRouter'>
  /** The shape of b; undefined with `deferB`. */
  readonly db: 'deferB' extends keyof O ? Switched<O['deferB'], undefined, GradientOf<O, 'db'>> : GradientOf<O, 'db'>
}

const OPERANDS: Known = new Set(['dy', 'dx', 'da', 'dRouter', 'db'])
const OPTIONS: Known = new Set(['needs', 'deferB', 'accumulate', 'stream'])
const NEEDS: Known = new Set(['dx', 'da', 'dRouter', 'db'])

/**
 * Gradients of {@link lilyForward}, given that of its y. Gradients of parameters that layers share add up when the same
 * `da` and `db` are given to each layer. Source: arXiv 2407.09946.
 *
 * It returns when the work is done. It may be called more than once for one `saved`.
 *
 * @param saved what lilyForward returned; its operands must be as they were
 * @throws LilyError; a refused call has written nothing
 * @example
 * const { dx, da, dRouter, db } = lilyBackward({ dy }, saved)
 */
export function lilyBackward<R extends Routing, O extends LilyBackwardOptions = object>(
  operands: LilyBackwardOperands,
  saved: LilySaved<R>,
  options?: O,
): LilyGradients<R, O> {
  const call = prepare(operands, saved, options)
  runBackward(call)
  return finish(call)
}

/**
 * {@link lilyBackward} off the main thread. Its checks and reads are made before it returns; what they refuse rejects
 * the promise. While it runs the operands, those of forward too, must not change, nor their memory be transferred or
 * resized.
 */
export async function lilyBackwardAsync<R extends Routing, O extends LilyBackwardOptions = object>(
  operands: LilyBackwardOperands,
  saved: LilySaved<R>,
  options?: O,
): Promise<LilyGradients<R, O>> {
  const call = prepare(operands, saved, options)
  await runBackwardAsync(call)
  return finish(call)
}

function prepare(operands: LilyBackwardOperands, saved: Saved, options: LilyBackwardOptions = {}): BackwardCall {
  const given = readGradients(operands, OPERANDS)
  const settings = readBackwardSettings(options, OPTIONS, NEEDS)
  return prepareGradients(readSaved('saved', saved, 'lilyForward'), given, settings)
}

function finish<R extends Routing, O>({ state, gradients }: BackwardCall): LilyGradients<R, O> {
  if (gradients.deferredDb !== null) state.deferred.push(new DeferredB(state.problem, gradients.deferredDb))
  return tensorsOf(gradients) as LilyGradients<R, O>
}
