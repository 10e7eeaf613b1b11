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

/**
 * Runs calls of the addon one after the other off the main thread. Before the first one runs, the operands of all are
 * taken, or all are enqueued: what the caller does to the operands meanwhile has the same effect on each.
 *
 * @param synchronous what to call in a capture instead
 * @param take takes the operands of each call on the host
 * @param launch enqueues the calls on a CUDA device
 */
async function runAsync(
  synchronous: string,
  placement: Placement | null,
  take: readonly ((operands: AsyncOperands) => Start)[],
  launch: () => void,
): Promise<void> {
  if (placement === null) {
    const operands = new AsyncOperands()
    const starts = take.map((takeCall) => takeCall(operands))
    for (const start of starts) {
      operands.check()
      await settled(start())
    }
    operands.finish()
  } else {
    refuseInCapture('a promise', `call ${synchronous}`)
    run(placement, launch)
    await placement.completed()
  }
}

/** The operands of the frozen layer below an adapter, which runs first. */
const takeFrozen = (linear: LinearCall | null) =>
  linear === null ? [] : [(operands: AsyncOperands) => takeLinear(linear, operands)]

export function dispatchForward(call: ForwardCall): void {
  if (isOnGpu(call.placement)) forwardOnGpu(call)
  else run(call.placement, () => launchForward(call))
}

export function dispatchForwardAsync(call: ForwardCall): Promise<void> {
  const { linear, placement } = call
  if (isOnGpu(placement)) return forwardOnGpuAsync(call)
  const take = [...takeFrozen(linear), (operands: AsyncOperands) => takeForward(call, operands)]
  return runAsync('lilyForward or loraForward', placement, take, () => launchForward(call))
}

export function dispatchBackward(call: BackwardCall): void {
  if (isOnGpu(call.placement)) backwardOnGpu(call)
  else run(call.placement, () => launchBackward(call))
}

export function dispatchBackwardAsync(call: BackwardCall): Promise<void> {
  const { linear, placement } = call
  if (isOnGpu(placement)) return backwardOnGpuAsync(call)
  const take = [...takeFrozen(linear), (operands: AsyncOperands) => takeBackward(call, operands)]
  return runAsync('lilyBackward or loraBackward', placement, take, () => launchBackward(call))
}

/** Frozen linear layers do not run on a GPUDevice. */
export function runLinear(call: LinearCall): void {
  run(call.placement, () => launchLinear(call))
}

export function runLinearAsync(call: LinearCall): Promise<void> {
  return runAsync('linearForward or linearBackward', call.placement, takeFrozen(call), () => launchLinear(call))
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
