/** The last phase of a call: the addon or the binding of a GPUDevice runs it, and its results become tensors. */
import { fail } from '../base/errors.js'
import type { WebGpuBinding } from '../binding/devices.js'
import { bound, settled } from '../binding/errors.js'
import { refuseInCapture } from '../memory/capture.js'
import type { Placement } from '../memory/placement.js'
import type { Tensor } from '../tensor/tensor.js'
import type { BackwardCall, ForwardCall } from './allocate.js'
import { DeferredB } from './deferred-b.js'
import { gpuBackward, gpuFold, gpuForward } from './gpu-call.js'
import { type Started, startBackward, startForward, startLinear } from './host-async.js'
import { launchBackward, launchFold, launchForward, launchLinear, type StackSizes } from './launch.js'
import type { LinearCall } from './linear-problem.js'
import type { Output } from './output.js'
import type { GradientName } from './read.js'
import { type Saved, savedOf } from './saved.js'

/**
 * Runs work at once on the host, or enqueues it on a device after the work that it must wait for.
 *
 * @param launch calls the addon: on the host and on a CUDA device
 * @param onGpu calls the binding of a GPUDevice
 */
export function run(
  placement: Placement | null,
  launch: () => void,
  onGpu?: (gpu: WebGpuBinding, stream: number) => void,
): void {
  if (placement === null) {
    bound(launch)
    return
  }
  const { gpu, stream } = placement
  placement.run(
    gpu === null || onGpu === undefined
      ? launch
      : () => {
          onGpu(gpu, stream.cudaStream)
        },
  )
}

/**
 * Runs a call off the main thread.
 *
 * @param start starts it on the host
 * @param enqueue enqueues it on a CUDA device
 * @param compile compiles its pipelines on a GPUDevice, and then submits it
 */
async function runAsync(
  placement: Placement | null,
  synchronous: string,
  start: () => Started,
  enqueue: () => void,
  compile?: (gpu: WebGpuBinding) => Promise<void>,
): Promise<void> {
  if (placement === null) {
    const { promise, operands } = start()
    await settled(promise)
    operands.finish()
    return
  }
  refuseInCapture('a promise', `call ${synchronous}`)
  const { gpu } = placement
  if (gpu === null || compile === undefined) {
    enqueue()
  } else {
    refuseEncoder(placement)
    await settled(placement.run(() => compile(gpu)))
  }
  await placement.completed()
}

/** A promise resolves when the work is done, and only the caller knows when the commands of an encoder are submitted. */
function refuseEncoder(placement: Placement): void {
  if (!placement.isEncoded) return
  fail(
    'ERR_LILY_ARGUMENT',
    'encoder',
    'expected none with the Async form, which submits the call; leave one of them out',
  )
}

/** Result of a forward call; `saved` is undefined without the option `save`. */
interface ForwardResult {
  readonly y: Tensor
  readonly saved: Saved | undefined
}

/** The gradients that were computed. */
type BackwardResult = Partial<Record<GradientName, Tensor>>

export function runForward(call: ForwardCall): ForwardResult {
  run(
    call.placement,
    () => {
      launchForward(call)
    },
    (gpu, stream) => {
      gpu.forward(gpuForward(call), stream)
    },
  )
  return forwardResult(call)
}

export async function runForwardAsync(call: ForwardCall): Promise<ForwardResult> {
  const { placement } = call
  await runAsync(
    placement,
    'lilyForward or loraForward',
    () => startForward(call),
    () => {
      run(placement, () => {
        launchForward(call)
      })
    },
    (gpu) => gpu.forwardCompiled(gpuForward(call)),
  )
  return forwardResult(call)
}

function forwardResult({ state, y }: ForwardCall): ForwardResult {
  if (state.kept !== null) return { y: y.tensor, saved: savedOf(state) }
  state.dispose()
  return { y: y.tensor, saved: undefined }
}

export function runBackward(call: BackwardCall): BackwardResult {
  run(
    call.placement,
    () => {
      launchBackward(call)
    },
    (gpu, stream) => {
      gpu.backward(gpuBackward(call), stream)
    },
  )
  return backwardResult(call)
}

export async function runBackwardAsync(call: BackwardCall): Promise<BackwardResult> {
  const { placement } = call
  await runAsync(
    placement,
    'lilyBackward or loraBackward',
    () => startBackward(call),
    () => {
      run(placement, () => {
        launchBackward(call)
      })
    },
    (gpu) => gpu.backwardCompiled(gpuBackward(call)),
  )
  return backwardResult(call)
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

export function runLinear(call: LinearCall): void {
  run(call.placement, () => {
    launchLinear(call)
  })
}

export async function runLinearAsync(call: LinearCall): Promise<void> {
  await runAsync(
    call.placement,
    'linearForward or linearBackward',
    () => startLinear(call),
    () => {
      runLinear(call)
    },
  )
}

/** Adds the deferred gradients to db, or overwrites db with their sum. */
export function runFold(
  stack: StackSizes,
  deferred: readonly DeferredB[],
  db: Output,
  placement: Placement | null,
): void {
  const layers = deferred.filter(({ partials }) => partials > 0)
  run(
    placement,
    () => {
      launchFold(stack, layers, db, placement)
    },
    (gpu, stream) => {
      gpu.fold(gpuFold(stack, layers, db), stream)
    },
  )
}
