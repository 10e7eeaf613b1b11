/**
 * The second phase of a call: devices, shapes, types and overlaps of its operands. When one of these checks throws,
 * nothing has been allocated or written. `check-routing.ts` has the rules of the routings.
 */
import {
  checkExpertStack,
  checkMatrix,
  checkShape,
  checkTokenRows,
  checkType,
  checkTypeOrFloat32,
} from '../base/checks.js'
import { fail } from '../base/errors.js'
import { webGpu } from '../binding/devices.js'
import { size } from '../binding/slots.js'
import type { Slot, Table } from '../binding/tables.js'
import * as tables from '../binding/tables.js'
import { checkDevice } from '../memory/backends.js'
import { checkPlace, checkSameDevice, refuseBuffer, refuseOverlap } from '../memory/checks.js'
import { CPU } from '../memory/device.js'
import { checkAttached, type Operand } from '../memory/operand.js'
import { type CallState, versionsOf } from './call-state.js'
import { checkLogits } from './check-routing.js'
import { checkLinear, failDisposed, type WeightOperand } from './linear-problem.js'
import type { Output } from './output.js'
import type { Problem } from './problem.js'
import {
  type BackwardInputs,
  type BackwardSettings,
  type ForwardInputs,
  type ForwardSettings,
  type GradientName,
  GRADIENT_SLOTS,
  GRADIENTS,
} from './read.js'

const slotNamed = ({ slots }: Table, name: string) => slots.find((slot) => slot.name === name) as Slot
const Y = slotNamed(tables.forward, 'y')
const DY = slotNamed(tables.backward, 'dy')

/** The operands that forward and backward read, in the order of their slots, and their names. */
const INPUTS = ['x', 'a', 'router', 'b'] as const
const inputsOf = (x: Operand, { a, router, b }: Pick<Problem, 'a' | 'router' | 'b'>) => [x, a, router, b]
const SMALL = ['mask', 'sequenceOffsets', 'weights'] as const

/** Checks that all operands of a forward call are on one available device, and that their memory is valid. */
export function checkPlaces(inputs: ForwardInputs, settings: ForwardSettings): void {
  const { x, y } = inputs
  const operands = inputsOf(x, inputs)
  // The others are compared with x, which a createLily object names itself if it is elsewhere.
  if (webGpu.current !== null) checkDevice('x', x.device)
  // This comes before checkPlace, which queries x's device for memory that may belong to another device.
  for (let i = 1; i < INPUTS.length; i++) checkSameDevice(INPUTS[i], operands[i], 'x', x)
  for (let i = 0; i < INPUTS.length; i++) checkPlace(INPUTS[i], operands[i], 'x', x)
  if (y !== null) checkPlace('y', y.operand, 'x', x)
  const small = [settings.mask, settings.sequenceOffsets, settings.weights]
  for (let i = 0; i < SMALL.length; i++) {
    // It may be on the host in any call.
    const source = small[i]?.source
    if (source != null && source.device !== CPU) checkPlace(SMALL[i], source, 'x', x)
  }
}

/** Checks an operand that is on the device of x: its size and its type must match its slot. */
function checkSlot({ name, rows, columns, type }: Slot, operand: Operand, problem: Problem): void {
  const { sizes, x, a, experts, rank, dOut, routing } = problem
  if (rows === size.tokens) checkTokenRows(name, operand, sizes[rows], sizes[columns])
  else if (rows === size.bRows && routing !== 'none') checkExpertStack(name, operand, experts, rank, dOut)
  else if (columns === size.routerColumns && routing === 'learned') checkLogits(name, operand, experts)
  else checkMatrix(name, operand, sizes[rows], sizes[columns])
  if (type === 'activation') checkType(name, operand, x.dtype)
  else if (type === 'float32') checkType(name, operand, 'float32')
  else checkTypeOrFloat32(name, operand, a.dtype)
}

/** Checks that y of a forward call has the problem's shape and type, and shares memory with no operand. */
export function checkY(problem: Problem, y: Output | null, settings: ForwardSettings): void {
  if (y === null) return
  const operands = inputsOf(problem.x, problem)
  checkSlot(Y, y.operand, problem)
  for (let i = 0; i < INPUTS.length; i++) refuseOverlap('y', y.operand, INPUTS[i], operands[i])
  const small = [settings.mask, settings.sequenceOffsets, settings.weights]
  for (let i = 0; i < SMALL.length; i++) refuseOverlap('y', y.operand, SMALL[i], small[i]?.source)
}

/** Checks the frozen layer below the adapter, if there is one. */
export function checkFrozen(
  { dOut, dIn }: Pick<Problem, 'dOut' | 'dIn'>,
  { x, weight, bias, y }: Pick<ForwardInputs, 'x' | 'weight' | 'bias' | 'y'>,
): void {
  if (weight === null) {
    if (bias !== null)
      fail('ERR_LILY_ARGUMENT', 'bias', 'is given without a weight; pass the weight too, or leave it out')
    return
  }
  checkMatrix('weight', weight.matrix, dOut, dIn)
  checkLinear({ x, weight, bias, y }, false)
}

/** Checks the gradients of a backward call. */
export function checkGradients(state: CallState, inputs: BackwardInputs, settings: BackwardSettings): void {
  const { problem } = state
  const x = inputs.x ?? problem.x
  checkNeeded(problem, inputs, settings)
  checkVersions(state, ['a', 'router', 'b'])
  checkUnused(state)

  // The operands of forward may have been disposed of or detached since.
  checkSameX(x, problem.x)
  checkDevice('x', x.device)
  const operands = inputsOf(x, problem)
  for (let i = 0; i < INPUTS.length; i++) checkPlace(INPUTS[i], operands[i], 'x', x)
  if (state.weight !== null) checkSavedWeight(state.weight, 'x', x)
  checkKept(state)
  checkPlace('dy', inputs.dy, 'x', x)
  checkSlot(DY, inputs.dy, problem)
  for (const slot of GRADIENT_SLOTS) {
    const gradient = inputs[slot.name as GradientName]?.operand
    if (gradient === undefined) continue
    checkPlace(slot.name, gradient, 'x', x)
    checkSlot(slot, gradient, problem)
  }
  checkOverlaps(state, operands, inputs)
}

/** Checks that no backward call has used what forward saved. */
export function checkUnused({ isUsed }: Pick<CallState, 'isUsed'>): void {
  if (!isUsed) return
  fail(
    'ERR_LILY_ARGUMENT',
    'saved',
    'expected one that no backward has used, got one that has; run forward again, or pass retain: true to the ' +
      'first of several backward calls',
  )
}

/** The parameters of a saved call and their versions in forward. */
interface Versioned extends Pick<CallState, 'versions'> {
  readonly problem: Pick<Problem, 'a' | 'router' | 'b'>
}

/**
 * Checks that no optimiser has changed a parameter since forward.
 *
 * @param names of a, router and b in the error
 */
export function checkVersions({ problem, versions }: Versioned, names: readonly [string, string, string]): void {
  if (versions === null) return
  const now = versionsOf(problem)
  const changed = names.find((_, i) => now[i] !== versions[i])
  if (changed !== undefined) failChanged(changed)
}

function failChanged(name: string): never {
  fail(
    'ERR_LILY_ARGUMENT',
    name,
    'expected the values of forward, but an optimiser has changed them since; run backward before step(), or forward again',
  )
}

/** Checks that the weight of a saved call is still there, and has the same values. */
export function checkSavedWeight({ operand, packed, version }: WeightOperand, other: string, at: Operand): void {
  if (packed?.isDisposed === true) failDisposed()
  if (version !== null && operand.version !== version) failChanged('weight')
  checkPlace('weight', operand, other, at)
}

/** Checks that an x that is given again is like forward's. */
export function checkSameX(x: Operand, saved: Operand): void {
  checkSameDevice('x', x, 'the x of forward', saved)
  checkShape('x', x, saved.shape)
  checkType('x', x, saved.dtype)
}

/** Checks that the tensors of `saved` have their memory: on the host the caller can transfer it. */
export function checkKept({ problem, kept, weights }: CallState): void {
  if (kept !== null && problem.keptBytes > 0) checkAttached('saved', kept)
  if (weights !== null && problem.groups > 0) checkAttached('saved', weights.memory)
}

/** Checks that no gradient is given that `needs` switches off. */
export function checkWanted(
  gradients: Readonly<Partial<Record<GradientName, Output | null>>>,
  needs: BackwardSettings['needs'],
): void {
  for (const name of GRADIENTS) {
    if (gradients[name] == null || needs[name]) continue
    if (name === 'dWeights') {
      fail('ERR_LILY_ARGUMENT', name, 'is given without needs: { dWeights: true }; pass both, or leave it out')
    }
    fail('ERR_LILY_ARGUMENT', name, `is given, but needs.${name} is false; leave out one of them`)
  }
}

/** Checks that no gradient is given that the options switch off or that the routing does not have. */
export function checkNeeded(
  { routing, router }: Pick<Problem, 'routing' | 'router'>,
  inputs: BackwardInputs,
  { needs, deferB }: BackwardSettings,
): void {
  checkWanted(inputs, needs)
  const ofRouter = GRADIENTS[INPUTS.indexOf('router')]
  if (router === null && inputs[ofRouter] !== null) {
    fail('ERR_LILY_ARGUMENT', ofRouter, `routing '${routing}' has no router; leave it out`)
  }
  if (needs.dWeights && routing !== 'fixed') {
    fail(
      'ERR_LILY_ARGUMENT',
      'needs.dWeights',
      `expected false with routing '${routing}': only the weights of routing 'fixed' have a gradient; leave it out`,
    )
  }
  if (!deferB) return
  if (!needs.db) fail('ERR_LILY_ARGUMENT', 'deferB', 'leaves db to foldB, but needs.db is false; leave out one of them')
  if (inputs.db !== null) {
    fail('ERR_LILY_ARGUMENT', 'db', 'is given, but deferB leaves db to foldB; give it to foldB, or leave out deferB')
  }
}

/**
 * Checks that a given gradient shares no memory with an operand, with the memory of the saved call, or with another gradient.
 */
function checkOverlaps(
  { kept, weights, weight }: CallState,
  operands: readonly (Operand | null)[],
  inputs: BackwardInputs,
): void {
  const given = weights !== null && weights.memory !== kept ? weights.memory : null
  for (let i = 0; i < GRADIENTS.length; i++) {
    const name = GRADIENTS[i]
    const output = inputs[name]?.operand
    if (output === undefined) continue
    refuseOverlap(name, output, 'dy', inputs.dy)
    for (let j = 0; j < INPUTS.length; j++) refuseOverlap(name, output, INPUTS[j], operands[j])
    refuseOverlap(name, output, 'weight', weight?.operand)
    refuseBuffer(name, output, 'saved', kept)
    refuseBuffer(name, output, 'saved.weights', given)
    for (let j = 0; j < i; j++) refuseOverlap(name, output, GRADIENTS[j], inputs[GRADIENTS[j]]?.operand)
  }
}
