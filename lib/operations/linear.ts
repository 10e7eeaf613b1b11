/** The frozen linear layer below an adapter, forward and backward. */
import type { GpuCommandEncoder } from '../base/gpu-types.js'
import { type Known, readChoice, readFlag, readProperties } from '../base/options.js'
import { Placement, type StreamOption } from '../memory/placement.js'
import { resolve, resolveIfGiven, type TensorLike } from '../tensor/resolve.js'
import { readStream } from '../tensor/stream-option.js'
import type { Stream } from '../tensor/stream.js'
import type { Tensor } from '../tensor/tensor.js'
import {
  allocateLinear,
  checkLinear,
  type LinearCall,
  type LinearInputs,
  type LinearSettings,
  readWeight,
} from './linear-problem.js'
import { gpuLinear } from './call.js'
import { run, runAsync, type Work } from './dispatch.js'
import { Output } from './output.js'
import type { PackedLinear } from './packed-linear.js'
import type { Precision } from './problem.js'
import { PRECISIONS } from './read.js'

/** Operands of {@link linearForward}. M is the product of the leading dimensions of x. */
export interface LinearForwardOperands {
  /** `[..., d_in]`: activations entering the layer. */
  readonly x: TensorLike
  /** [d_out, d_in], in the type of x or float32, or of 16 bits under an x in float32. */
  readonly weight: TensorLike | PackedLinear
  /** [d_out], in the type of weight or float32. */
  readonly bias?: TensorLike | undefined
  /** [..., d_out], accumulated in place. Without it a new tensor is returned. */
  readonly y?: TensorLike | undefined
}

/** Options of {@link linearForward} and {@link linearBackward}. */
export interface LinearOptions {
  /** Permitted rounding of operands of matrix products. Default 'default'. */
  readonly precision?: Precision | undefined
  /** Add to the given y or dx. Default true; false overwrites it. */
  readonly accumulate?: boolean | undefined
  /** The CUDA stream to run in, or its handle. Default: the stream of the operands. The cpu backend has no streams. */
  readonly stream?: Stream | bigint | number | undefined
  /** For operands on a GPUDevice: encode the call into this encoder, which the caller submits (docs/webgpu.md). */
  readonly encoder?: GpuCommandEncoder | undefined
}

/** Result of {@link linearForward}. */
export interface LinearForwardResult {
  /** `[..., d_out]`: the given y, or a new tensor with the leading dimensions of x. */
  readonly y: Tensor
}

/** Operands of {@link linearBackward}. */
export interface LinearBackwardOperands {
  /** `[..., d_out]`: the gradient of y. */
  readonly dy: TensorLike
  /** `[d_out, d_in]`: the weight of forward, in one of its types. */
  readonly weight: TensorLike | PackedLinear
  /** [..., d_in] of M rows, accumulated in place. Without it a new tensor is returned. */
  readonly dx?: TensorLike | undefined
}

/** Result of {@link linearBackward}. */
export interface LinearBackwardResult {
  /** `[..., d_in]`: the given dx, or a new tensor with the leading dimensions of dy. */
  readonly dx: Tensor
}

const FORWARD_OPERANDS: Known = new Set(['x', 'weight', 'bias', 'y'])
const BACKWARD_OPERANDS: Known = new Set(['dy', 'weight', 'dx'])
const OPTIONS: Known = new Set(['precision', 'accumulate', 'stream', 'encoder'])

/**
 * A linear layer with a frozen weight: y += x weight^T + bias (docs/linear.md). On the cpu it returns when the work is
 * done; on a device it enqueues the work.
 *
 * Sums are float32, and y is rounded once. A row of y depends on its row of x alone: it has the same bits in every batch,
 * with every number of threads, and with a packed weight (`packLinear`). Products of cuBLASLt on CUDA devices are an
 * exception: docs/linear.md#bits. A 16-bit weight under an x in float32 is converted exactly: the results have the bits of
 * the same weight in float32.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED,
 *   ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA. A call that throws at a check has written nothing
 * @example
 * const { y } = linearForward({ x, weight, bias })
 */
export function linearForward(operands: LinearForwardOperands, options?: LinearOptions): LinearForwardResult {
  const call = prepareForward(operands, options)
  run(workOf(call))
  return { y: call.y.tensor }
}

/**
 * {@link linearForward} off the main thread; see {@link lilyForwardAsync}. Formulas: docs/linear.md.
 *
 * @throws LilyError (as a rejection) as linearForward
 * @example
 * const { y } = await linearForwardAsync({ x, weight, bias })
 */
export async function linearForwardAsync(
  operands: LinearForwardOperands,
  options?: LinearOptions,
): Promise<LinearForwardResult> {
  const call = prepareForward(operands, options)
  await runAsync('linearForward or linearBackward', workOf(call))
  return { y: call.y.tensor }
}

/**
 * The gradient of the x of {@link linearForward} from the gradient of its y: dx += dy weight (docs/linear.md). The weight
 * is frozen and has no gradient. On the cpu it returns when the work is done; on a device it enqueues the work. Bits as in
 * linearForward.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED,
 *   ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA. A call that throws at a check has written nothing
 * @example
 * const { dx } = linearBackward({ dy, weight })
 */
export function linearBackward(operands: LinearBackwardOperands, options?: LinearOptions): LinearBackwardResult {
  const call = prepareBackward(operands, options)
  run(workOf(call))
  return { dx: call.y.tensor }
}

/**
 * {@link linearBackward} off the main thread; see {@link lilyForwardAsync}. Formulas: docs/linear.md.
 *
 * @throws LilyError (as a rejection) as linearBackward
 * @example
 * const { dx } = await linearBackwardAsync({ dy, weight })
 */
export async function linearBackwardAsync(
  operands: LinearBackwardOperands,
  options?: LinearOptions,
): Promise<LinearBackwardResult> {
  const call = prepareBackward(operands, options)
  await runAsync('linearForward or linearBackward', workOf(call))
  return { dx: call.y.tensor }
}

export const workOf = ({ call }: LinearCall): Work => ({
  calls: [call],
  placement: call.placement,
  gpu: () => [gpuLinear(call)],
})

function prepareForward(operands: LinearForwardOperands, options: LinearOptions = {}): LinearCall {
  const inputs = readProperties('operands', operands, FORWARD_OPERANDS, ({ x, weight, bias, y }) => ({
    x: resolve('x', x),
    weight: readWeight(weight),
    bias: resolveIfGiven('bias', bias),
    y: Output.of('y', y),
  }))
  const settings = readSettings(options)
  return prepareLinear(inputs, settings, false)
}

function prepareBackward(operands: LinearBackwardOperands, options: LinearOptions = {}): LinearCall {
  const inputs = readProperties('operands', operands, BACKWARD_OPERANDS, ({ dy, weight, dx }) => ({
    x: resolve('dy', dy),
    weight: readWeight(weight),
    bias: null,
    y: Output.of('dx', dx),
  }))
  const settings = readSettings(options)
  return prepareLinear(inputs, settings, true)
}

/** The phases of a call between reading and running. It writes to no memory of the caller. */
export function prepareLinear(inputs: LinearInputs, settings: Settings, transposed: boolean): LinearCall {
  checkLinear(inputs, transposed)
  const { x, weight, bias, y } = inputs
  const placement = Placement.of(x.device, settings.stream, () => [x, weight.operand, bias, y?.operand])
  return allocateLinear(inputs, settings, placement, transposed)
}

interface Settings extends LinearSettings {
  readonly stream: StreamOption
}

function readSettings(options: object): Settings {
  return readProperties('options', options, OPTIONS, ({ precision, accumulate, stream, encoder }) => ({
    precision: readChoice('precision', precision, PRECISIONS, 'default'),
    accumulate: readFlag('accumulate', accumulate, true),
    stream: readStream(stream, encoder),
  }))
}
