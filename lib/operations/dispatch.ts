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

/**
 * Runs a call of the addon off the main thread.
 *
 * @param start starts it on the host
 * @param enqueue enqueues it on a CUDA device
 */
async function runAsync(
  placement: Placement | null,
  synchronous: string,
  start: () => Started,
  enqueue: () => void,
): Promise<void> {
  if (placement === null) {
    const { promise, operands } = start()
    await settled(promise)
    operands.finish()
  } else {
    refuseInCapture('a promise', `call ${synchronous}`)
    enqueue()
    await placement.completed()
  }
}

export function dispatchForward(call: ForwardCall): void {
  const { placement } = call
  if (isOnGpu(placement)) {
    forwardOnGpu(call)
    return
  }
  run(placement, () => {
    launchForward(call)
  })
}

export async function dispatchForwardAsync(call: ForwardCall): Promise<void> {
  const { placement } = call
  if (isOnGpu(placement)) {
    await forwardOnGpuAsync(call)
    return
  }
  const start = () => startForward(call)
  await runAsync(placement, 'lilyForward or loraForward', start, () => {
    dispatchForward(call)
  })
}

export function dispatchBackward(call: BackwardCall): void {
  const { placement } = call
  if (isOnGpu(placement)) {
    backwardOnGpu(call)
    return
  }
  run(placement, () => {
    launchBackward(call)
  })
}

export async function dispatchBackwardAsync(call: BackwardCall): Promise<void> {
  const { placement } = call
  if (isOnGpu(placement)) {
    await backwardOnGpuAsync(call)
    return
  }
  const start = () => startBackward(call)
  await runAsync(placement, 'lilyBackward or loraBackward', start, () => {
    dispatchBackward(call)
  })
}

/** Frozen linear layers do not run on a GPUDevice. */
export function runLinear(call: LinearCall): void {
  run(call.placement, () => {
    launchLinear(call)
  })
}

export async function runLinearAsync(call: LinearCall): Promise<void> {
  const start = () => startLinear(call)
  await runAsync(call.placement, 'linearForward or linearBackward', start, () => {
    runLinear(call)
  })
}

export function dispatchFold(
  stack: StackSizes,
  deferred: readonly DeferredB[],
  db: Output,
  placement: Placement | null,
): void {
  if (isOnGpu(placement)) {
    foldOnGpu(stack, deferred, db, placement)
    return
  }
  run(placement, () => {
    launchFold(stack, deferred, db, placement)
  })
}
