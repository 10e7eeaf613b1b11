/** Runs calls where their operands are: in the addon, on the host or on a CUDA device, or on a GPUDevice. */
import { bound, settled } from '../binding/errors.js'
import { refuseInCapture } from '../memory/capture.js'
import type { Placement } from '../memory/placement.js'
import type { BackwardCall, ForwardCall } from './allocate.js'
import type { DeferredB } from './deferred-b.js'
import { backwardOnGpu, backwardOnGpuAsync, foldOnGpu, forwardOnGpu, forwardOnGpuAsync, isOnGpu } from './gpu.js'
import { type Started, startBackward, startForward, startLinear } from './host-async.js'
import { launchBackward, launchFold, launchForward, launchLinear, type StackSizes } from './launch.js'
import type { LinearCall } from './linear-problem.js'
import type { Output } from './output.js'

/** Runs work of the addon at once on the host, or enqueues it on a CUDA device after the work that it must wait for. */
export function run(placement: Placement | null, work: () => void): void {
  if (placement === null) bound(work)
  else placement.run(work)
}

/** A call with operands in one place. */
interface Placed {
  readonly placement: Placement | null
}

/** Runs a call of the addon off the main thread: `start` starts it on the host, `launch` enqueues it on a CUDA device. */
async function runAsync<Call extends Placed>(
  call: Call,
  synchronous: string,
  start: (call: Call) => Started,
  launch: (call: Call) => void,
): Promise<void> {
  const { placement } = call
  if (placement === null) {
    const { promise, operands } = start(call)
    await settled(promise)
    operands.finish()
  } else {
    refuseInCapture('a promise', `call ${synchronous}`)
    run(placement, () => {
      launch(call)
    })
    await placement.completed()
  }
}

export function dispatchForward(call: ForwardCall): void {
  if (isOnGpu(call.placement)) forwardOnGpu(call)
  else run(call.placement, () => launchForward(call))
}

export function dispatchForwardAsync(call: ForwardCall): Promise<void> {
  if (isOnGpu(call.placement)) return forwardOnGpuAsync(call)
  return runAsync(call, 'lilyForward or loraForward', startForward, launchForward)
}

export function dispatchBackward(call: BackwardCall): void {
  if (isOnGpu(call.placement)) backwardOnGpu(call)
  else run(call.placement, () => launchBackward(call))
}

export function dispatchBackwardAsync(call: BackwardCall): Promise<void> {
  if (isOnGpu(call.placement)) return backwardOnGpuAsync(call)
  return runAsync(call, 'lilyBackward or loraBackward', startBackward, launchBackward)
}

/** Frozen linear layers do not run on a GPUDevice. */
export function runLinear(call: LinearCall): void {
  run(call.placement, () => launchLinear(call))
}

export function runLinearAsync(call: LinearCall): Promise<void> {
  return runAsync(call, 'linearForward or linearBackward', startLinear, launchLinear)
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
