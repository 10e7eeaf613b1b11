/** Calls in the form that the binding of a GPUDevice takes. */
import type * as gpuCall from '../binding/gpu-call.js'
import { gpuBufferOf, type Operand, type OperandMemory, type Part } from '../memory/operand.js'
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
    ...{ routing, pool, activation, scaling, tokens, dIn, dOut, rank, experts, groups },
    x: matrixOf(x),
    a: matrixOf(a),
    router: router && matrixOf(router),
    b: matrixOf(b),
    mask: partOf(mask),
    sequenceOffsets: partOf(sequenceOffsets),
    hidden: {
      ...(kept === null ? { buffer: null, byteOffset: 0 } : regionOf(kept, 0)),
      ...{ dtype: problem.hiddenDtype as gpuCall.NumberType, pitch: rank },
    },
    probabilities: kept !== null && problem.keepsProbabilities ? regionOf(kept, problem.probabilitiesOffset) : null,
    weights: partOf(weights),
  }
}

export function gpuForward({ state, y }: ForwardCall): gpuCall.ForwardCall {
  return { ...inputsOf(state, state.problem.x), y: outputOf(y) }
}

export function gpuBackward({ state, x, dy, gradients }: BackwardCall): gpuCall.BackwardCall {
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

export function gpuFold(
  { experts, rank, dOut }: StackSizes,
  deferred: readonly DeferredB[],
  db: Output,
): gpuCall.FoldCall {
  return {
    ...{ experts, rank, dOut },
    db: outputOf(db),
    layers: deferred.map(({ partials, memory, weights }) => ({
      partials,
      matrices: regionOf(memory, 0),
      weights: partOf(weights),
    })),
  }
}
