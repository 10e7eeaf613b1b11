/** The last phase of a call: it runs, and its results become tensors. */
import type { Tensor } from '../tensor/tensor.js'
import type { BackwardCall, ForwardCall } from './allocate.js'
import type { CallState } from './call-state.js'
import { DeferredB } from './deferred-b.js'
import { run, runAsync } from './dispatch.js'
import { type GradientName, GRADIENTS } from './read.js'
import type { RowsBackwardCall } from './rows.js'
import type { RowsState } from './rows-state.js'
import { type RowsSaved, type Saved, savedOf } from './saved.js'

/** What forward calls of one adapter, or of several, keep. */
type State = CallState | RowsState

/** Result of a forward call; `saved` is undefined without the option `save`. */
interface ForwardResult<S extends State> {
  readonly y: Tensor
  readonly saved: (S extends RowsState ? RowsSaved : Saved) | undefined
}

/** The gradients that were computed. */
type BackwardResult = Partial<Record<GradientName, Tensor>>

export function runForward<S extends State>(call: ForwardCall<S>): ForwardResult<S> {
  run(call.work)
  return forwardResult(call)
}

export async function runForwardAsync<S extends State>(call: ForwardCall<S>): Promise<ForwardResult<S>> {
  await runAsync('lilyForward or loraForward', call.work)
  return forwardResult(call)
}

function forwardResult<S extends State>({ state, y }: ForwardCall<S>): ForwardResult<S> {
  if (state.kept !== null) return { y: y.tensor, saved: savedOf(state) as ForwardResult<S>['saved'] }
  state.dispose()
  return { y: y.tensor, saved: undefined }
}

export function runBackward(call: BackwardCall | RowsBackwardCall): BackwardResult {
  run(call.work)
  if (!call.retain) call.state.isUsed = true
  return backwardResult(call)
}

export async function runBackwardAsync(call: BackwardCall | RowsBackwardCall): Promise<BackwardResult> {
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

function backwardResult(call: BackwardCall | RowsBackwardCall): BackwardResult {
  if ('deferredDb' in call && call.deferredDb !== null) {
    call.state.defer(new DeferredB(call.state, call.deferredDb, call.number))
  }
  const { gradients } = call
  const tensors: BackwardResult = {}
  for (const name of GRADIENTS) {
    const gradient = gradients[name]
    if (gradient !== null) tensors[name] = gradient.tensor
  }
  return tensors
}
