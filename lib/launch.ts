/**
 * Calls into the binding. A call is a descriptor of numbers and one memory per slot. Both are made once and used again,
 * which is safe because the binding reads them before it returns, in the Async forms too.
 */
import type { DType } from './dtype.js'
import { fromBinding, LilyError } from './errors.js'
import { native, type Memory } from './native.js'
import type { Operand } from './operand.js'
import type { Gradients } from './backward-call.js'
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
function positions<K extends string>(names: readonly string[], wanted: readonly K[]): Readonly<Record<K, number>> {
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

function dtypeNumber(dtype: DType): number {
  if (dtype === 'float32') return FLOAT32
  return dtype === 'bfloat16' ? constants.dtype.bfloat16 : constants.dtype.float16
}

/** The slots that forward and backward have in common. */
type SharedSlot = keyof typeof forwardSlot & keyof typeof backwardSlot

class Descriptor {
  readonly numbers: Float64Array
  readonly memory: Memory[]

  constructor(slots: number) {
    this.numbers = new Float64Array(FIELDS + slots * SLOT_FIELDS)
    this.memory = new Array<Memory>(slots).fill(null)
    this.numbers[field.backend] = constants.backend.cpu
  }

  problem(problem: Problem): void {
    const { numbers } = this
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

  /** What forward reads or keeps, and backward reads. */
  inputs(problem: Problem, slot: Readonly<Record<SharedSlot, number>>): void {
    const { kept, weights, experts } = problem
    this.operand(slot.x, problem.x)
    this.operand(slot.a, problem.a)
    this.operand(slot.router, problem.router)
    this.operand(slot.b, problem.b)
    this.memory[slot.mask] = problem.mask
    this.memory[slot.sequenceOffsets] = problem.sequenceOffsets
    if (kept !== null) {
      this.set(slot.hidden, kept, 0, problem.rank, dtypeNumber(problem.x.dtype), false)
      if (problem.probabilitiesOffset >= 0) {
        this.set(slot.probabilities, kept, problem.probabilitiesOffset, experts, FLOAT32, false)
      }
    }
    if (weights !== null) this.set(slot.weights, weights, problem.weightsOffset, experts, FLOAT32, false)
  }

  operand(slot: number, operand: Operand | null, accumulate = false): void {
    if (operand === null) return
    this.set(slot, operand.memory, operand.byteOffset, operand.pitch, dtypeNumber(operand.dtype), accumulate)
  }

  output(slot: number, output: Output | null): void {
    if (output !== null) this.operand(slot, output.operand, output.accumulate)
  }

  set(slot: number, memory: Memory, byteOffset: number, pitch: number, dtype: number, accumulate: boolean): void {
    const { numbers } = this
    const at = FIELDS + slot * SLOT_FIELDS
    this.memory[slot] = memory
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

function describeForward(problem: Problem, y: Output): void {
  forward.problem(problem)
  forward.inputs(problem, forwardSlot)
  forward.output(forwardSlot.y, y)
}

export function runForward(problem: Problem, y: Output): void {
  describeForward(problem, y)
  try {
    native.forward(forward.numbers, ...forward.memory)
  } catch (cause) {
    throw fromBinding(cause)
  } finally {
    forward.clear()
  }
}

export async function runForwardAsync(problem: Problem, y: Output): Promise<void> {
  describeForward(problem, y)
  try {
    const done = native.forwardAsync(forward.numbers, ...forward.memory)
    forward.clear()
    await done
  } catch (cause) {
    throw fromBinding(cause)
  }
}

function describeBackward(problem: Problem, dy: Operand, gradients: Gradients): void {
  const { dx, da, dRouter, db, deferredDb } = gradients
  backward.problem(problem)
  backward.inputs(problem, backwardSlot)
  backward.operand(backwardSlot.dy, dy)
  backward.output(backwardSlot.dx, dx)
  backward.output(backwardSlot.da, da)
  backward.output(backwardSlot.dRouter, dRouter)
  backward.output(backwardSlot.db, db)
  if (deferredDb !== null && problem.deferredSlabs > 0) {
    backward.set(backwardSlot.deferredDb, deferredDb, 0, problem.dOut, FLOAT32, false)
  }
}

export function runBackward(problem: Problem, dy: Operand, gradients: Gradients): void {
  describeBackward(problem, dy, gradients)
  try {
    native.backward(backward.numbers, ...backward.memory)
  } catch (cause) {
    throw fromBinding(cause)
  } finally {
    backward.clear()
  }
}

export async function runBackwardAsync(problem: Problem, dy: Operand, gradients: Gradients): Promise<void> {
  describeBackward(problem, dy, gradients)
  try {
    const done = native.backwardAsync(backward.numbers, ...backward.memory)
    backward.clear()
    await done
  } catch (cause) {
    throw fromBinding(cause)
  }
}

/** Adds up partial i of `slabs[i]` slabs, weighted by `weights[i]` where that is not null, in db. */
export function runFold(problem: Problem, db: Output, slabs: number[], partials: Memory[], weights: Memory[]): void {
  fold.problem(problem)
  fold.output(0, db)
  try {
    native.fold(fold.numbers, db.operand.memory, Float64Array.from(slabs), partials, weights)
  } catch (cause) {
    throw fromBinding(cause)
  } finally {
    fold.clear()
  }
}
