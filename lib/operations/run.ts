/** The last phase of a call: it runs, and its results become tensors. */
import type { Placement } from '../memory/placement.js'
import type { Tensor } from '../tensor/tensor.js'
import type { BackwardCall, ForwardCall } from './allocate.js'
import { DeferredB } from './deferred-b.js'
import {
  dispatchBackward,
  dispatchBackwardAsync,
  dispatchFold,
  dispatchForward,
  dispatchForwardAsync,
} from './dispatch.js'
import type { StackSizes } from './launch.js'
import type { Output } from './output.js'
import type { GradientName } from './read.js'
import { type Saved, savedOf } from './saved.js'

/** Result of a forward call; `saved` is undefined without the option `save`. */
interface ForwardResult {
  readonly y: Tensor
  readonly saved: Saved | undefined
}

/** The gradients that were computed. */
type BackwardResult = Partial<Record<GradientName, Tensor>>

export function runForward(call: ForwardCall): ForwardResult {
  dispatchForward(call)
  return forwardResult(call)
}

export async function runForwardAsync(call: ForwardCall): Promise<ForwardResult> {
  await dispatchForwardAsync(call)
  return forwardResult(call)
}

function forwardResult({ state, y }: ForwardCall): ForwardResult {
  if (state.kept !== null) return { y: y.tensor, saved: savedOf(state) }
  state.dispose()
  return { y: y.tensor, saved: undefined }
}

export function runBackward(call: BackwardCall): BackwardResult {
  dispatchBackward(call)
  if (!call.retain) call.state.isUsed = true
  return backwardResult(call)
}

export async function runBackwardAsync(call: BackwardCall): Promise<BackwardResult> {
  const { state, retain } = call
  // The next call may come before this one ends.
  if (!retain) state.isUsed = true
  try {
    await dispatchBackwardAsync(call)
  } catch (cause) {
    if (!retain) state.isUsed = false
    throw cause
  }
  return backwardResult(call)
}

function backwardResult({ state, number, gradients }: BackwardCall): BackwardResult {
  const { dx, da, dRouter, db, deferredDb } = gradients
  if (deferredDb !== null) state.defer(new DeferredB(state, deferredDb, number))
  const tensors: BackwardResult = {}
  if (dx !== null) tensors.dx = dx.tensor
  if (da !== null) tensors.da = da.tensor
  if (dRouter !== null) tensors.dRouter = dRouter.tensor
  if (db !== null) tensors.db = db.tensor
  return tensors
}

/** Adds the deferred gradients to db, or overwrites db with their sum. */
export function runFold(
  stack: StackSizes,
  deferred: readonly DeferredB[],
  db: Output,
  placement: Placement | null,
): void {
  const filled = deferred.filter(({ partials }) => partials > 0)
  dispatchFold(stack, filled, db, placement)
}
