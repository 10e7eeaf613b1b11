/**
 * Calls of the addon, and their descriptors in the form that it reads: the numbers of a call, and one memory per operand.
 */
import type { DType } from '../base/dtype.js'
import {
  backwardSlots,
  callFields,
  foldFields,
  foldLayerFields,
  forwardSlots,
  linearFields,
  linearSlots,
  slotFields,
  lengths,
} from '../binding/descriptor.js'
import { type Memory, native } from '../binding/native.js'
import { boundMemory, type OperandMemory } from '../memory/operand-memory.js'
import type { Operand, Part } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import type { BackwardCall, ForwardCall } from './allocate.js'
import type { CallState } from './call-state.js'
import type { DeferredB } from './deferred-b.js'
import type { LinearCall, LinearProblem } from './linear-problem.js'
import type { Output } from './output.js'
import type { Problem } from './problem.js'

const { constants } = native
const FLOAT32 = constants.dtype.float32

export function dtypeNumber(dtype: DType): number {
  if (dtype === 'float32') return FLOAT32
  return dtype === 'bfloat16' ? constants.dtype.bfloat16 : constants.dtype.float16
}

/** The slots that forward and backward have in common. */
type SharedSlot = keyof typeof forwardSlots & keyof typeof backwardSlots

/**
 * Writes the backend, device and streams of a call.
 *
 * @param fields their indices in `numbers`; a fold has no stream of its memory
 * @param placement null: the CPU
 */
export function writePlacement(
  numbers: Float64Array,
  fields: { backend: number; device: number; stream: number; memoryStream?: number },
  placement: Placement | null,
): void {
  numbers[fields.backend] = placement === null ? constants.backend.cpu : constants.backend.cuda
  numbers[fields.device] = placement?.device.id ?? 0
  numbers[fields.stream] = placement?.stream.cudaStream ?? 0
  if (fields.memoryStream !== undefined) {
    numbers[fields.memoryStream] = placement?.stream.memoryStream.cudaStream ?? 0
  }
}

export class Descriptor {
  readonly numbers: Float64Array
  readonly memory: Memory[]

  /** @param fields how many numbers a call has before those of its slots */
  constructor(
    slots: number,
    private readonly fields: number,
  ) {
    this.numbers = new Float64Array(fields + slots * lengths.slotFields)
    this.memory = new Array<Memory>(slots).fill(null)
  }

  part(slot: number, part: Part | null, pitch: number): void {
    if (part !== null) this.set(slot, part.memory, part.byteOffset, pitch, FLOAT32, false)
  }

  operand(slot: number, operand: Operand | null, accumulate = false): void {
    if (operand === null) return
    this.set(slot, operand.memory, operand.byteOffset, operand.pitch, dtypeNumber(operand.dtype), accumulate)
  }

  output(slot: number, output: Output | null): void {
    if (output !== null) this.operand(slot, output.operand, output.accumulate)
  }

  set(
    slot: number,
    memory: OperandMemory,
    byteOffset: number,
    pitch: number,
    dtype: number,
    accumulate: boolean,
  ): void {
    this.memory[slot] = boundMemory(memory)
    writeSlot(this.numbers, this.fields + slot * lengths.slotFields, byteOffset, pitch, dtype, accumulate)
  }

  /** Releases the references to the operands. */
  clear(): void {
    this.memory.fill(null)
  }
}

class CallDescriptor extends Descriptor {
  constructor(slots: number) {
    super(slots, lengths.callFields)
  }

  problem(problem: Problem, placement: Placement | null): void {
    const { numbers } = this
    writePlacement(numbers, callFields, placement)
    numbers[callFields.routing] = constants.routing[problem.routing]
    numbers[callFields.pool] = constants.pool[problem.pool]
    numbers[callFields.activation] = constants.activation[problem.activation]
    numbers[callFields.precision] = constants.precision[problem.precision]
    numbers[callFields.activationDtype] = dtypeNumber(problem.x.dtype)
    numbers[callFields.parameterDtype] = dtypeNumber(problem.a.dtype)
    numbers[callFields.tokens] = problem.tokens
    numbers[callFields.dIn] = problem.dIn
    numbers[callFields.dOut] = problem.dOut
    numbers[callFields.rank] = problem.rank
    numbers[callFields.experts] = problem.experts
    numbers[callFields.groups] = problem.groups
    numbers[callFields.scaling] = problem.scaling
  }

  /** The operands that forward and backward have in common. */
  inputs(state: CallState, x: Operand, slot: Readonly<Record<SharedSlot, number>>): void {
    const { problem, kept } = state
    const { experts } = problem
    this.operand(slot.x, x)
    this.operand(slot.a, problem.a)
    this.operand(slot.router, problem.router)
    this.operand(slot.b, problem.b)
    this.part(slot.mask, state.mask, 0)
    this.part(slot.sequenceOffsets, state.sequenceOffsets, 0)
    if (kept !== null) {
      this.set(slot.hidden, kept, 0, problem.rank, dtypeNumber(problem.hiddenDtype), false)
      if (problem.keepsProbabilities) {
        this.set(slot.probabilities, kept, problem.probabilitiesOffset, experts, FLOAT32, false)
      }
    }
    this.part(slot.weights, state.weights, experts)
  }
}

/** Writes the numbers of one operand from index `at` on. */
function writeSlot(
  numbers: Float64Array,
  at: number,
  byteOffset: number,
  pitch: number,
  dtype: number,
  accumulate: boolean,
): void {
  numbers[at + slotFields.byteOffset] = byteOffset
  numbers[at + slotFields.pitch] = pitch
  numbers[at + slotFields.dtype] = dtype
  numbers[at + slotFields.accumulate] = accumulate ? 1 : 0
}

/**
 * The descriptors of forward and backward. All calls share them: the addon reads them before it returns, and, short of
 * patched built-ins, no code of the caller runs between the first number that is written here and that. It has run when
 * the call was read (read.ts); the later phases read typed arrays of the caller by views.ts only.
 */
export const forward = new CallDescriptor(lengths.forwardSlots)
export const backward = new CallDescriptor(lengths.backwardSlots)
/** The same for a frozen linear layer. */
export const linear = new Descriptor(lengths.linearSlots, lengths.linearFields)

export function describeForward({ state, y, placement }: ForwardCall): void {
  forward.problem(state.problem, placement)
  forward.inputs(state, state.problem.x, forwardSlots)
  forward.output(forwardSlots.y, y)
  forward.part(forwardSlots.uncheckedOffsets, state.problem.uncheckedOffsets, 0)
}

export function describeBackward({ state, x, dy, gradients, placement }: BackwardCall): void {
  const { problem } = state
  const { dx, da, dRouter, db, deferredDb } = gradients
  backward.problem(problem, placement)
  backward.inputs(state, x, backwardSlots)
  backward.operand(backwardSlots.dy, dy)
  backward.output(backwardSlots.dx, dx)
  backward.output(backwardSlots.da, da)
  backward.output(backwardSlots.dRouter, dRouter)
  backward.output(backwardSlots.db, db)
  if (deferredDb !== null && problem.deferredPartials > 0) {
    backward.set(backwardSlots.deferredDb, deferredDb, 0, problem.dOut, FLOAT32, false)
  }
}

/** Calls the addon, and releases the operands. */
function send(name: 'forward' | 'backward' | 'linear', descriptor: Descriptor): void {
  try {
    native[name](descriptor.numbers, ...descriptor.memory)
  } finally {
    descriptor.clear()
  }
}

export function launchForward(call: ForwardCall): void {
  if (call.linear !== null) launchLinear(call.linear)
  describeForward(call)
  send('forward', forward)
}

export function launchBackward(call: BackwardCall): void {
  if (call.linear !== null) launchLinear(call.linear)
  describeBackward(call)
  send('backward', backward)
}

export function launchLinear(call: LinearCall): void {
  describeLinear(call)
  send('linear', linear)
}

export function describeLinear({ problem, x, packed, bias, y, placement }: LinearCall): void {
  describeWeight(problem, x.rows, placement)
  linear.operand(linearSlots.x, x)
  linear.part(linearSlots.packed, packed, 0)
  linear.operand(linearSlots.bias, bias)
  linear.output(linearSlots.y, y)
}

/** What the packing of a weight needs to know of a call. */
export function describeWeight(problem: LinearProblem, tokens: number, placement: Placement | null): void {
  const { weight, transposed, dtype, precision } = problem
  const { numbers } = linear
  writePlacement(numbers, linearFields, placement)
  numbers[linearFields.transposed] = transposed ? 1 : 0
  numbers[linearFields.precision] = constants.precision[precision]
  numbers[linearFields.activationDtype] = dtypeNumber(dtype)
  numbers[linearFields.parameterDtype] = dtypeNumber(weight.dtype)
  numbers[linearFields.tokens] = tokens
  numbers[linearFields.dIn] = weight.columns
  numbers[linearFields.dOut] = weight.rows
  linear.operand(linearSlots.weight, weight)
}

/** Sizes of the stacked experts b, [E, r, d_out]. */
export interface StackSizes {
  readonly experts: number
  readonly rank: number
  readonly dOut: number
}

export function launchFold(
  { experts, rank, dOut }: StackSizes,
  deferred: readonly DeferredB[],
  { operand, accumulate }: Output,
  placement: Placement | null,
): void {
  const layers = lengths.foldFields + lengths.slotFields
  const numbers = new Float64Array(layers + deferred.length * lengths.foldLayerFields)
  writePlacement(numbers, foldFields, placement)
  numbers[foldFields.dOut] = dOut
  numbers[foldFields.rank] = rank
  numbers[foldFields.experts] = experts
  writeSlot(numbers, lengths.foldFields, operand.byteOffset, operand.pitch, dtypeNumber(operand.dtype), accumulate)
  for (const [i, { partials, weights }] of deferred.entries()) {
    const at = layers + i * lengths.foldLayerFields
    numbers[at + foldLayerFields.partials] = partials
    numbers[at + foldLayerFields.weightsOffset] = weights?.byteOffset ?? 0
  }
  native.fold(
    numbers,
    boundMemory(operand.memory),
    deferred.map(({ memory }) => boundMemory(memory)),
    deferred.map(({ weights }) => weights && boundMemory(weights.memory)),
  )
}
