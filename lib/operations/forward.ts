/** Forward of Lily: y += s phi(x a^T) C, where C combines the experts of b (arXiv 2407.09946; docs/math.md). */
import type { GpuCommandEncoder } from '../base/gpu-types.js'
import type { Exact, Known } from '../base/options.js'
import type { TensorLike } from '../tensor/resolve.js'
import type { Stream } from '../tensor/stream.js'
import type { Tensor } from '../tensor/tensor.js'
import { allocateForward, type ForwardCall } from './allocate.js'
import type { CallState } from './call-state.js'
import { lilyProblem } from './check-routing.js'
import { checkFrozen, checkPlaces, checkY } from './check.js'
import { checkDropout, type DropoutOptions } from './dropout.js'
import type { PackedLinear } from './packed-linear.js'
import type { Activation, Pool, Precision, Routing } from './problem.js'
import {
  DEFAULT_MODES,
  type ForwardInputs,
  type ForwardSettings,
  readForwardInputs,
  readForwardOptions,
} from './read.js'
import type { RowsState } from './rows-state.js'
import { runForward, runForwardAsync } from './run.js'
import type { RowsSaved, Saved } from './saved.js'
import type { MaskLike, OffsetsLike, WeightsLike } from './small-operands.js'
import { hasRows, prepareStacked } from './stacked.js'

/** Operands of {@link lilyForward}. M is the product of the leading dimensions of x. */
export interface LilyForwardOperands {
  /** `[..., d_in]`: activations entering the adapted layer. */
  readonly x: TensorLike
  /**
   * `[d_out, d_in]`, in the type of x or float32, or of 16 bits under an x in float32: the frozen weight of the
   * layer, which the call then also computes (docs/linear.md). Default: the adapter alone.
   */
  readonly weight?: TensorLike | PackedLinear | undefined
  /** `[d_out]`, in the type of weight or float32: the bias of the layer, together with `weight`. */
  readonly bias?: TensorLike | undefined
  /** `[r, d_in]`: the low-dimension projector. r is at most 4096. */
  readonly a: TensorLike
  /**
   * `[E, r]`: the layer's router, with routing batch, sequence and token; with learned routing the logits of the mixture,
   * `[E]` or `[E, 1]`. E is at most 64.
   */
  readonly router?: TensorLike | undefined
  /** [E, r, d_out], or [E*r, d_out] as PEFT stores it: the high-dimension projectors. */
  readonly b: TensorLike
  /** `[..., d_out]`: the output of the base layer, accumulated in place. Without it a new tensor is returned. */
  readonly y?: TensorLike | undefined
}

/** Options of a call that has an adapter for each row (docs/math.md#adapters-per-row). */
export interface RowsOptions {
  /**
   * `[K + 1]`, from 0 to the rows of a, ascending: K adapters are stacked in a, router and b, and adapter k has the rows
   * `rankOffsets[k]` to `rankOffsets[k + 1]` of a. It has these columns of router and of LoRA's b; Lily's b is the stacks
   * [E*r, d_out] of the adapters one after the other. Goes with `adapterOf`.
   */
  readonly rankOffsets?: OffsetsLike | undefined
  /**
   * `[G]`: the adapter of each sequence (`sequenceOffsets`, or the rows of a 3-D x), otherwise of each token; -1: none. Routing
   * 'batch' pools over all rows of an adapter. On the host, as are `sequenceOffsets`, `mask` and `weights` then.
   */
  readonly adapterOf?: OffsetsLike | undefined
  /** `[G]`: a constant factor on the adapter's output for each element of `adapterOf`. Default 1. */
  readonly scale?: WeightsLike | undefined
}

/** Options of {@link lilyForward}. */
export interface LilyForwardOptions extends RowsOptions {
  /** Factor s on the adapter's output, not alpha / r. Default 1. */
  readonly scaling?: number | undefined
  /** How tokens share the experts' weights. Default 'batch'. */
  readonly routing?: Routing | undefined
  /** Pooling statistic of batch and sequence routing. Default 'probabilities'. */
  readonly pool?: Pool | undefined
  /** Function phi that is applied to x a^T. Default 'none'. */
  readonly activation?: Activation | undefined
  /** Permitted rounding of operands of matrix products. Default 'default'. */
  readonly precision?: Precision | undefined
  /** [M], for batch and sequence routing: a token with 0 does not count in the pooling. Its y is still computed. */
  readonly mask?: MaskLike | undefined
  /**
   * [G + 1], ascending from 0 to M, for sequence and fixed routing, and for `adapterOf`. Default: the rows of a 3-D x. In
   * device memory they are not checked: docs/routing.md says what others mean.
   */
  readonly sequenceOffsets?: OffsetsLike | undefined
  /** [E] or [G, E], for fixed routing: the weights of the experts. With `adapterOf`: [K, E], a row for each adapter. */
  readonly weights?: WeightsLike | undefined
  /**
   * Dropout of the adapter's input, for training: elements of x count as zero at random, and the others are scaled up
   * (docs/math.md#dropout). Backward uses the same mask. Not with `adapterOf`. Default: none.
   */
  readonly dropout?: DropoutOptions | undefined
  /** Keep what backward needs. Default true; pass false for inference. */
  readonly save?: boolean | undefined
  /** Add to the given y. Default true; false overwrites it. */
  readonly accumulate?: boolean | undefined
  /** The CUDA stream to run in, or its handle. Default: the stream of the operands. The cpu backend has no streams. */
  readonly stream?: Stream | bigint | number | undefined
  /** For operands on a GPUDevice: encode the call into this encoder, which the caller submits (docs/webgpu.md). */
  readonly encoder?: GpuCommandEncoder | undefined
}

/** The type of the option `routing`. */
export type RoutingOf<O> = 'routing' extends keyof O ? (O['routing'] extends Routing ? O['routing'] : Routing) : 'batch'

/** `S`, or undefined with `save: false`; both if the type of the option is not known. */
export type SavedOf<O, S> = 'save' extends keyof O
  ? O['save'] extends true
    ? S
    : O['save'] extends false
      ? undefined
      : S | undefined
  : S

/** What a call saves. A type of options in which `adapterOf` may be undefined stands for a call of one adapter. */
export type RowsOr<O, R extends Routing | 'none'> = 'adapterOf' extends keyof O
  ? O['adapterOf'] extends OffsetsLike
    ? RowsSaved<R>
    : Saved<R>
  : Saved<R>

/** Result of {@link lilyForward}. */
export interface LilyForwardResult<O> {
  /** `[..., d_out]`: the given y, or a new tensor with the leading dimensions of x. */
  readonly y: Tensor
  /** What backward needs; undefined with `save: false`. */
  readonly saved: SavedOf<O, RowsOr<O, RoutingOf<O>>>
}

const OPERANDS: Known = new Set(['x', 'weight', 'bias', 'a', 'router', 'b', 'y'])
/** The options of {@link lilyForward} that layers of a model also have. */
export const FORWARD_OPTIONS: Known = new Set([
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
  'encoder',
])
/** The options of a call that has an adapter for each row. */
export const ROWS_OPTIONS = ['rankOffsets', 'adapterOf', 'scale']
const ALL_OPTIONS: Known = new Set([...FORWARD_OPTIONS, 'dropout', ...ROWS_OPTIONS])

/**
 * The Lily adapter of one linear layer: y += s h C, where h = phi(x a^T) is the hidden state and C = sum_e w_e B_e
 * combines the high-dimension projectors with the weights of the routing, which pools softmax(h router^T) or its logits. With
 * a `weight` the call also computes the layer: y += x weight^T + bias + s h C (docs/linear.md).
 * Source: arXiv 2407.09946, with the details in docs/math.md.
 *
 * | routing | router | mask | groups | saved.probabilities | saved.weights |
 * |---|---|---|---|---|---|
 * | batch | required | allowed | 1 | with pool 'probabilities' | `[1, E]` |
 * | sequence | required | allowed | `sequenceOffsets`, or the rows of a 3-D x | with pool 'probabilities' | `[G, E]` |
 * | token | required | refused | M | yes | no |
 * | uniform | refused | refused | 1 | no | `[1, E]` |
 * | fixed | refused | refused | `weights` `[E]`: 1; `[G, E]`: as sequence | no | as given |
 * | learned | logits `[E]` | refused | 1 | no | `[1, E]` |
 *
 * On the cpu it returns when the work is done; on a device it enqueues the work. The operands must not change before
 * backward has run.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED,
 *   ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA. A call that throws at a check has written nothing
 * @example
 * const { y, saved } = lilyForward({ x, a, router, b, y: baseOutput }, { scaling: 2 })
 * @example
 * const { y, saved } = lilyForward({ x, weight, bias, a, router, b }, { scaling: 2 })
 * @example
 * // In training: drop a tenth of the adapter's input, other elements in each call.
 * const dropout = { rate: 0.1, state: dropoutState(42) }
 * const { y, saved } = lilyForward({ x, a, router, b, y: baseOutput }, { dropout })
 * @example
 * // Two adapters of ranks 8 and 16, for the sequences of a 3-D x; the second sequence has none.
 * const { y, saved } = lilyForward({ x, a, router, b }, { rankOffsets: [0, 8, 24], adapterOf: [0, -1, 1, 0] })
 */
export function lilyForward<O extends Exact<O, LilyForwardOptions> = object>(
  operands: LilyForwardOperands,
  options?: O,
): LilyForwardResult<O> {
  return runForward(prepare(operands, options)) as LilyForwardResult<O>
}

/**
 * {@link lilyForward} off the main thread. It reads and checks everything before it returns; a failed check rejects the
 * promise. On the host it works on copies of operands that are not in shared memory, or runs at once where large copies
 * would take longer. Do not change operands meanwhile; an input may be transferred, and if an output is, the promise
 * rejects (docs/memory.md). Resizable ArrayBuffers are refused.
 *
 * @throws LilyError (as a rejection) as lilyForward
 * @example
 * const { y, saved } = await lilyForwardAsync({ x, a, router, b, y: baseOutput })
 */
export async function lilyForwardAsync<O extends Exact<O, LilyForwardOptions> = object>(
  operands: LilyForwardOperands,
  options?: O,
): Promise<LilyForwardResult<O>> {
  return (await runForwardAsync(prepare(operands, options))) as LilyForwardResult<O>
}

function prepare(operands: LilyForwardOperands, options: LilyForwardOptions = {}): ForwardCall<CallState | RowsState> {
  const inputs = readForwardInputs(operands, OPERANDS)
  const settings = readForwardOptions<never>(options, ALL_OPTIONS, DEFAULT_MODES)
  return hasRows(settings) ? prepareStacked(inputs, settings, lilyProblem, false) : prepareForward(inputs, settings)
}

/**
 * The phases of a call between reading and running. It writes to no memory of the caller, so that several calls can be
 * prepared before the first one runs.
 */
export function prepareForward(inputs: ForwardInputs, settings: ForwardSettings): ForwardCall {
  checkPlaces(inputs, settings)
  const problem = lilyProblem(inputs, settings)
  checkY(problem, inputs.y, settings)
  if (settings.dropout !== null) checkDropout(settings.dropout, inputs, settings)
  if (inputs.weight !== null || inputs.bias !== null) checkFrozen(problem, inputs)
  return allocateForward(problem, inputs, settings)
}
