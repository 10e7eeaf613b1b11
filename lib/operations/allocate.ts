/**
 * The third phase of a call: its stream, and the memory that the caller has not given. The stream is checked before
 * anything is allocated.
 */
import { allocate } from '../memory/allocate.js'
import { isHostMemory, type OperandMemory } from '../memory/operand-memory.js'
import type { Operand, Part } from '../memory/operand.js'
import { Placement } from '../memory/placement.js'
import { CallState, type Staged } from './call-state.js'
import { allocateLinear, type LinearCall } from './linear-problem.js'
import { Output } from './output.js'
import { aligned, type Problem } from './problem.js'
import type { BackwardInputs, BackwardSettings, ForwardInputs, ForwardSettings, GradientName } from './read.js'

/** A forward call that is ready to run. */
export interface ForwardCall {
  readonly state: CallState
  /** The frozen layer below the adapter, to whose y the call adds. It runs first. Null: there is none. */
  readonly linear: LinearCall | null
  readonly y: Output
  readonly placement: Placement | null
}

/** The gradients that a backward call computes; null: not computed. */
export interface Gradients {
  readonly dx: Output | null
  readonly da: Output | null
  readonly dRouter: Output | null
  readonly db: Output | null
  /** [problem.deferredPartials, r, d_out] */
  readonly deferredDb: OperandMemory | null
}

/** A backward call that is ready to run. */
export interface BackwardCall {
  readonly state: CallState
  /** The number of this call among the backward calls of `state`. */
  readonly number: number
  /** The frozen layer below the adapter, to whose dx the call adds. It runs first. Null: none, or dx is not needed. */
  readonly linear: LinearCall | null
  readonly x: Operand
  readonly dy: Operand
  readonly gradients: Gradients
  /** Whether a later call may use `state`. */
  readonly retain: boolean
  readonly placement: Placement | null
}

export function allocateForward(problem: Problem, inputs: ForwardInputs, settings: ForwardSettings): ForwardCall {
  const { x, weight, bias, y } = inputs
  const placement = Placement.of(x.device, settings.stream, () => [
    ...problem.operands,
    weight?.operand,
    bias,
    y?.operand,
  ])
  const staged = placement === null ? null : stage(problem, placement)
  const kept = settings.save ? allocateKept(problem, placement) : null
  const state = new CallState(problem, staged, kept, weight)
  if (weight !== null) {
    const linear = allocateLinear({ x, weight, bias, y }, settings, placement, false)
    return { state, linear, y: addingTo(linear), placement }
  }
  if (y !== null) {
    y.accumulate = settings.accumulate
    return { state, linear: null, y, placement }
  }
  const shape = x.shape.slice()
  shape[shape.length - 1] = problem.dOut
  return { state, linear: null, y: Output.fresh('y', x.dtype, shape, placement), placement }
}

/** The output of an adapter, which adds to what its frozen layer writes. */
function addingTo({ y }: LinearCall): Output {
  const output = y.again()
  output.accumulate = true
  return output
}

/** Allocates the block of hidden, probabilities and weights, which forward writes and backward reads. */
function allocateKept(problem: Problem, placement: Placement | null): OperandMemory {
  return allocate('saved', 'float32', problem.keptBytes / Float32Array.BYTES_PER_ELEMENT, placement)
}

/**
 * Copies the small operands that are on the host to the device, in one transfer, and allocates the ascending offsets that
 * forward makes of those in device memory. Null if there are neither.
 */
function stage(problem: Problem, placement: Placement): Staged | null {
  const parts = [problem.mask, problem.sequenceOffsets, problem.weights]
  const copies = parts.map((part) => (part !== null && isHostMemory(part.memory) ? part.memory : null))
  const isUnchecked = problem.uncheckedOffsets !== null
  if (!isUnchecked && copies.every((copy) => copy === null)) return null
  let byteLength = 0
  const offsets = copies.map((copy) => {
    const offset = byteLength
    if (copy !== null) byteLength += aligned(copy.byteLength)
    return offset
  })
  const block = new Uint8Array(byteLength)
  for (const [i, copy] of copies.entries()) {
    if (copy !== null) block.set(new Uint8Array(copy.buffer, copy.byteOffset, copy.byteLength), offsets[i])
  }
  const ascending = isUnchecked ? (problem.groups + 1) * Int32Array.BYTES_PER_ELEMENT : 0
  const memory = placement.allocate('options', byteLength + ascending)
  if (byteLength > 0) {
    placement.run(() => {
      placement.binding.upload(placement.device.id, memory.handle, 0, block, placement.stream.cudaStream)
    })
  }
  const staged = (i: number): Part | null => (copies[i] === null ? parts[i] : { memory, byteOffset: offsets[i] })
  const sequenceOffsets = isUnchecked ? { memory, byteOffset: byteLength } : staged(1)
  return { memory, mask: staged(0), sequenceOffsets, weights: staged(2) }
}

export function allocateGradients(state: CallState, inputs: BackwardInputs, settings: BackwardSettings): BackwardCall {
  const { problem } = state
  const { a, router, b } = problem
  const { dy, dx, da, dRouter, db } = inputs
  const x = inputs.x ?? problem.x
  const { needs, deferB, retain, accumulate } = settings
  const placement = Placement.of(x.device, settings.stream, () => [
    ...state.located,
    x,
    dy,
    dx?.operand,
    da?.operand,
    dRouter?.operand,
    db?.operand,
  ])
  const deferred = problem.deferredPartials * problem.rank * problem.dOut
  const frozen = needs.dx && state.weight !== null ? { x: dy, weight: state.weight, bias: null, y: dx } : null
  const { precision } = problem
  const linear = frozen && allocateLinear(frozen, { precision, accumulate }, placement, true, x.shape)
  const gradients = {
    dx: linear !== null ? addingTo(linear) : gradient('dx', dx, needs.dx, accumulate, x, placement),
    da: gradient('da', da, needs.da, accumulate, a, placement),
    dRouter: router === null ? null : gradient('dRouter', dRouter, needs.dRouter, accumulate, router, placement),
    db: gradient('db', db, needs.db && !deferB, accumulate, b, placement),
    deferredDb: deferB ? allocate('deferB', 'float32', deferred, placement) : null,
  }
  return { state, number: state.backwardCalls++, linear, x, dy, gradients, retain, placement }
}

/** The gradient that the caller gives, or a new one of the shape and type of its operand. */
function gradient(
  name: GradientName,
  given: Output | null,
  needed: boolean,
  accumulate: boolean,
  { dtype, shape }: Operand,
  placement: Placement | null,
): Output | null {
  if (given === null) return needed ? Output.fresh(name, dtype, shape, placement) : null
  given.accumulate = accumulate
  return given
}
