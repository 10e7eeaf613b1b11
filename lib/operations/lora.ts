/** LoRA, forward and backward: Lily with one expert, no router, and b stored the other way round. */
import { checkA, checkActivations, checkType, checkTypeOrFloat32 } from '../base/checks.js'
import { fail } from '../base/errors.js'
import type { Known } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import type { TensorLike } from '../tensor/resolve.js'
import type { Stream } from '../tensor/stream.js'
import type { Tensor } from '../tensor/tensor.js'
import { type BackwardCall, prepareGradients, readBackwardSettings, readGradients, tensorsOf } from './backward-call.js'
import type { GradientOf } from './backward.js'
import {
  checkPlaces,
  finishForward,
  type ForwardCall,
  type Inputs,
  prepareForward,
  readInputs,
} from './forward-call.js'
import type { SavedOf } from './forward.js'
import { runBackward, runBackwardAsync, runForward, runForwardAsync } from './launch.js'
import { type Precision, Problem } from './problem.js'
import { type LoraSaved, readSaved } from './saved.js'
import { readSettings, type Settings } from './settings.js'

/** Operands of {@link loraForward}. M is the product of the leading dimensions of x. */
export interface LoraForwardOperands {
  /** [..., d_in]: activations entering the adapted layer. */
  readonly x: TensorLike
  /** [r, d_in]. r is at most 4096. */
  readonly a: TensorLike
  /** [d_out, r], as PEFT stores it. */
  readonly b: TensorLike
  /** [..., d_out]: the base layer's output, added to in place. Without it a new tensor is returned. */
  readonly y?: TensorLike | undefined
}

/** Options of {@link loraForward}. */
export interface LoraForwardOptions {
  /** Direct multiplier: alpha / r, where that is how an adapter gives it. Default 1. */
  readonly scaling?: number | undefined
  readonly precision?: Precision | undefined
  /** Keep what backward needs. Default true; false for inference. */
  readonly save?: boolean | undefined
  /** Add to the y that is given. Default true; false overwrites it. */
  readonly accumulate?: boolean | undefined
  /** The CUDA stream to run in, or its handle. Default: that of the operands. The cpu has none. */
  readonly stream?: Stream | bigint | number | undefined
}

/** Result of {@link loraForward}. */
export interface LoraForwardResult<O> {
  /** [..., d_out]: the y that was given, or a new tensor with the leading dimensions of x. */
  readonly y: Tensor
  /** What backward needs; undefined with `save: false`. */
  readonly saved: SavedOf<O, LoraSaved>
}

/** Operands of {@link loraBackward}. Gradients that are given are added to in place, and are what is returned. */
export interface LoraBackwardOperands {
  /** [..., d_out] of M rows: the gradient of y. */
  readonly dy: TensorLike
  /** [..., d_in] of M rows. Without it a new tensor with the shape of x is returned. */
  readonly dx?: TensorLike | undefined
  /** [r, d_in] */
  readonly da?: TensorLike | undefined
  /** [d_out, r] */
  readonly db?: TensorLike | undefined
}

/** Options of {@link loraBackward}. */
export interface LoraBackwardOptions {
  /** Gradients that are false are not computed. Default: all. */
  readonly needs?:
    | {
        readonly dx?: boolean | undefined
        readonly da?: boolean | undefined
        readonly db?: boolean | undefined
      }
    | undefined
  /** Add to the gradients that are given. Default true; false overwrites them. */
  readonly accumulate?: boolean | undefined
  /** The CUDA stream to run in, or its handle. Default: that of the operands. The cpu has none. */
  readonly stream?: Stream | bigint | number | undefined
}

/** Result of {@link loraBackward}: the gradients that were given, or new tensors. */
export interface LoraGradients<O> {
  /** The shape of x, contiguous. */
  readonly dx: GradientOf<O, 'dx'>
  /** [r, d_in] */
  readonly da: GradientOf<O, 'da'>
  /** [d_out, r] */
  readonly db: GradientOf<O, 'db'>
}

const FORWARD_OPERANDS: Known = new Set(['x', 'a', 'b', 'y'])
const FORWARD_OPTIONS: Known = new Set(['scaling', 'precision', 'save', 'accumulate', 'stream'])
const BACKWARD_OPERANDS: Known = new Set(['dy', 'dx', 'da', 'db'])
const BACKWARD_OPTIONS: Known = new Set(['needs', 'accumulate', 'stream'])
const NEEDS: Known = new Set(['dx', 'da', 'db'])

/**
 * LoRA of one linear layer: y += scaling * (x a^T) b^T. It returns when the work is done. The operands must not change
 * before backward has run.
 *
 * @throws LilyError; a refused call has written nothing
 * @example
 * const { y, saved } = loraForward({ x, a, b, y: baseOutput }, { scaling: alpha / r })
 */
export function loraForward<O extends LoraForwardOptions = object>(
  operands: LoraForwardOperands,
  options?: O,
): LoraForwardResult<O> {
  const call = prepare(operands, options)
  runForward(call)
  return finishForward(call) as LoraForwardResult<O>
}

/** {@link loraForward} off the main thread; see {@link lilyForwardAsync}. */
export async function loraForwardAsync<O extends LoraForwardOptions = object>(
  operands: LoraForwardOperands,
  options?: O,
): Promise<LoraForwardResult<O>> {
  const call = prepare(operands, options)
  await runForwardAsync(call)
  return finishForward(call) as LoraForwardResult<O>
}

/**
 * Gradients of {@link loraForward}, given that of its y. It returns when the work is done, and may be called more than
 * once for one `saved`.
 *
 * @param saved what loraForward returned; its operands must be as they were
 * @throws LilyError; a refused call has written nothing
 */
export function loraBackward<O extends LoraBackwardOptions = object>(
  operands: LoraBackwardOperands,
  saved: LoraSaved,
  options?: O,
): LoraGradients<O> {
  const call = prepareBackward(operands, saved, options)
  runBackward(call)
  return finishBackward(call)
}

/** {@link loraBackward} off the main thread; see {@link lilyBackwardAsync}. */
export async function loraBackwardAsync<O extends LoraBackwardOptions = object>(
  operands: LoraBackwardOperands,
  saved: LoraSaved,
  options?: O,
): Promise<LoraGradients<O>> {
  const call = prepareBackward(operands, saved, options)
  await runBackwardAsync(call)
  return finishBackward(call)
}

function prepare(operands: LoraForwardOperands, options: LoraForwardOptions = {}): ForwardCall {
  const inputs = readInputs(operands, FORWARD_OPERANDS)
  const settings = readSettings(options, FORWARD_OPTIONS)
  checkPlaces(inputs, settings)
  const problem = loraProblem(inputs, settings)
  return prepareForward(problem, inputs.y, settings)
}

function loraProblem({ x, a, b }: Inputs, { precision, scaling }: Settings): Problem {
  checkActivations(x)
  checkA(a, x.columns)
  checkTypeOrFloat32('a', a, x.dtype)
  if (b.shape.length !== 2 || b.columns !== a.rows || b.rows < 1) {
    fail('ERR_LILY_SHAPE', 'b', `expected [d_out, ${a.rows}] (a has r ${a.rows}), got ${shapeText(b.shape)}`)
  }
  checkType('b', b, a.dtype)
  return new Problem('none', 'probabilities', 'none', precision, scaling, x, a, null, b, b.rows, 1, 1)
}

function prepareBackward(
  operands: LoraBackwardOperands,
  saved: LoraSaved,
  options: LoraBackwardOptions = {},
): BackwardCall {
  const given = readGradients(operands, BACKWARD_OPERANDS)
  const settings = readBackwardSettings(options, BACKWARD_OPTIONS, NEEDS)
  return prepareGradients(readSaved('saved', saved, 'loraForward'), given, settings)
}

function finishBackward<O>({ gradients }: BackwardCall): LoraGradients<O> {
  return tensorsOf(gradients) as LoraGradients<O>
}
