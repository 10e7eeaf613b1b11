/** Runs calls where their operands are: in the addon, on the host or on a CUDA device, or on a GPUDevice. */
import { fail } from '../base/errors.js'
import type { WebGpuBinding } from '../binding/devices.js'
import { fromBinding, settled } from '../binding/errors.js'
import type { GpuWork } from '../binding/gpu-call.js'
import { refuseInCapture } from '../memory/capture.js'
import type { Placement } from '../memory/placement.js'
import { reported } from '../memory/reports.js'
import { type Call, launch, reserve } from './call.js'
import type { Draw } from './dropout.js'

/** Calls of one operation, one after the other, on one device. */
export interface Work {
  readonly calls: readonly Call[]
  readonly placement: Placement | null
  /** The draw of dropout; undefined: none, or a call makes it. */
  readonly draw?: Draw | undefined
  /** The same on a GPUDevice, unless the operation does not run there. */
  readonly gpu?: () => readonly GpuWork[]
}

/**
 * What runs work off the main thread on the host. The root of the package sets it; a page that imports lily-kernels/webgpu
 * alone leaves it out, and has no binding for such work.
 */
export const host: { runOnThread(work: Work): Promise<void> | void } = { runOnThread: run }

/** Runs work at once on the host, or enqueues it on a device after the work that it must wait for. */
export function run(work: Work): void {
  const { placement } = work
  if (placement !== null && placement.gpu === null) {
    placement.run(() => {
      launchAll(work)
    })
  } else if (placement !== null) {
    onGpu(placement, work, (binding, encoded) => binding.run(encoded, placement.stream.encoder))
  } else {
    try {
      launchAll(work)
    } catch (cause) {
      throw fromBinding(cause)
    }
  }
}

function launchAll({ calls, draw }: Work): void {
  draw?.take()
  // A call without memory for its workspace must fail before another one has written. Calls of one kind have one size.
  for (const call of calls) if (call.kind !== calls[0].kind) reserve(call)
  for (const call of calls) launch(call)
  draw?.advance()
}

function onGpu<T>(
  placement: Placement,
  { draw, gpu }: Work,
  run: (binding: WebGpuBinding, work: readonly GpuWork[]) => T,
): T {
  return placement.run(() => {
    draw?.take()
    // Plans the work, which may exceed the limits of the device.
    const result = run(placement.gpu as WebGpuBinding, (gpu as () => readonly GpuWork[])())
    draw?.advance()
    return result
  })
}

/**
 * Runs work off the main thread. Before the first call runs, the operands of all are taken, or all are enqueued: what the
 * caller does to the operands meanwhile has the same effect on each.
 *
 * @param synchronous what to call in a capture instead
 */
export async function runAsync(synchronous: string, work: Work): Promise<void> {
  const { placement } = work
  if (placement === null) {
    await host.runOnThread(work)
    return
  }
  if (placement.gpu === null) {
    refuseInCapture('a promise', `call ${synchronous}`)
    run(work)
    await placement.completed()
    return
  }
  // A promise resolves when the work is done, and only the caller knows when the commands of an encoder are submitted.
  if (placement.isEncoded) {
    fail(
      'ERR_LILY_ARGUMENT',
      'encoder',
      'expected none with the Async form, which submits the call; leave one of them out',
    )
  }
  const { gpu: binding, device, stream } = placement
  await settled(onGpu(placement, work, (_, encoded) => binding.runAsync(encoded)))
  // The wait of this binding, which rejects if the binding is disposed of: the device is not registered then.
  await settled(binding.streamWait(device.id, stream.cudaStream))
  await reported(device)
}
