/** A frozen linear layer and its adapter in one call. */
import { checkMatrix } from '../base/checks.js'
import { type Exact, get, type Known } from '../base/options.js'
import { refuseOverlap } from '../memory/checks.js'
import type { Tensor } from '../tensor/tensor.js'
import { resolveIfGiven, type TensorLike } from '../tensor/resolve.js'
import { allocateForward, allocateGradients, type BackwardCall, type ForwardCall } from './allocate.js'
import {
  BACKWARD_NEEDS,
  BACKWARD_OPTIONS,
  type LilyBackwardOperands,
  type LilyBackwardOptions,
  type LilyGradients,
} from './backward.js'
import { checkGradients } from './check.js'
import {
  checkForward,
  FORWARD_OPTIONS,
  type LilyForwardOperands,
  type LilyForwardOptions,
  type LilyForwardResult,
} from './forward.js'
import { allocateLinear, checkLinear } from './linear.js'
import type { LinearCall } from './linear-problem.js'
import {
  checkLoraForward,
  LORA_BACKWARD_OPTIONS,
  LORA_FORWARD_OPTIONS,
  LORA_NEEDS,
  type LoraBackwardOperands,
  type LoraBackwardOptions,
  type LoraForwardOperands,
  type LoraForwardOptions,
  type LoraForwardResult,
  type LoraGradients,
} from './lora.js'
import { type PackedLinear, readWeight } from './packed-linear.js'
import type { Problem, Routing } from './problem.js'
import {
  type ForwardInputs,
  type ForwardSettings,
  GRADIENTS,
  readBackwardInputs,
  readBackwardSettings,
  readForwardInputs,
  readForwardSettings,
} from './read.js'
import { runLinear } from './dispatch.js'
import { runBackward, runBackwardAsync, runForward, runForwardAsync } from './run.js'
import { type LilySaved, type LoraSaved, readSaved, type Saved } from './saved.js'

/** The operands of the frozen layer that forward has besides those of the adapter. */
export interface FrozenForwardOperands {
  /** [d_out, d_in], in the type of x or float32. */
  readonly weight: TensorLike | PackedLinear
  /** [d_out], in the type of weight. */
  readonly bias?: TensorLike | undefined
}

/** The operand of the frozen layer that backward has besides those of the adapter. */
export interface FrozenBackwardOperands {
  /** `[d_out, d_in]`: the weight of forward. */
  readonly weight: TensorLike | PackedLinear
}

/** Operands of {@link lilyLinearForward}. A given y is accumulated in place. */
export interface LilyLinearForwardOperands extends LilyForwardOperands, FrozenForwardOperands {}

/** Operands of {@link lilyLinearBackward}. Given gradients are accumulated in place and returned. */
export interface LilyLinearBackwardOperands extends LilyBackwardOperands, FrozenBackwardOperands {}

/** Operands of {@link loraLinearForward}. A given y is accumulated in place. */
export interface LoraLinearForwardOperands extends LoraForwardOperands, FrozenForwardOperands {}

/** Operands of {@link loraLinearBackward}. Given gradients are accumulated in place and returned. */
export interface LoraLinearBackwardOperands extends LoraBackwardOperands, FrozenBackwardOperands {}

/** What differs between Lily and LoRA. */
interface Adapter {
  readonly operands: Known
  readonly options: Known
  readonly gradients: Known
  readonly backwardOptions: Known
  readonly needs: Known
  readonly of: 'lilyForward' | 'loraForward'
  check(inputs: ForwardInputs, settings: ForwardSettings): Problem
}

const LILY: Adapter = {
  operands: new Set(['x', 'weight', 'bias', 'a', 'router', 'b', 'y']),
  options: FORWARD_OPTIONS,
  gradients: new Set(['dy', 'weight', 'x', 'dx', 'da', 'dRouter', 'db']),
  backwardOptions: BACKWARD_OPTIONS,
  needs: BACKWARD_NEEDS,
  of: 'lilyForward',
  check: checkForward,
}
const LORA: Adapter = {
  operands: new Set(['x', 'weight', 'bias', 'a', 'b', 'y']),
  options: LORA_FORWARD_OPTIONS,
  gradients: new Set(['dy', 'weight', 'x', 'dx', 'da', 'db']),
  backwardOptions: LORA_BACKWARD_OPTIONS,
  needs: LORA_NEEDS,
  of: 'loraForward',
  check: checkLoraForward,
}

/**
 * A frozen linear layer with a Lily adapter: y += x weight^T + bias + s h C (docs/linear.md). The bits are those of
 * {@link linearForward} and then {@link lilyForward}, which adds to its y; a y of 16 bits is rounded by both. All
 * operands are checked before anything is written. `saved` is that of lilyForward.
 *
 * @throws LilyError as linearForward and lilyForward
 * @example
 * const { y, saved } = lilyLinearForward({ x, weight, bias, a, router, b }, { scaling: 2 })
 * const { dx, da, dRouter, db } = lilyLinearBackward({ dy, weight }, saved)
 */
export function lilyLinearForward<O extends Exact<O, LilyForwardOptions> = object>(
  operands: LilyLinearForwardOperands,
  options?: O,
): LilyForwardResult<O> {
  return forward(prepareForward(LILY, operands, options)) as LilyForwardResult<O>
}

/**
 * {@link lilyLinearForward} off the main thread; see {@link lilyForwardAsync} and docs/linear.md#the-layer-and-its-adapter.
 *
 * @throws LilyError (as a rejection) as lilyLinearForward
 * @example
 * const { y, saved } = await lilyLinearForwardAsync({ x, weight, bias, a, router, b }, { scaling: 2 })
 */
export async function lilyLinearForwardAsync<O extends Exact<O, LilyForwardOptions> = object>(
  operands: LilyLinearForwardOperands,
  options?: O,
): Promise<LilyForwardResult<O>> {
  return (await forwardAsync(prepareForward(LILY, operands, options))) as LilyForwardResult<O>
}

/**
 * The gradients of {@link lilyLinearForward} (docs/linear.md): dx += dy weight and the dx of the adapter, and all gradients
 * of the adapter. The bits are those of {@link linearBackward} and then {@link lilyBackward}, which adds to its dx. With
 * `needs.dx: false` the frozen layer has nothing to do. All operands are checked before anything is written.
 *
 * @param saved the result `saved` of lilyLinearForward, whose operands must not have changed
 * @throws LilyError as linearBackward and lilyBackward
 * @example
 * const { dx, da, dRouter, db } = lilyLinearBackward({ dy, weight }, saved)
 */
export function lilyLinearBackward<R extends Routing, O extends Exact<O, LilyBackwardOptions> = object>(
  operands: LilyLinearBackwardOperands,
  saved: LilySaved<R>,
  options?: O,
): LilyGradients<R, O> {
  return backward(prepareBackward(LILY, operands, saved, options)) as LilyGradients<R, O>
}

/**
 * {@link lilyLinearBackward} off the main thread; see {@link lilyBackwardAsync} and docs/linear.md#the-layer-and-its-adapter.
 *
 * @throws LilyError (as a rejection) as lilyLinearBackward
 * @example
 * const { dx, da, dRouter, db } = await lilyLinearBackwardAsync({ dy, weight }, saved)
 */
export async function lilyLinearBackwardAsync<R extends Routing, O extends Exact<O, LilyBackwardOptions> = object>(
  operands: LilyLinearBackwardOperands,
  saved: LilySaved<R>,
  options?: O,
): Promise<LilyGradients<R, O>> {
  return (await backwardAsync(prepareBackward(LILY, operands, saved, options))) as LilyGradients<R, O>
}

/**
 * A frozen linear layer with a LoRA adapter: y += x weight^T + bias + scaling * (x a^T) b^T
 * (docs/linear.md). See {@link lilyLinearForward}.
 *
 * @throws LilyError as linearForward and loraForward
 * @example
 * const { y, saved } = loraLinearForward({ x, weight, bias, a, b }, { scaling: alpha / r })
 */
export function loraLinearForward<O extends Exact<O, LoraForwardOptions> = object>(
  operands: LoraLinearForwardOperands,
  options?: O,
): LoraForwardResult<O> {
  return forward(prepareForward(LORA, operands, options)) as LoraForwardResult<O>
}

/**
 * {@link loraLinearForward} off the main thread; see {@link lilyForwardAsync} and docs/linear.md#the-layer-and-its-adapter.
 *
 * @throws LilyError (as a rejection) as loraLinearForward
 * @example
 * const { y, saved } = await loraLinearForwardAsync({ x, weight, bias, a, b }, { scaling: 2 })
 */
export async function loraLinearForwardAsync<O extends Exact<O, LoraForwardOptions> = object>(
  operands: LoraLinearForwardOperands,
  options?: O,
): Promise<LoraForwardResult<O>> {
  return (await forwardAsync(prepareForward(LORA, operands, options))) as LoraForwardResult<O>
}

/**
 * The gradients of {@link loraLinearForward} (docs/linear.md). See {@link lilyLinearBackward}.
 *
 * @param saved the result `saved` of loraLinearForward, whose operands must not have changed
 * @throws LilyError as linearBackward and loraBackward
 * @example
 * const { dx, da, db } = loraLinearBackward({ dy, weight }, saved)
 */
export function loraLinearBackward<O extends Exact<O, LoraBackwardOptions> = object>(
  operands: LoraLinearBackwardOperands,
  saved: LoraSaved,
  options?: O,
): LoraGradients<O> {
  return backward(prepareBackward(LORA, operands, saved, options)) as LoraGradients<O>
}

/**
 * {@link loraLinearBackward} off the main thread; see {@link lilyBackwardAsync} and docs/linear.md#the-layer-and-its-adapter.
 *
 * @throws LilyError (as a rejection) as loraLinearBackward
 * @example
 * const { dx, da, db } = await loraLinearBackwardAsync({ dy, weight }, saved)
 */
export async function loraLinearBackwardAsync<O extends Exact<O, LoraBackwardOptions> = object>(
  operands: LoraLinearBackwardOperands,
  saved: LoraSaved,
  options?: O,
): Promise<LoraGradients<O>> {
  return (await backwardAsync(prepareBackward(LORA, operands, saved, options))) as LoraGradients<O>
}

/** The calls of both operations. The second one adds to what the first one writes. */
interface Forward {
  readonly linear: LinearCall
  readonly adapter: ForwardCall
}
interface Backward {
  /** Null: dx is not needed. */
  readonly linear: LinearCall | null
  readonly adapter: BackwardCall
}

function forward({ linear, adapter }: Forward): { y: Tensor; saved: Saved | undefined } {
  runLinear(linear)
  return runForward(adapter)
}

function forwardAsync({ linear, adapter }: Forward): Promise<{ y: Tensor; saved: Saved | undefined }> {
  return runForwardAsync(adapter, linear)
}

function backward({ linear, adapter }: Backward): object {
  if (linear !== null) runLinear(linear)
  return runBackward(adapter)
}

function backwardAsync({ linear, adapter }: Backward): Promise<object> {
  return runBackwardAsync(adapter, linear)
}

function prepareForward(adapter: Adapter, operands: FrozenForwardOperands, options: object = {}): Forward {
  const inputs = readForwardInputs(operands, adapter.operands)
  const weight = readWeight(get('operands', operands, 'weight'))
  const frozen = { x: inputs.x, weight, bias: resolveIfGiven('bias', get('operands', operands, 'bias')), y: inputs.y }
  const settings = readForwardSettings(options, adapter.options)
  const problem = adapter.check(inputs, settings)
  checkMatrix('weight', frozen.weight.operand, problem.dOut, problem.dIn)
  checkLinear(frozen, false)
  const linear = allocateLinear(frozen, settings, false)
  return inOrder(linear, allocateForward(problem, linear.y.again(), { ...settings, accumulate: true }))
}

function prepareBackward(
  { of, gradients, backwardOptions, needs }: Adapter,
  operands: FrozenBackwardOperands,
  saved: Saved,
  options: object = {},
): Backward {
  const inputs = readBackwardInputs(operands, gradients)
  const weight = readWeight(get('operands', operands, 'weight'))
  const settings = readBackwardSettings(options, backwardOptions, needs)
  const state = readSaved('saved', saved, of)
  const { problem } = state
  checkGradients(state, inputs, settings)
  checkMatrix('weight', weight.operand, problem.dOut, problem.dIn)
  for (const name of GRADIENTS) {
    const output = inputs[name]?.operand
    if (output !== undefined) refuseOverlap(name, output, 'weight', weight.operand)
  }
  const frozen = { x: inputs.dy, weight, bias: null, y: inputs.dx }
  checkLinear(frozen, true)
  if (!settings.needs.dx) return { linear: null, adapter: allocateGradients(state, inputs, settings) }

  const linear = allocateLinear(frozen, { ...settings, precision: problem.precision }, true, problem.x.shape)
  const adapter = allocateGradients(state, { ...inputs, dx: linear.y.again() }, settings)
  if (adapter.gradients.dx !== null) adapter.gradients.dx.accumulate = true
  return inOrder(linear, adapter)
}

/** The streams of their operands may differ, and the output that both write to may have none. */
function inOrder<Call extends ForwardCall | BackwardCall>(linear: LinearCall, adapter: Call) {
  if (linear.placement !== null) adapter.placement?.use(linear.placement)
  return { linear, adapter }
}
