/** Prepares the calls of operations: a struct of the C ABI for each, from the descriptor and the operands. */
import { backwardSlots, forwardSlots, linearSlots } from '../descriptor.js'
import type { Memory } from '../native.js'
import * as abi from './abi.js'
import { bindingError } from './errors.js'
import type { Entry, Module } from './module.js'
import { elementBytes, type Operands } from './operands.js'
import { CallReader, FLOAT32, FLOAT32_BYTES, LinearReader, type Problem } from './reader.js'

const { routing } = abi

/** A call that is ready to run, but for its workspace. */
export interface Prepared {
  readonly entry: Entry
  /** The address of its struct. */
  readonly call: number
  /** Null: it needs none. */
  readonly workspace: WorkspaceField | null
}

/** The bytes of a workspace that a call needs, and where in its struct the address and the number of bytes stand. */
interface WorkspaceField {
  readonly bytes: number
  readonly addressAt: number
  readonly bytesAt: number
}

export function workspaceOf(
  struct: { workspace: number; workspaceBytes: number },
  call: number,
  bytes: number,
): WorkspaceField {
  return { bytes, addressAt: call + struct.workspace, bytesAt: call + struct.workspaceBytes }
}

/** Asks the C ABI for a number of bytes. */
export function query(module: Module, entry: Entry, address: number): number {
  module.check(module.call(entry, address, module.scratch))
  return module.view.getUint32(module.scratch, true)
}

export function prepareForward(operands: Operands, numbers: Float64Array, memory: Memory[]): Prepared {
  const reader = new CallReader(operands, numbers, memory, forwardSlots)
  const { problem } = reader
  const struct = abi.forwardStruct
  const call = operands.struct(struct.bytes)
  reader.writeProblem(call + struct.problem)
  const bytes = query(operands.module, 'forwardWorkspace', call + struct.problem)
  reader.tokens(call + struct.tokens)
  const { tokens, dIn, dOut, rank, experts, groups } = problem
  reader.activations(call + struct.x, 'x', tokens, dIn, 'read')
  reader.parameter(call + struct.a, 'a', rank, dIn)
  if (hasRouter(problem)) reader.parameter(call + struct.router, 'router', experts, rank)
  if (problem.routing === routing.none) reader.parameter(call + struct.b, 'b', dOut, rank)
  else reader.parameter(call + struct.b, 'b', experts * rank, dOut)
  reader.activations(call + struct.y, 'y', tokens, dOut, 'output')
  reader.arrayIfGiven(call + struct.hidden, 'hidden', tokens * rank, hiddenBytes(problem), 'write')
  reader.arrayIfGiven(call + struct.probabilities, 'probabilities', tokens * experts, FLOAT32_BYTES, 'write')
  if (problem.routing === routing.fixed) {
    reader.array(call + struct.weights, 'weights', groups * experts, FLOAT32_BYTES, 'read')
  } else if (hasWeights(problem)) {
    reader.arrayIfGiven(call + struct.weights, 'weights', groups * experts, FLOAT32_BYTES, 'write')
  }
  return { entry: 'forward', call, workspace: workspaceOf(struct, call, bytes) }
}

export function prepareBackward(operands: Operands, numbers: Float64Array, memory: Memory[]): Prepared {
  const reader = new CallReader(operands, numbers, memory, backwardSlots)
  const { problem } = reader
  const struct = abi.backwardStruct
  const call = operands.struct(struct.bytes)
  reader.writeProblem(call + struct.problem)
  const bytes = query(operands.module, 'backwardWorkspace', call + struct.problem)
  reader.tokens(call + struct.tokens)
  const { tokens, dIn, dOut, rank, experts, groups } = problem
  const lora = problem.routing === routing.none
  const [bRows, bColumns] = lora ? [dOut, rank] : [experts * rank, dOut]
  reader.activations(call + struct.dy, 'dy', tokens, dOut, 'read')
  reader.activations(call + struct.x, 'x', tokens, dIn, 'read')
  reader.parameter(call + struct.a, 'a', rank, dIn)
  reader.parameter(call + struct.b, 'b', bRows, bColumns)
  reader.array(call + struct.hidden, 'hidden', tokens * rank, hiddenBytes(problem), 'read')
  reader.activationsIfGiven(call + struct.dx, 'dx', tokens, dIn)
  reader.gradientIfGiven(call + struct.da, 'da', rank, dIn)
  if (hasRouter(problem)) {
    reader.parameter(call + struct.router, 'router', experts, rank)
    reader.gradientIfGiven(call + struct.dRouter, 'dRouter', experts, rank)
  }
  if (keepsProbabilities(problem)) {
    reader.array(call + struct.probabilities, 'probabilities', tokens * experts, FLOAT32_BYTES, 'read')
  }
  if (hasWeights(problem)) reader.array(call + struct.weights, 'weights', groups * experts, FLOAT32_BYTES, 'read')
  if (reader.has('deferredDb')) {
    if (lora || reader.has('db')) {
      throw bindingError('ERR_LILY_ARGUMENT', 'deferredDb is for Lily, and without db')
    }
    const partials = problem.routing === routing.token ? experts : Math.min(groups, experts)
    reader.array(call + struct.deferredDb, 'deferredDb', partials * rank * dOut, FLOAT32_BYTES, 'write')
  } else {
    reader.gradientIfGiven(call + struct.db, 'db', bRows, bColumns)
  }
  return { entry: 'backward', call, workspace: workspaceOf(struct, call, bytes) }
}

/** The problem and the weight of a call of a frozen linear layer. */
export function prepareWeight(operands: Operands, numbers: Float64Array, memory: Memory[], access: 'none' | 'read') {
  const reader = new LinearReader(operands, numbers, memory)
  const struct = abi.linearStruct
  const call = operands.struct(struct.bytes)
  reader.writeProblem(call + struct.problem)
  const { dIn, dOut, parameterDtype } = reader.problem
  const bytes = query(operands.module, 'linearWorkspace', call + struct.problem)
  reader.matrix(call + struct.weight, 'weight', dOut, dIn, access, parameterDtype)
  return { reader, call, bytes }
}

export function prepareLinear(operands: Operands, numbers: Float64Array, memory: Memory[]): Prepared {
  // A call with a packed weight does not read the other one.
  const access = memory[linearSlots.packed] == null ? 'read' : 'none'
  const { reader, call, bytes } = prepareWeight(operands, numbers, memory, access)
  const struct = abi.linearStruct
  const { tokens, dIn, dOut, transposed, activationDtype, parameterDtype } = reader.problem
  const [depth, columns] = transposed ? [dOut, dIn] : [dIn, dOut]
  if (reader.has('packed')) {
    const packedBytes = query(operands.module, 'linearPackedBytes', call + struct.problem)
    reader.packed(call + struct.packed, packedBytes, 'read')
  }
  reader.matrix(call + struct.x, 'x', tokens, depth, 'read', activationDtype)
  if (reader.has('bias')) {
    if (transposed) throw bindingError('ERR_LILY_ARGUMENT', 'bias is for the forward direction')
    reader.matrix(call + struct.bias, 'bias', 1, dOut, 'read', parameterDtype)
  }
  reader.matrix(call + struct.y, 'y', tokens, columns, 'output', activationDtype)
  return { entry: 'linear', call, workspace: workspaceOf(struct, call, bytes) }
}

// As in native/core/problem.cc.

function hasRouter({ routing: kind }: Problem): boolean {
  return kind === routing.batch || kind === routing.sequence || kind === routing.token
}

function hasWeights({ routing: kind }: Problem): boolean {
  return kind !== routing.token && kind !== routing.none
}

function keepsProbabilities({ routing: kind, pool }: Problem): boolean {
  if (kind === routing.token) return true
  return (kind === routing.batch || kind === routing.sequence) && pool === abi.pool.probabilities
}

function hiddenBytes({ activationDtype, parameterDtype, precision }: Problem): number {
  const isFloat32 = parameterDtype === FLOAT32 && precision === abi.precision.high
  return isFloat32 ? FLOAT32_BYTES : elementBytes(activationDtype)
}
