/** Backward of Lily: the gradients of x, a, router and b (docs/math.md). */
import type { GpuCommandEncoder } from '../base/gpu-types.js'
import type { Exact, Known } from '../base/options.js'
import type { TensorLike } from '../tensor/resolve.js'
import type { Stream } from '../tensor/stream.js'
import type { Tensor } from '../tensor/tensor.js'
import { allocateGradients, type BackwardCall } from './allocate.js'
import type { CallState } from './call-state.js'
import { checkGradients } from './check.js'
import type { Routing } from './problem.js'
import { type BackwardInputs, type BackwardSettings, readBackwardInputs, readBackwardSettings } from './read.js'
import type { RowsBackwardCall } from './rows.js'
import { runBackward, runBackwardAsync } from './run.js'
import { type LilySaved, readRowsSaved, readSaved, type RowsSaved, type Saved } from './saved.js'
import { prepareStackedBackward } from './stacked.js'

/** Operands of {@link lilyBackward}. Given gradients are accumulated in place and returned. */
export interface LilyBackwardOperands {
  /** [..., d_out] of M rows: the gradient of y. */
  readonly dy: TensorLike
  /**
   * `[..., d_in]`: the x of forward again, if its memory has moved since, as views of a WebAssembly.Memory do when it grows.
   * Shape, type and numbers must be the same as in forward. Default: the x that `saved` refers to.
   */
  readonly x?: TensorLike | undefined
  /** [..., d_in] of M rows: the gradient of x. Without it a new tensor with the shape of x is returned. */
  readonly dx?: TensorLike | undefined
  /** `[r, d_in]`: the gradient of a. */
  readonly da?: TensorLike | undefined
  /** `[E, r]`: the gradient of router; with learned routing the gradient of the logits, `[E]` or `[E, 1]`. */
  readonly dRouter?: TensorLike | undefined
  /** [E, r, d_out] or [E*r, d_out]: the gradient of b. Without it a new tensor with the shape of b is returned. */
  readonly db?: TensorLike | undefined
  /**
   * `[G, E]`, `[1, E]` for weights `[E]`, float32: the gradient of the weights of fixed routing, together with
   * `needs: { dWeights: true }`.
   */
  readonly dWeights?: TensorLike | undefined
}

/** Which gradients to compute. Default: all but `dWeights`. */
export interface LilyNeeds {
  /** The gradient of x. */
  readonly dx?: boolean | undefined
  /** The gradient of a. */
  readonly da?: boolean | undefined
  /** The gradient of router. Has no effect if the routing has no router. */
  readonly dRouter?: boolean | undefined
  /** The gradient of b. */
  readonly db?: boolean | undefined
  /** The gradient of the weights, which routing fixed alone has. Default false. */
  readonly dWeights?: boolean | undefined
}

/** Options of {@link lilyBackward}. */
export interface LilyBackwardOptions {
  /** Which gradients to compute. Default: all but `dWeights`. */
  readonly needs?: LilyNeeds | undefined
  /** Store partial sums of the gradient of b for {@link foldB} instead of computing it. Default false. */
  readonly deferB?: boolean | undefined
  /** Keep `saved` for a further backward, which is an error otherwise. Default false. */
  readonly retain?: boolean | undefined
  /** Add to the given gradients. Default true; false overwrites them. */
  readonly accumulate?: boolean | undefined
  /** The CUDA stream to run in, or its handle. Default: the stream of the operands. The cpu backend has no streams. */
  readonly stream?: Stream | bigint | number | undefined
  /** For operands on a GPUDevice: encode the call into this encoder, which the caller submits (docs/webgpu.md). */
  readonly encoder?: GpuCommandEncoder | undefined
}

/**
 * The type of a gradient: undefined if `needs` switches it off; both if the type of the option is not known. `D` is for a
 * call whose `needs` do not name it.
 */
export type GradientOf<O, K extends string, D = Tensor> = 'needs' extends keyof O
  ? O['needs'] extends object
    ? K extends keyof O['needs']
      ? Switched<O['needs'][K], Tensor, undefined>
      : D
    : Tensor | undefined
  : D

/** The type of a result that depends on a flag. */
export type Switched<Flag, True, False> = Flag extends true ? True : Flag extends false ? False : True | False

/** Result of {@link lilyBackward}: the given gradients, or new tensors. */
export interface LilyGradients<R extends Routing, O> {
  /** The shape of x, contiguous. */
  readonly dx: GradientOf<O, 'dx'>
  /** [r, d_in] */
  readonly da: GradientOf<O, 'da'>
  /** [E, r]; the shape of the logits for routing learned; undefined for routing uniform and fixed. */
  readonly dRouter: R extends 'uniform' | 'fixed' ? undefined : GradientOf<O, 'dRouter'>
  /** The shape of b; undefined with `deferB`. */
  readonly db: 'deferB' extends keyof O ? Switched<O['deferB'], undefined, GradientOf<O, 'db'>> : GradientOf<O, 'db'>
  /** [G, E], float32; undefined for other routings than fixed, and without `needs: { dWeights: true }`. */
  readonly dWeights: 'fixed' extends R ? GradientOf<O, 'dWeights', undefined> : undefined
}

const OPERANDS: Known = new Set(['dy', 'x', 'dx', 'da', 'dRouter', 'db', 'dWeights'])
const BACKWARD_OPTIONS: Known = new Set(['needs', 'deferB', 'retain', 'accumulate', 'stream', 'encoder'])
const BACKWARD_NEEDS: Known = new Set(['dx', 'da', 'dRouter', 'db', 'dWeights'])

/**
 * The gradients of {@link lilyForward} from the gradient of its y. If forward had a `weight`, dx includes dy weight. To sum
 * the gradients of parameters that layers share, pass the same `da` and `db` for each layer. The gradients of stacked
 * adapters have the shapes of the stacked a, router and b. Formulas: docs/math.md, from
 * the forward of arXiv 2407.09946.
 *
 * On the cpu it returns when the work is done; on a device it enqueues the work.
 *
 * @param saved the result `saved` of lilyForward, whose operands must not have changed. Without `retain` it is for one
 *   backward
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED,
 *   ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA. A call that throws at a check has written nothing
 * @example
 * const { dx, da, dRouter, db } = lilyBackward({ dy }, saved)
 * @example
 * // The gradient of weights that the caller has given: forward had routing 'fixed'.
 * const { dWeights } = lilyBackward({ dy }, saved, { needs: { dWeights: true } })
 */
export function lilyBackward<R extends Routing, O extends Exact<O, LilyBackwardOptions> = object>(
  operands: LilyBackwardOperands,
  saved: LilySaved<R> | RowsSaved<R>,
  options?: O,
): LilyGradients<R, O> {
  return runBackward(prepare(operands, saved, options)) as LilyGradients<R, O>
}

/**
 * {@link lilyBackward} off the main thread. It reads and checks everything before it returns; a failed check rejects
 * the promise. Until the promise settles, do not change its operands or forward's; {@link lilyForwardAsync} says what
 * happens to memory that is transferred. Resizable ArrayBuffers are refused. Formulas: docs/math.md#backward.
 *
 * @throws LilyError (as a rejection) as lilyBackward
 * @example
 * const { dx, da, dRouter, db } = await lilyBackwardAsync({ dy }, saved)
 */
export async function lilyBackwardAsync<R extends Routing, O extends Exact<O, LilyBackwardOptions> = object>(
  operands: LilyBackwardOperands,
  saved: LilySaved<R> | RowsSaved<R>,
  options?: O,
): Promise<LilyGradients<R, O>> {
  return (await runBackwardAsync(prepare(operands, saved, options))) as LilyGradients<R, O>
}

function prepare(
  operands: LilyBackwardOperands,
  saved: Saved | RowsSaved,
  options: LilyBackwardOptions = {},
): BackwardCall | RowsBackwardCall {
  const inputs = readBackwardInputs(operands, OPERANDS)
  const settings = readBackwardSettings(options, BACKWARD_OPTIONS, BACKWARD_NEEDS)
  const rows = readRowsSaved('saved', saved)
  if (rows !== null) return prepareStackedBackward(rows, inputs, settings, 'lilyForward')
  return prepareBackward(readSaved('saved', saved, 'lilyForward'), inputs, settings)
}

/** Like `prepareForward`: the phases of a backward call between reading and running. */
export function prepareBackward(state: CallState, inputs: BackwardInputs, settings: BackwardSettings): BackwardCall {
  checkGradients(state, inputs, settings)
  return allocateGradients(state, inputs, settings)
}
