/** Runs calls on a GPUDevice, whose binding takes them as objects. */
import { fail } from '../base/errors.js'
import type { WebGpuBinding } from '../binding/devices.js'
import { settled } from '../binding/errors.js'
import type * as gpuCall from '../binding/gpu-call.js'
import { gpuBufferOf, type OperandMemory } from '../memory/operand-memory.js'
import type { Operand, Part } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import { reported } from '../memory/reports.js'
import type { BackwardCall, ForwardCall } from './allocate.js'
import type { CallState } from './call-state.js'
import type { DeferredB } from './deferred-b.js'
import type { StackSizes } from './launch.js'
import type { Output } from './output.js'

/** All operands of a call on a GPUDevice are in its buffers, and of the types of its kernels. */
export function regionOf(memory: OperandMemory, byteOffset: number): gpuCall.Region {
  return { buffer: gpuBufferOf(memory) as GPUBuffer, byteOffset }
}

export function matrixOf(operand: Operand): gpuCall.Matrix {
  const { memory, byteOffset, dtype, pitch } = operand
  return { ...regionOf(memory, byteOffset), dtype: dtype as gpuCall.NumberType, pitch }
}

function partOf(part: Part | null): gpuCall.Region | null {
  return part && regionOf(part.memory, part.byteOffset)
}

function outputOf({ operand, accumulate }: Output): gpuCall.Output {
  return { ...matrixOf(operand), accumulate }
}

/** What forward and backward have in common. */
function inputsOf({ problem, kept, mask, sequenceOffsets, weights }: CallState, x: Operand) {
  const { routing, pool, activation, scaling, tokens, dIn, dOut, rank, experts, groups, a, router, b } = problem
  return {
    routing,
    pool,
    activation,
    scaling,
    tokens,
    dIn,
    dOut,
    rank,
    experts,
    groups,
    x: matrixOf(x),
    a: matrixOf(a),
    router: router && matrixOf(router),
    b: matrixOf(b),
    mask: partOf(mask),
    sequenceOffsets: partOf(sequenceOffsets),
    hidden: {
      ...(kept === null ? { buffer: null, byteOffset: 0 } : regionOf(kept, 0)),
      dtype: problem.hiddenDtype as gpuCall.NumberType,
      pitch: rank,
    },
    probabilities: kept !== null && problem.keepsProbabilities ? regionOf(kept, problem.probabilitiesOffset) : null,
    weights: partOf(weights),
  }
}

/** Whether a call runs on a GPUDevice. */
export function isOnGpu(placement: Placement | null): placement is GpuPlacement {
  return placement !== null && placement.gpu !== null
}

/** The placement of a call on a GPUDevice. */
export type GpuPlacement = Placement & { readonly gpu: WebGpuBinding }

/** Runs work in the queue of a GPUDevice, or encodes it into an encoder of the caller. */
export function runOnGpu(
  placement: Placement | null,
  work: (gpu: WebGpuBinding, encoder: GPUCommandEncoder | null) => void,
): void {
  const onGpu = placement as GpuPlacement
  onGpu.run(() => {
    work(onGpu.gpu, onGpu.stream.encoder)
  })
}

/** Runs a call whose pipelines compile first, off the main thread. */
async function runCompiled(placement: Placement | null, call: (gpu: WebGpuBinding) => Promise<void>): Promise<void> {
  const onGpu = placement as GpuPlacement
  // A promise resolves when the work is done, and only the caller knows when the commands of an encoder are submitted.
  if (onGpu.isEncoded) {
    fail(
      'ERR_LILY_ARGUMENT',
      'encoder',
      'expected none with the Async form, which submits the call; leave one of them out',
    )
  }
  const { gpu } = onGpu
  await settled(onGpu.run(() => call(gpu)))
  // Of this binding, which says that it is disposed of: the device is not registered then.
  await settled(gpu.streamWait(onGpu.device.id, onGpu.stream.cudaStream))
  await reported(onGpu.device)
}

function forwardCall({ state, y }: ForwardCall): gpuCall.ForwardCall {
  return {
    ...inputsOf(state, state.problem.x),
    uncheckedOffsets: partOf(state.problem.uncheckedOffsets),
    y: outputOf(y),
  }
}

export function forwardOnGpu(call: ForwardCall): void {
  runOnGpu(call.placement, (gpu, encoder) => {
    gpu.forward(forwardCall(call), encoder)
  })
}

export async function forwardOnGpuAsync(call: ForwardCall): Promise<void> {
  await runCompiled(call.placement, (gpu) => gpu.forwardCompiled(forwardCall(call)))
}

function backwardCall({ state, x, dy, gradients }: BackwardCall): gpuCall.BackwardCall {
  const { dx, da, dRouter, db, deferredDb } = gradients
  const { hidden, ...inputs } = inputsOf(state, x)
  return {
    ...inputs,
    hidden: hidden as gpuCall.Matrix,
    dy: matrixOf(dy),
    dx: dx && outputOf(dx),
    da: da && outputOf(da),
    dRouter: dRouter && outputOf(dRouter),
    db: db && outputOf(db),
    deferredDb: deferredDb !== null && state.problem.deferredPartials > 0 ? regionOf(deferredDb, 0) : null,
  }
}

export function backwardOnGpu(call: BackwardCall): void {
  runOnGpu(call.placement, (gpu, encoder) => {
    gpu.backward(backwardCall(call), encoder)
  })
}

export async function backwardOnGpuAsync(call: BackwardCall): Promise<void> {
  await runCompiled(call.placement, (gpu) => gpu.backwardCompiled(backwardCall(call)))
}

export function foldOnGpu(
  { experts, rank, dOut }: StackSizes,
  deferred: readonly DeferredB[],
  db: Output,
  placement: Placement | null,
): void {
  const layers = deferred.map(({ partials, memory, weights }) => ({
    partials,
    matrices: regionOf(memory, 0),
    weights: partOf(weights),
  }))
  runOnGpu(placement, (gpu, encoder) => {
    gpu.fold({ experts, rank, dOut, db: outputOf(db), layers }, encoder)
  })
}
