/**
 * Calls into the binding. A call is a descriptor of numbers and one memory per slot. Both are made once and used again,
 * which is safe because the binding reads them before it returns, in the Async forms too.
 */
import { bytesOf, type DType } from '../base/dtype.js'
import { LilyError } from '../base/errors.js'
import { bound, settled } from '../binding/errors.js'
import { type Memory, native } from '../binding/native.js'
import { refuseInCapture } from '../memory/capture.js'
import { isDeviceMemory, isHostMemory, type Operand, type OperandMemory, type Part } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import type { BackwardCall } from './backward-call.js'
import type { DeferredB } from './deferred-b.js'
import type { ForwardCall } from './forward-call.js'
import type { Output } from './output.js'
import type { Problem } from './problem.js'

const { constants } = native
const FIELDS = native.fields.length
const SLOT_FIELDS = native.slotFields.length
const FLOAT32 = constants.dtype.float32

const field = positions(native.fields, [
  'backend',
  'device',
  'stream',
  'home',
  'routing',
  'pool',
  'activation',
  'precision',
  'activationDtype',
  'parameterDtype',
  'tokens',
  'dIn',
  'dOut',
  'rank',
  'experts',
  'groups',
  'scaling',
])
const slotField = positions(native.slotFields, ['byteOffset', 'pitch', 'dtype', 'accumulate'])
const forwardSlot = positions(native.forwardSlots, [
  'x',
  'a',
  'router',
  'b',
  'y',
  'hidden',
  'probabilities',
  'weights',
  'mask',
  'sequenceOffsets',
])
const backwardSlot = positions(native.backwardSlots, [
  'dy',
  'x',
  'a',
  'router',
  'b',
  'hidden',
  'probabilities',
  'weights',
  'mask',
  'sequenceOffsets',
  'dx',
  'da',
  'dRouter',
  'db',
  'deferredDb',
])

/** Where the binding has each of its names. */
export function positions<K extends string>(
  names: readonly string[],
  wanted: readonly K[],
): Readonly<Record<K, number>> {
  const missing = wanted.find((name) => !names.includes(name))
  if (missing !== undefined || names.length !== wanted.length) {
    throw new LilyError(
      'ERR_LILY_BACKEND_UNAVAILABLE',
      `the native addon is of another version than this package (${missing ?? names.join(', ')}); ` +
        `install lily-kernels again, or run npm ci in a checkout`,
    )
  }
  return Object.fromEntries(wanted.map((name) => [name, names.indexOf(name)])) as Record<K, number>
}

export function dtypeNumber(dtype: DType): number {
  if (dtype === 'float32') return FLOAT32
  return dtype === 'bfloat16' ? constants.dtype.bfloat16 : constants.dtype.float16
}

/** The slots that forward and backward have in common. */
type SharedSlot = keyof typeof forwardSlot & keyof typeof backwardSlot

/** As the binding takes it. Of a Float16Array the bytes: Node-API does not know it everywhere where there is one. */
export function boundMemory(memory: OperandMemory): Memory {
  if (isDeviceMemory(memory)) return memory.handle
  return isHostMemory(memory) && memory[Symbol.toStringTag] === 'Float16Array' ? bytesOf(memory) : memory
}

class Descriptor {
  readonly numbers: Float64Array
  readonly memory: Memory[]

  constructor(slots: number) {
    this.numbers = new Float64Array(FIELDS + slots * SLOT_FIELDS)
    this.memory = new Array<Memory>(slots).fill(null)
  }

  place(placement: Placement | null): void {
    const { numbers } = this
    numbers[field.backend] = placement === null ? constants.backend.cpu : constants.backend.cuda
    numbers[field.device] = placement?.device.id ?? 0
    numbers[field.stream] = placement?.stream.cudaStream ?? 0
    numbers[field.home] = placement?.stream.memoryStream.cudaStream ?? 0
  }

  problem(problem: Problem, placement: Placement | null): void {
    const { numbers } = this
    this.place(placement)
    numbers[field.routing] = constants.routing[problem.routing]
    numbers[field.pool] = constants.pool[problem.pool]
    numbers[field.activation] = constants.activation[problem.activation]
    numbers[field.precision] = constants.precision[problem.precision]
    numbers[field.activationDtype] = dtypeNumber(problem.x.dtype)
    numbers[field.parameterDtype] = dtypeNumber(problem.a.dtype)
    numbers[field.tokens] = problem.tokens
    numbers[field.dIn] = problem.dIn
    numbers[field.dOut] = problem.dOut
    numbers[field.rank] = problem.rank
    numbers[field.experts] = problem.experts
    numbers[field.groups] = problem.groups
    numbers[field.scaling] = problem.scaling
  }

  /** A fold knows nothing of a problem but this; the rest of it is any that the binding accepts. */
  stack({ experts, rank, dOut }: ExpertStack, placement: Placement | null): void {
    const { numbers } = this
    this.place(placement)
    numbers[field.routing] = constants.routing.uniform
    numbers[field.pool] = constants.pool.probabilities
    numbers[field.activation] = constants.activation.none
    numbers[field.precision] = constants.precision.default
    numbers[field.activationDtype] = FLOAT32
    numbers[field.parameterDtype] = FLOAT32
    numbers[field.dIn] = 1
    numbers[field.groups] = 1
    numbers[field.dOut] = dOut
    numbers[field.rank] = rank
    numbers[field.experts] = experts
  }

  /** What forward reads or keeps, and backward reads. */
  inputs(problem: Problem, slot: Readonly<Record<SharedSlot, number>>): void {
    const { kept, weights, experts } = problem
    this.operand(slot.x, problem.x)
    this.operand(slot.a, problem.a)
    this.operand(slot.router, problem.router)
    this.operand(slot.b, problem.b)
    this.part(slot.mask, problem.mask, 0)
    this.part(slot.sequenceOffsets, problem.sequenceOffsets, 0)
    if (kept !== null) {
      this.set(slot.hidden, kept, 0, problem.rank, dtypeNumber(problem.hiddenDtype), false)
      if (problem.probabilitiesOffset >= 0) {
        this.set(slot.probabilities, kept, problem.probabilitiesOffset, experts, FLOAT32, false)
      }
    }
    this.part(slot.weights, weights, experts)
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
    const { numbers } = this
    const at = FIELDS + slot * SLOT_FIELDS
    this.memory[slot] = boundMemory(memory)
    numbers[at + slotField.byteOffset] = byteOffset
    numbers[at + slotField.pitch] = pitch
    numbers[at + slotField.dtype] = dtype
    numbers[at + slotField.accumulate] = accumulate ? 1 : 0
  }

  /** Lets go of the operands. */
  clear(): void {
    this.memory.fill(null)
  }
}

const forward = new Descriptor(native.forwardSlots.length)
const backward = new Descriptor(native.backwardSlots.length)
const fold = new Descriptor(1)

/** On the host now, on a device after the work that it must wait for. */
export function run(placement: Placement | null, work: () => void): void {
  if (placement === null) bound(work)
  else placement.run(work)
}

function describeForward({ problem, y, placement }: ForwardCall): void {
  forward.problem(problem, placement)
  forward.inputs(problem, forwardSlot)
  forward.output(forwardSlot.y, y)
}

export function runForward(call: ForwardCall): void {
  describeForward(call)
  try {
    run(call.placement, () => {
      native.forward(forward.numbers, ...forward.memory)
    })
  } finally {
    forward.clear()
  }
}

export async function runForwardAsync(call: ForwardCall): Promise<void> {
  if (call.placement !== null) {
    refuseInCapture('a promise', 'call lilyForward or loraForward')
    runForward(call)
    return settled(call.placement.passed())
  }
  describeForward(call)
  const done = bound(() => native.forwardAsync(forward.numbers, ...forward.memory))
  forward.clear()
  return settled(done)
}

function describeBackward({ state, dy, gradients, placement }: BackwardCall): void {
  const { problem } = state
  const { dx, da, dRouter, db, deferredDb } = gradients
  backward.problem(problem, placement)
  backward.inputs(problem, backwardSlot)
  backward.operand(backwardSlot.dy, dy)
  backward.output(backwardSlot.dx, dx)
  backward.output(backwardSlot.da, da)
  backward.output(backwardSlot.dRouter, dRouter)
  backward.output(backwardSlot.db, db)
  if (deferredDb !== null && problem.deferredPartials > 0) {
    backward.set(backwardSlot.deferredDb, deferredDb, 0, problem.dOut, FLOAT32, false)
  }
}

export function runBackward(call: BackwardCall): void {
  describeBackward(call)
  try {
    run(call.placement, () => {
      native.backward(backward.numbers, ...backward.memory)
    })
  } finally {
    backward.clear()
  }
}

export async function runBackwardAsync(call: BackwardCall): Promise<void> {
  if (call.placement !== null) {
    refuseInCapture('a promise', 'call lilyBackward or loraBackward')
    runBackward(call)
    return settled(call.placement.passed())
  }
  describeBackward(call)
  const done = bound(() => native.backwardAsync(backward.numbers, ...backward.memory))
  backward.clear()
  return settled(done)
}

/** Sizes of a stack of experts, [E, r, d_out]. */
export interface ExpertStack {
  readonly experts: number
  readonly rank: number
  readonly dOut: number
}

/** Adds up in db what backward calls have left. */
export function runFold(
  stack: ExpertStack,
  deferred: readonly DeferredB[],
  db: Output,
  placement: Placement | null,
): void {
  const left = deferred.filter(({ partials }) => partials > 0)
  fold.stack(stack, placement)
  fold.output(0, db)
  try {
    run(placement, () => {
      native.fold(
        fold.numbers,
        fold.memory[0],
        Float64Array.from(left.flatMap(({ partials, weights }) => [partials, weights?.byteOffset ?? 0])),
        left.map(({ memory }) => boundMemory(memory)),
        left.map(({ weights }) => weights && boundMemory(weights.memory)),
      )
    })
  } finally {
    fold.clear()
  }
}
