/** Runs calls where their operands are: in the addon, on the host or on a CUDA device, or on a GPUDevice. */
import { bound, settled } from '../binding/errors.js'
import { refuseInCapture } from '../memory/capture.js'
import type { Placement } from '../memory/placement.js'
import type { BackwardCall, ForwardCall } from './allocate.js'
import { AsyncOperands } from './async-operands.js'
import type { DeferredB } from './deferred-b.js'
import { backwardOnGpu, backwardOnGpuAsync, foldOnGpu, forwardOnGpu, forwardOnGpuAsync, isOnGpu } from './gpu.js'
import { type Start, takeBackward, takeForward, takeLinear } from './host-async.js'
import { launchBackward, launchFold, launchForward, launchLinear, type StackSizes } from './launch.js'
import type { LinearCall } from './linear-problem.js'
import type { Output } from './output.js'

/** Runs work of the addon at once on the host, or enqueues it on a CUDA device after the work that it must wait for. */
export function run(placement: Placement | null, work: () => void): void {
  if (placement === null) bound(work)
  else placement.run(work)
}

/** A call of the addon that runs off the main thread. */
interface AsyncCall {
  readonly placement: Placement | null
  /** Takes the operands on the host. */
  take(operands: AsyncOperands): Start
  /** Enqueues the call on a CUDA device. */
  launch(): void
}

/**
 * Runs calls of the addon one after the other off the main thread. Before the first one runs, the operands of all are
 * taken, or all are enqueued: what the caller does to the operands meanwhile has the same effect on each.
 *
 * @param synchronous what to call in a capture instead
 */
async function runAsync(synchronous: string, calls: readonly AsyncCall[]): Promise<void> {
  const placement = calls[calls.length - 1].placement
  if (placement === null) {
    const operands = new AsyncOperands()
    const starts = calls.map((call) => call.take(operands))
    for (const start of starts) {
      operands.check()
      await settled(start())
    }
    operands.finish()
  } else {
    refuseInCapture('a promise', `call ${synchronous}`)
    for (const call of calls) {
      run(call.placement, () => {
        call.launch()
      })
    }
    await placement.completed()
  }
}

function asyncCall<Call extends { readonly placement: Placement | null }>(
  call: Call,
  take: (call: Call, operands: AsyncOperands) => Start,
  launch: (call: Call) => void,
): AsyncCall {
  return {
    placement: call.placement,
    take: (operands) => take(call, operands),
    launch: () => {
      launch(call)
    },
  }
}

const asyncLinear = (call: LinearCall): AsyncCall => asyncCall(call, takeLinear, launchLinear)

export function dispatchForward(call: ForwardCall): void {
  if (isOnGpu(call.placement)) forwardOnGpu(call)
  else run(call.placement, () => launchForward(call))
}

/** @param linear the frozen layer below the adapter, to whose y the call adds */
export function dispatchForwardAsync(call: ForwardCall, linear: LinearCall | null = null): Promise<void> {
  if (isOnGpu(call.placement)) return forwardOnGpuAsync(call)
  const adapter = asyncCall(call, takeForward, launchForward)
  if (linear === null) return runAsync('lilyForward or loraForward', [adapter])
  return runAsync('lilyLinearForward or loraLinearForward', [asyncLinear(linear), adapter])
}

export function dispatchBackward(call: BackwardCall): void {
  if (isOnGpu(call.placement)) backwardOnGpu(call)
  else run(call.placement, () => launchBackward(call))
}

/** @param linear the frozen layer below the adapter, to whose dx the call adds */
export function dispatchBackwardAsync(call: BackwardCall, linear: LinearCall | null = null): Promise<void> {
  if (isOnGpu(call.placement)) return backwardOnGpuAsync(call)
  const adapter = asyncCall(call, takeBackward, launchBackward)
  if (linear === null) return runAsync('lilyBackward or loraBackward', [adapter])
  return runAsync('lilyLinearBackward or loraLinearBackward', [asyncLinear(linear), adapter])
}

/** Frozen linear layers do not run on a GPUDevice. */
export function runLinear(call: LinearCall): void {
  run(call.placement, () => launchLinear(call))
}

export function runLinearAsync(call: LinearCall): Promise<void> {
  return runAsync('linearForward or linearBackward', [asyncLinear(call)])
}

export function dispatchFold(
  stack: StackSizes,
  deferred: readonly DeferredB[],
  db: Output,
  placement: Placement | null,
): void {
  if (isOnGpu(placement)) foldOnGpu(stack, deferred, db, placement)
  else run(placement, () => launchFold(stack, deferred, db, placement))
}
