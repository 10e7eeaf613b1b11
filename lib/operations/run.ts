/** The last phase of a call: the addon runs it, and its results become tensors. */
import { bound, settled } from '../binding/errors.js'
import { native } from '../binding/native.js'
import { refuseInCapture } from '../memory/capture.js'
import type { Placement } from '../memory/placement.js'
import type { Tensor } from '../tensor/tensor.js'
import type { BackwardCall, ForwardCall } from './allocate.js'
import { DeferredB } from './deferred-b.js'
import {
  backward,
  boundMemory,
  describeBackward,
  describeFold,
  describeForward,
  type StackSizes,
  forward,
} from './launch.js'
import type { Output } from './output.js'
import type { GradientName } from './read.js'
import { type Saved, savedOf } from './saved.js'

/** Runs work at once on the host, or enqueues it on a device after the work that it must wait for. */
export function run(placement: Placement | null, work: () => void): void {
  if (placement === null) bound(work)
  else placement.run(work)
}

/** Result of a forward call; `saved` is undefined without the option `save`. */
interface ForwardResult {
  readonly y: Tensor
  readonly saved: Saved | undefined
}

/** The gradients that were computed. */
type BackwardResult = Partial<Record<GradientName, Tensor>>

export function runForward(call: ForwardCall): ForwardResult {
  launchForward(call)
  return forwardResult(call)
}

export async function runForwardAsync(call: ForwardCall): Promise<ForwardResult> {
  if (call.placement !== null) {
    refuseInCapture('a promise', 'call lilyForward or loraForward')
    launchForward(call)
    await settled(call.placement.completed())
    return forwardResult(call)
  }
  describeForward(call)
  const done = bound(() => native.forwardAsync(forward.numbers, ...forward.memory))
  forward.clear()
  await settled(done)
  return forwardResult(call)
}

function launchForward(call: ForwardCall): void {
  describeForward(call)
  try {
    run(call.placement, () => {
      native.forward(forward.numbers, ...forward.memory)
    })
  } finally {
    forward.clear()
  }
}

function forwardResult({ state, y }: ForwardCall): ForwardResult {
  if (state.kept !== null) return { y: y.tensor, saved: savedOf(state) }
  state.dispose()
  return { y: y.tensor, saved: undefined }
}

export function runBackward(call: BackwardCall): BackwardResult {
  launchBackward(call)
  return backwardResult(call)
}

export async function runBackwardAsync(call: BackwardCall): Promise<BackwardResult> {
  if (call.placement !== null) {
    refuseInCapture('a promise', 'call lilyBackward or loraBackward')
    launchBackward(call)
    await settled(call.placement.completed())
    return backwardResult(call)
  }
  describeBackward(call)
  const done = bound(() => native.backwardAsync(backward.numbers, ...backward.memory))
  backward.clear()
  await settled(done)
  return backwardResult(call)
}

function launchBackward(call: BackwardCall): void {
  describeBackward(call)
  try {
    run(call.placement, () => {
      native.backward(backward.numbers, ...backward.memory)
    })
  } finally {
    backward.clear()
  }
}

function backwardResult({ state, gradients }: BackwardCall): BackwardResult {
  const { dx, da, dRouter, db, deferredDb } = gradients
  if (deferredDb !== null) state.deferred.push(new DeferredB(state, deferredDb))
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
  const layers = deferred.filter(({ partials }) => partials > 0)
  const numbers = describeFold(stack, layers, db, placement)
  run(placement, () => {
    native.fold(
      numbers,
      boundMemory(db.operand.memory),
      layers.map(({ memory }) => boundMemory(memory)),
      layers.map(({ weights }) => weights && boundMemory(weights.memory)),
    )
  })
}
