/** LoRA, forward and backward: Lily with one expert, no router, and b transposed. */
import { checkA, checkActivations, checkType, checkTypeOrFloat32 } from '../base/checks.js'
import { fail } from '../base/errors.js'
import type { GpuCommandEncoder } from '../base/gpu-types.js'
import type { Exact, Known } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import type { TensorLike } from '../tensor/resolve.js'
import type { Stream } from '../tensor/stream.js'
import type { Tensor } from '../tensor/tensor.js'
import { allocateForward, type BackwardCall, type ForwardCall } from './allocate.js'
import { type GradientOf, prepareBackward } from './backward.js'
import { checkFrozen, checkPlaces, checkY } from './check.js'
import { checkDropout, type DropoutOptions } from './dropout.js'
import type { CallState } from './call-state.js'
import { ROWS_OPTIONS, type RowsOptions, type RowsOr, type SavedOf } from './forward.js'
import type { PackedLinear } from './packed-linear.js'
import { type Precision, NOTHING_SMALL, Problem } from './problem.js'
import {
  DEFAULT_MODES,
  type ForwardInputs,
  type ForwardSettings,
  type ProblemSettings,
  readBackwardInputs,
  readBackwardSettings,
  readForwardInputs,
  readForwardOptions,
} from './read.js'
import type { RowsBackwardCall } from './rows.js'
import type { RowsState } from './rows-state.js'
import { runBackward, runBackwardAsync, runForward, runForwardAsync } from './run.js'
import { type LoraSaved, readRowsSaved, readSaved, type RowsSaved } from './saved.js'
import type { OffsetsLike } from './small-operands.js'
import { hasRows, prepareStacked, prepareStackedBackward } from './stacked.js'

/** Operands of {@link loraForward}. M is the product of the leading dimensions of x. */
export interface LoraForwardOperands {
  /** `[..., d_in]`: activations entering the adapted layer. */
  readonly x: TensorLike
  /**
   * `[d_out, d_in]`, in the type of x or float32, or of 16 bits under an x in float32: the frozen weight of the
   * layer, which the call then also computes (docs/linear.md). Default: the adapter alone.
   */
  readonly weight?: TensorLike | PackedLinear | undefined
  /** `[d_out]`, in the type of weight or float32: the bias of the layer, together with `weight`. */
  readonly bias?: TensorLike | undefined
  /** [r, d_in]. r is at most 4096. */
  readonly a: TensorLike
  /** [d_out, r], as PEFT stores it. */
  readonly b: TensorLike
  /** `[..., d_out]`: the output of the base layer, accumulated in place. Without it a new tensor is returned. */
  readonly y?: TensorLike | undefined
}

/** Options of {@link loraForward}. */
export interface LoraForwardOptions extends RowsOptions {
  /** Factor on the adapter's output. For an adapter that gives alpha, pass alpha / r. Default 1. */
  readonly scaling?: number | undefined
  /** Permitted rounding of operands of matrix products. Default 'default'. */
  readonly precision?: Precision | undefined
  /** [G + 1], ascending from 0 to M, for `adapterOf`. Default: the rows of a 3-D x. */
  readonly sequenceOffsets?: OffsetsLike | undefined
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

/** Result of {@link loraForward}. */
export interface LoraForwardResult<O> {
  /** `[..., d_out]`: the given y, or a new tensor with the leading dimensions of x. */
  readonly y: Tensor
  /** What backward needs; undefined with `save: false`. */
  readonly saved: SavedOf<O, RowsOr<O, 'none'>>
}

/** Operands of {@link loraBackward}. Given gradients are accumulated in place and returned. */
export interface LoraBackwardOperands {
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
  /** `[d_out, r]`: the gradient of b. */
  readonly db?: TensorLike | undefined
}

/** Options of {@link loraBackward}. */
export interface LoraBackwardOptions {
  /** Which gradients to compute. Default: all. */
  readonly needs?:
    | {
        readonly dx?: boolean | undefined
        readonly da?: boolean | undefined
        readonly db?: boolean | undefined
      }
    | undefined
  /** Keep `saved` for a further backward, which is an error otherwise. Default false. */
  readonly retain?: boolean | undefined
  /** Add to the given gradients. Default true; false overwrites them. */
  readonly accumulate?: boolean | undefined
  /** The CUDA stream to run in, or its handle. Default: the stream of the operands. The cpu backend has no streams. */
  readonly stream?: Stream | bigint | number | undefined
  /** For operands on a GPUDevice: encode the call into this encoder, which the caller submits (docs/webgpu.md). */
  readonly encoder?: GpuCommandEncoder | undefined
}

/** Result of {@link loraBackward}: the given gradients, or new tensors. */
export interface LoraGradients<O> {
  /** The shape of x, contiguous. */
  readonly dx: GradientOf<O, 'dx'>
  /** [r, d_in] */
  readonly da: GradientOf<O, 'da'>
  /** [d_out, r] */
  readonly db: GradientOf<O, 'db'>
}

const FORWARD_OPERANDS: Known = new Set(['x', 'weight', 'bias', 'a', 'b', 'y'])
/** The options of {@link loraForward} that layers of a model also have. */
export const LORA_FORWARD_OPTIONS: Known = new Set(['scaling', 'precision', 'save', 'accumulate', 'stream', 'encoder'])
const ALL_FORWARD_OPTIONS: Known = new Set([...LORA_FORWARD_OPTIONS, 'sequenceOffsets', 'dropout', ...ROWS_OPTIONS])
const BACKWARD_OPERANDS: Known = new Set(['dy', 'x', 'dx', 'da', 'db'])
const LORA_BACKWARD_OPTIONS: Known = new Set(['needs', 'retain', 'accumulate', 'stream', 'encoder'])
export const LORA_NEEDS: Known = new Set(['dx', 'da', 'db'])

/**
 * The LoRA adapter of one linear layer: y += scaling * (x a^T) b^T (arXiv 2106.09685). With a `weight` the call also computes
 * the layer: y += x weight^T + bias + scaling * (x a^T) b^T (docs/linear.md). On the cpu it returns when the work is done; on
 * a device it enqueues the work. The operands must not change before backward has run.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED,
 *   ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA. A call that throws at a check has written nothing
 * @example
 * const { y, saved } = loraForward({ x, a, b, y: baseOutput }, { scaling: alpha / r })
 * @example
 * // In training: drop a tenth of the adapter's input, other elements in each call.
 * const dropout = { rate: 0.1, state: dropoutState(42) }
 * const { y, saved } = loraForward({ x, a, b, y: baseOutput }, { scaling: alpha / r, dropout })
 * @example
 * // Two adapters of ranks 8 and 16, for the sequences of a 3-D x; the second sequence has none.
 * const { y, saved } = loraForward({ x, a, b }, { rankOffsets: [0, 8, 24], adapterOf: [0, -1, 1, 0] })
 */
export function loraForward<O extends Exact<O, LoraForwardOptions> = object>(
  operands: LoraForwardOperands,
  options?: O,
): LoraForwardResult<O> {
  return runForward(prepare(operands, options)) as LoraForwardResult<O>
}

/**
 * {@link loraForward} off the main thread; see {@link lilyForwardAsync}. Formulas: docs/math.md#lora.
 *
 * @throws LilyError (as a rejection) as loraForward
 * @example
 * const { y, saved } = await loraForwardAsync({ x, a, b, y: baseOutput }, { scaling: alpha / r })
 */
export async function loraForwardAsync<O extends Exact<O, LoraForwardOptions> = object>(
  operands: LoraForwardOperands,
  options?: O,
): Promise<LoraForwardResult<O>> {
  return (await runForwardAsync(prepare(operands, options))) as LoraForwardResult<O>
}

/**
 * The gradients of {@link loraForward} from the gradient of its y; with a `weight`, dx includes dy weight. Formulas:
 * docs/math.md#lora. The gradients of stacked adapters have the shapes of the stacked a and b.
 *
 * On the cpu it returns when the work is done; on a device it enqueues the work.
 *
 * @param saved the result `saved` of loraForward, whose operands must not have changed. Without `retain` it is for one
 *   backward
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED,
 *   ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA. A call that throws at a check has written nothing
 * @example
 * const { dx, da, db } = loraBackward({ dy }, saved)
 */
export function loraBackward<O extends Exact<O, LoraBackwardOptions> = object>(
  operands: LoraBackwardOperands,
  saved: LoraSaved | RowsSaved<'none'>,
  options?: O,
): LoraGradients<O> {
  return runBackward(prepareGradients(operands, saved, options)) as LoraGradients<O>
}

/**
 * {@link loraBackward} off the main thread; see {@link lilyBackwardAsync}. Formulas: docs/math.md#lora.
 *
 * @throws LilyError (as a rejection) as loraBackward
 * @example
 * const { dx, da, db } = await loraBackwardAsync({ dy }, saved)
 */
export async function loraBackwardAsync<O extends Exact<O, LoraBackwardOptions> = object>(
  operands: LoraBackwardOperands,
  saved: LoraSaved | RowsSaved<'none'>,
  options?: O,
): Promise<LoraGradients<O>> {
  return (await runBackwardAsync(prepareGradients(operands, saved, options))) as LoraGradients<O>
}

function prepare(operands: LoraForwardOperands, options: LoraForwardOptions = {}): ForwardCall<CallState | RowsState> {
  const inputs = readForwardInputs(operands, FORWARD_OPERANDS)
  const settings = readForwardOptions<never>(options, ALL_FORWARD_OPTIONS, DEFAULT_MODES)
  return hasRows(settings) || settings.sequenceOffsets !== null
    ? prepareStacked(inputs, settings, loraProblem, true)
    : prepareForward(inputs, settings)
}

/** The phases of a call between reading and running, as for Lily. */
export function prepareForward(inputs: ForwardInputs, settings: ForwardSettings): ForwardCall {
  checkPlaces(inputs, settings)
  const problem = loraProblem(inputs, settings)
  checkY(problem, inputs.y, settings)
  if (settings.dropout !== null) checkDropout(settings.dropout, inputs, settings)
  if (inputs.weight !== null || inputs.bias !== null) checkFrozen(problem, inputs)
  return allocateForward(problem, inputs, settings)
}

/** The problem of a LoRA call; throws if a shape or a type is wrong. */
export function loraProblem({ x, a, b }: ForwardInputs, { precision, scaling, dropout }: ProblemSettings): Problem {
  checkActivations(x)
  checkA(a, x.columns)
  checkTypeOrFloat32('a', a, x.dtype)
  if (b.shape.length !== 2 || b.columns !== a.rows || b.rows < 1) {
    fail('ERR_LILY_SHAPE', 'b', `expected [d_out, ${a.rows}] (a has r ${a.rows}), got ${shapeText(b.shape)}`)
  }
  checkType('b', b, a.dtype)
  const { pool, activation } = DEFAULT_MODES
  const drops = dropout === null ? 0 : dropout.threshold
  return new Problem('none', pool, activation, precision, scaling, x, a, null, b, b.rows, 1, 1, NOTHING_SMALL, drops)
}

function prepareGradients(
  operands: LoraBackwardOperands,
  saved: LoraSaved | RowsSaved<'none'>,
  options: LoraBackwardOptions = {},
): BackwardCall | RowsBackwardCall {
  const inputs = readBackwardInputs(operands, BACKWARD_OPERANDS)
  const settings = readBackwardSettings(options, LORA_BACKWARD_OPTIONS, LORA_NEEDS)
  const rows = readRowsSaved('saved', saved)
  if (rows !== null) return prepareStackedBackward(rows, inputs, settings, 'loraForward')
  return prepareBackward(readSaved('saved', saved, 'loraForward'), inputs, settings)
}
