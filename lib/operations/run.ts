/** The last phase of a call: it runs, and its results become tensors. */
import type { Tensor } from '../tensor/tensor.js'
import type { BackwardCall, ForwardCall } from './allocate.js'
import { DeferredB } from './deferred-b.js'
import { run, runAsync } from './dispatch.js'
import { type GradientName, GRADIENTS } from './read.js'
import { type Saved, savedOf } from './saved.js'

/** Result of a forward call; `saved` is undefined without the option `save`. */
interface ForwardResult {
  readonly y: Tensor
  readonly saved: Saved | undefined
}

/** The gradients that were computed. */
type BackwardResult = Partial<Record<GradientName, Tensor>>

export function runForward(call: ForwardCall): ForwardResult {
  run(call.work)
  return forwardResult(call)
}

export async function runForwardAsync(call: ForwardCall): Promise<ForwardResult> {
  await runAsync('lilyForward or loraForward', call.work)
  return forwardResult(call)
}

function forwardResult({ state, y }: ForwardCall): ForwardResult {
  if (state.kept !== null) return { y: y.tensor, saved: savedOf(state) }
  state.staged?.memory.release()
  return { y: y.tensor, saved: undefined }
}

export function runBackward(call: BackwardCall): BackwardResult {
  run(call.work)
  if (!call.retain) call.state.isUsed = true
  return backwardResult(call)
}

export async function runBackwardAsync(call: BackwardCall): Promise<BackwardResult> {
  const { state, retain, work } = call
  // The next call may come before this one ends.
  if (!retain) state.isUsed = true
  try {
    await runAsync('lilyBackward or loraBackward', work)
  } catch (cause) {
    if (!retain) state.isUsed = false
    throw cause
  }
  return backwardResult(call)
}

function backwardResult({ state, number, gradients, deferredDb }: BackwardCall): BackwardResult {
  if (deferredDb !== null) state.defer(new DeferredB(state, deferredDb, number))
  const tensors: BackwardResult = {}
  for (const name of GRADIENTS) {
    const gradient = gradients[name]
    if (gradient !== null) tensors[name] = gradient.tensor
  }
  return tensors
}
