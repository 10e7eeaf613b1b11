/** The last phase of a call: the addon runs it, and its results become tensors. */
import { fail } from '../base/errors.js'
import { bound, settled } from '../binding/errors.js'
import type { WebGpuBinding } from '../binding/devices.js'
import { type DeviceBinding, native } from '../binding/native.js'
import { refuseInCapture } from '../memory/capture.js'
import type { Placement } from '../memory/placement.js'
import type { Tensor } from '../tensor/tensor.js'
import type { BackwardCall, ForwardCall } from './allocate.js'
import { DeferredB } from './deferred-b.js'
import { startBackward, startForward, startLinear } from './host-async.js'
import {
  backward,
  boundMemory,
  describeBackward,
  describeFold,
  describeForward,
  describeLinear,
  type StackSizes,
  forward,
  linear,
} from './launch.js'
import type { LinearCall } from './linear-problem.js'
import type { Output } from './output.js'
import type { GradientName } from './read.js'
import { type Saved, savedOf } from './saved.js'

/** Runs work at once on the host, or enqueues it on a device after the work that it must wait for. */
export function run(placement: Placement | null, work: () => void): void {
  if (placement === null) bound(work)
  else placement.run(work)
}

/** The binding that runs a call. */
export function bindingFor(
  placement: Placement | null,
): Pick<DeviceBinding, 'forward' | 'backward' | 'fold' | 'adamw'> {
  return placement?.binding ?? native
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
  const { placement } = call
  if (placement !== null) {
    refuseInCapture('a promise', 'call lilyForward or loraForward')
    const { binding } = placement
    if (compiles(binding)) await forwardCompiled(call, placement, binding)
    else launchForward(call)
    await placement.completed()
    return forwardResult(call)
  }
  const { promise, operands } = startForward(call)
  await settled(promise)
  operands.finish()
  return forwardResult(call)
}

function launchForward(call: ForwardCall): void {
  describeForward(call)
  try {
    run(call.placement, () => {
      bindingFor(call.placement).forward(forward.numbers, ...forward.memory)
    })
  } finally {
    forward.clear()
  }
}

/** On a GPUDevice the pipelines of a call compile first, off the main thread. */
async function forwardCompiled(call: ForwardCall, placement: Placement, binding: WebGpuBinding): Promise<void> {
  refuseEncoder(placement)
  describeForward(call)
  const numbers = forward.numbers.slice()
  const memory = forward.memory.slice()
  forward.clear()
  await settled(placement.run(() => binding.forwardCompiled(numbers, ...memory)))
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
  const { placement } = call
  if (placement !== null) {
    refuseInCapture('a promise', 'call lilyBackward or loraBackward')
    const { binding } = placement
    if (compiles(binding)) await backwardCompiled(call, placement, binding)
    else launchBackward(call)
    await placement.completed()
    return backwardResult(call)
  }
  const { promise, operands } = startBackward(call)
  await settled(promise)
  operands.finish()
  return backwardResult(call)
}

function launchBackward(call: BackwardCall): void {
  describeBackward(call)
  try {
    run(call.placement, () => {
      bindingFor(call.placement).backward(backward.numbers, ...backward.memory)
    })
  } finally {
    backward.clear()
  }
}

async function backwardCompiled(call: BackwardCall, placement: Placement, binding: WebGpuBinding): Promise<void> {
  refuseEncoder(placement)
  describeBackward(call)
  const numbers = backward.numbers.slice()
  const memory = backward.memory.slice()
  backward.clear()
  await settled(placement.run(() => binding.backwardCompiled(numbers, ...memory)))
}

function compiles(binding: DeviceBinding): binding is WebGpuBinding {
  return 'forwardCompiled' in binding
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

export async function runLinearAsync(call: LinearCall): Promise<void> {
  if (call.placement !== null) {
    refuseInCapture('a promise', 'call linearForward or linearBackward')
    runLinear(call)
    await call.placement.completed()
    return
  }
  const { promise, operands } = startLinear(call)
  await settled(promise)
  operands.finish()
}

export function runLinear(call: LinearCall): void {
  describeLinear(call)
  try {
    run(call.placement, () => {
      native.linear(linear.numbers, ...linear.memory)
    })
  } finally {
    linear.clear()
  }
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
    bindingFor(placement).fold(
      numbers,
      boundMemory(db.operand.memory),
      layers.map(({ memory }) => boundMemory(memory)),
      layers.map(({ weights }) => weights && boundMemory(weights.memory)),
    )
  })
}
