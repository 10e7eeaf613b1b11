/**
 * The third phase of a call: its stream, and the memory that the caller has not given. The stream is checked before
 * anything is allocated.
 */
import type { HostData } from '../base/dtype.js'
import { allocate } from '../memory/allocate.js'
import type { DeviceMemory } from '../memory/device-memory.js'
import { isHostMemory, type OperandMemory } from '../memory/operand-memory.js'
import { columnOf, type Operand, type Part } from '../memory/operand.js'
import { Placement } from '../memory/placement.js'
import { BACKWARD, type Call, FORWARD, gpuBackward, gpuForward, gpuLinear } from './call.js'
import { CallState, type Staged } from './call-state.js'
import type { Work } from './dispatch.js'
import { drawFrom } from './dropout.js'
import { allocateLinear } from './linear-problem.js'
import { Output } from './output.js'
import { aligned, type Problem } from './problem.js'
import {
  type BackwardInputs,
  type BackwardSettings,
  byGradient,
  type ForwardInputs,
  type ForwardSettings,
  type GradientName,
  GRADIENTS,
} from './read.js'

/** A forward call that is ready to run. */
export interface ForwardCall<State = CallState> {
  readonly state: State
  readonly y: Output
  readonly work: Work
}

/** A backward call that is ready to run. */
export interface BackwardCall {
  readonly state: CallState
  /** The number of this call among the backward calls of `state`. */
  readonly number: number
  /** The gradients that it computes; null: not computed. */
  readonly gradients: Readonly<Record<GradientName, Output | null>>
  /** [problem.deferredPartials, r, d_out]; null: not deferred. */
  readonly deferredDb: OperandMemory | null
  /** Whether a later call may use `state`. */
  readonly retain: boolean
  readonly work: Work
}

export function allocateForward(problem: Problem, inputs: ForwardInputs, settings: ForwardSettings): ForwardCall {
  const { x, weight, bias, y } = inputs
  const placement = Placement.of(x.device, settings.stream, () => [
    ...problem.operands,
    weight?.operand,
    bias,
    y?.operand,
    settings.dropout?.state,
  ])
  const staged = placement === null ? null : stage(problem, placement)
  const kept = settings.save ? allocateKept(problem, placement) : null
  const state = new CallState(problem, staged, kept, weight)
  const { operand: drawn, calls: after, draw } = drawingOf(state, settings, placement)
  if (weight !== null) {
    const linear = allocateLinear({ x, weight, bias, y }, settings, placement, false)
    const call = forwardCall(state, linear.y.addedTo(), drawn, placement)
    const gpu = () => [gpuLinear(linear.call), gpuForward(call)]
    return { state, y: linear.y, work: { calls: [linear.call, call, ...after], placement, draw, gpu } }
  }
  if (y !== null) y.accumulate = settings.accumulate
  const output = y ?? Output.fresh('y', x.dtype, [...x.shape.slice(0, -1), problem.dOut], placement)
  const call = forwardCall(state, output, drawn, placement)
  return { state, y: output, work: { calls: [call, ...after], placement, draw, gpu: () => [gpuForward(call)] } }
}

const NO_DRAWING = { operand: null, calls: [], draw: undefined } as const

function drawingOf({ draw }: CallState, { dropout }: ForwardSettings, placement: Placement | null) {
  return dropout === null || draw === null ? NO_DRAWING : drawFrom(dropout.state, draw, placement)
}

/** In the order of forwardSlots. */
function forwardCall(state: CallState, y: Output, draw: Part | null, placement: Placement | null): Call<Problem> {
  const { problem, mask, sequenceOffsets, weights, hidden, probabilities } = state
  const { x, a, b, uncheckedOffsets } = problem
  const router = problem.router && columnOf(problem.router)
  const operands = [x, a, router, b, y, hidden, probabilities, weights, mask, sequenceOffsets, uncheckedOffsets, draw]
  return { kind: FORWARD, problem, operands, placement }
}

/** In the order of backwardSlots. */
function backwardCall(
  state: CallState,
  { dy, x }: BackwardInputs,
  gradients: BackwardCall['gradients'],
  deferredDb: OperandMemory | null,
  placement: Placement | null,
): Call<Problem> {
  const { problem, mask, sequenceOffsets, weights, hidden, probabilities, draw } = state
  const { a, router, b } = problem
  const { dRouter } = gradients
  const given = { ...gradients, dRouter: dRouter && dRouter.in(columnOf(dRouter.operand)) }
  const operands = [
    dy,
    x ?? problem.x,
    a,
    router && columnOf(router),
    b,
    hidden,
    probabilities,
    weights,
    mask,
    sequenceOffsets,
    ...GRADIENTS.map((name) => given[name]),
    deferredDb === null || problem.deferredPartials === 0 ? null : { memory: deferredDb, byteOffset: 0 },
    draw,
  ]
  return { kind: BACKWARD, problem, operands, placement }
}

/** Allocates the block of hidden, probabilities and weights, which forward writes and backward reads. */
function allocateKept(problem: Problem, placement: Placement | null): OperandMemory {
  return allocate('saved', 'float32', problem.keptBytes / Float32Array.BYTES_PER_ELEMENT, placement)
}

/**
 * Copies the small operands that are on the host to the device, and allocates the ascending offsets that forward makes of
 * those in device memory, and the draw of dropout. Null if there are none.
 */
function stage(problem: Problem, placement: Placement): Staged | null {
  const given = [problem.small.mask, problem.small.sequenceOffsets, problem.small.weights]
  const arrays = given.map((part) => (part !== null && isHostMemory(part.memory) ? part.memory : null))
  const isUnchecked = problem.uncheckedOffsets !== null
  // A GPUDevice gets the draw with the numbers of the call.
  const drops = problem.dropout > 0 && placement.gpu === null
  if (!isUnchecked && !drops && arrays.every((array) => array === null)) return null
  const ascending = isUnchecked ? aligned((problem.groups + 1) * Int32Array.BYTES_PER_ELEMENT) : 0
  const further = ascending + (drops ? DRAW_BYTES : 0)
  const { memory, parts, byteLength } = upload(arrays, placement, further)
  const [mask, sequenceOffsets, weights] = given.map((part, i) => parts[i] ?? part)
  return {
    memory,
    mask,
    sequenceOffsets: isUnchecked ? { memory, byteOffset: byteLength } : sequenceOffsets,
    weights,
    draw: drops ? { memory, byteOffset: byteLength + ascending } : null,
  }
}

const DRAW_BYTES = 4 * Int32Array.BYTES_PER_ELEMENT

/** Arrays in one block of device memory. */
interface Uploaded {
  readonly memory: DeviceMemory
  readonly parts: readonly (Part | null)[]
  /** Bytes of the arrays, which are the first in the block. */
  readonly byteLength: number
}

/**
 * Copies arrays to the device, in one transfer.
 *
 * @param further bytes of the block, whose contents are undefined
 */
export function upload(arrays: readonly (HostData | null)[], placement: Placement, further = 0): Uploaded {
  let byteLength = 0
  const offsets = arrays.map((array) => {
    const offset = byteLength
    if (array !== null) byteLength += aligned(array.byteLength)
    return offset
  })
  const block = new Uint8Array(byteLength)
  for (const [i, array] of arrays.entries()) {
    if (array !== null) block.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), offsets[i])
  }
  const memory = placement.allocate('options', byteLength + further)
  if (byteLength > 0) {
    placement.run(() => {
      placement.binding.upload(placement.device.id, memory.handle, 0, block, placement.stream.cudaStream)
    })
  }
  return { memory, parts: arrays.map((array, i) => array && { memory, byteOffset: offsets[i] }), byteLength }
}

export function allocateGradients(state: CallState, inputs: BackwardInputs, settings: BackwardSettings): BackwardCall {
  const { problem, weight } = state
  const { a, router, b, precision } = problem
  const { dy, dx } = inputs
  const x = inputs.x ?? problem.x
  const { needs, deferB, retain, accumulate, accumulateParameters } = settings
  const placement = Placement.of(x.device, settings.stream, () => [
    ...state.located,
    x,
    dy,
    ...GRADIENTS.map((name) => inputs[name]?.operand),
  ])
  const frozen = needs.dx && weight !== null ? { x: dy, weight, bias: null, y: dx } : null
  const linear = frozen && allocateLinear(frozen, { precision, accumulate }, placement, true, x.shape)
  const of = [x, a, router, b, { dtype: 'float32', shape: [problem.groups, problem.experts] } as const]
  const gradients = byGradient((name, i) => {
    if (name === 'dx' && linear !== null) return linear.y.addedTo()
    const operand = of[i]
    const isNeeded = needs[name] && !(name === 'db' && deferB)
    const adds = name === 'dx' ? accumulate : accumulateParameters
    return operand && gradient(name, inputs[name], isNeeded, adds, operand, placement)
  })
  const deferred = problem.deferredPartials * problem.rank * problem.dOut
  const deferredDb = deferB ? allocate('deferB', 'float32', deferred, placement) : null
  const call = backwardCall(state, inputs, gradients, deferredDb, placement)
  const calls = linear === null ? [call] : [linear.call, call]
  const gpu = () => [...(linear === null ? [] : [gpuLinear(linear.call)]), gpuBackward(call)]
  const work = { calls, placement, gpu }
  return { state, number: state.backwardCalls++, gradients, deferredDb, retain, work }
}

/** The gradient that the caller gives, or a new one of the shape and type of its operand. */
function gradient(
  name: GradientName,
  given: Output | null,
  needed: boolean,
  accumulate: boolean,
  { dtype, shape }: Pick<Operand, 'dtype' | 'shape'>,
  placement: Placement | null,
): Output | null {
  if (given === null) return needed ? Output.fresh(name, dtype, shape, placement) : null
  given.accumulate = accumulate
  return given
}
