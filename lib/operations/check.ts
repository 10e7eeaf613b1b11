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
import { checkDevice } from '../memory/backends.js'
import { checkPlace, checkSameDevice, refuseBuffer, refuseOverlap } from '../memory/checks.js'
import { CPU, refuseWebGpu } from '../memory/device.js'
import { checkAttached, type Operand } from '../memory/operand.js'
import { type CallState, versionsOf } from './call-state.js'
import { checkLinear, checkSavedWeight } from './linear-problem.js'
import type { Output } from './output.js'
import type { Problem } from './problem.js'
import {
  type BackwardInputs,
  type BackwardSettings,
  type ForwardInputs,
  type ForwardSettings,
  GRADIENTS,
} from './read.js'

/** Checks that all operands of a forward call are on one available device, and that their memory is valid. */
export function checkPlaces(
  { x, a, router, b, y }: ForwardInputs,
  { mask, sequenceOffsets, weights }: ForwardSettings,
): void {
  // The others are compared with x, which a createLily object names itself if it is elsewhere.
  if (webGpu.current !== null) checkDevice('x', x.device)
  // This comes before checkPlace, which queries x's device for memory that may belong to another device.
  checkSameDevice('a', a, 'x', x)
  checkSameDevice('router', router, 'x', x)
  checkSameDevice('b', b, 'x', x)
  checkPlace('x', x, 'x', x)
  checkPlace('a', a, 'x', x)
  checkPlace('router', router, 'x', x)
  checkPlace('b', b, 'x', x)
  if (y !== null) checkPlace('y', y.operand, 'x', x)
  if (mask !== null) checkSmallPlace('mask', mask.source, x)
  if (sequenceOffsets !== null) checkSmallPlace('sequenceOffsets', sequenceOffsets.source, x)
  if (weights !== null) checkSmallPlace('weights', weights.source, x)
  checkDevice('x', x.device)
}

/** A small operand may be on the host in any call. */
function checkSmallPlace(argument: string, source: Operand | null, x: Operand): void {
  if (source !== null && source.device !== CPU) checkPlace(argument, source, 'x', x)
}

/** Checks that y of a forward call has the problem's shape and type, and shares memory with no operand. */
export function checkY({ x, a, router, b, dOut }: Problem, y: Output | null, settings: ForwardSettings): void {
  if (y === null) return
  checkTokenRows('y', y.operand, x.rows, dOut)
  checkType('y', y.operand, x.dtype)
  refuseOverlap('y', y.operand, 'x', x)
  refuseOverlap('y', y.operand, 'a', a)
  refuseOverlap('y', y.operand, 'router', router)
  refuseOverlap('y', y.operand, 'b', b)
  refuseOverlap('y', y.operand, 'mask', settings.mask?.source)
  refuseOverlap('y', y.operand, 'sequenceOffsets', settings.sequenceOffsets?.source)
  refuseOverlap('y', y.operand, 'weights', settings.weights?.source)
}

/** Checks the frozen layer below the adapter, if there is one. */
export function checkFrozen({ dOut, dIn }: Problem, { x, weight, bias, y }: ForwardInputs): void {
  if (weight === null) {
    if (bias !== null)
      fail('ERR_LILY_ARGUMENT', 'bias', 'is given without a weight; pass the weight too, or leave it out')
    return
  }
  refuseWebGpu('weight', 'a frozen linear layer', x.device)
  checkMatrix('weight', weight.operand, dOut, dIn)
  checkLinear({ x, weight, bias, y }, false)
}

/** Checks the gradients of a backward call. */
export function checkGradients(state: CallState, inputs: BackwardInputs, settings: BackwardSettings): void {
  const { problem } = state
  const { a, router, b } = problem
  const { dy, dx, da, dRouter, db } = inputs
  const x = inputs.x ?? problem.x
  checkNeeded(problem, inputs, settings)
  checkVersions(state, ['a', 'router', 'b', 'weight'])
  if (state.isUsed) {
    fail(
      'ERR_LILY_ARGUMENT',
      'saved',
      'expected one that no backward has used, got one that has; run forward again, or pass retain: true to the ' +
        'first of several backward calls',
    )
  }

  // The operands of forward may have been disposed of or detached since.
  checkSameX(x, problem.x)
  checkDevice('x', x.device)
  checkPlace('x', x, 'x', x)
  checkPlace('a', a, 'x', x)
  checkPlace('router', router, 'x', x)
  checkPlace('b', b, 'x', x)
  if (state.weight !== null) checkSavedWeight(state.weight, x)
  checkKept(state)
  checkPlace('dy', dy, 'x', x)
  checkTokenRows('dy', dy, problem.tokens, problem.dOut)
  checkType('dy', dy, x.dtype)
  if (dx !== null) {
    checkPlace('dx', dx.operand, 'x', x)
    checkTokenRows('dx', dx.operand, problem.tokens, problem.dIn)
    checkType('dx', dx.operand, x.dtype)
  }
  if (da !== null) {
    checkPlace('da', da.operand, 'x', x)
    checkMatrix('da', da.operand, problem.rank, problem.dIn)
    checkTypeOrFloat32('da', da.operand, a.dtype)
  }
  if (dRouter !== null) {
    checkPlace('dRouter', dRouter.operand, 'x', x)
    checkMatrix('dRouter', dRouter.operand, problem.experts, problem.rank)
    checkTypeOrFloat32('dRouter', dRouter.operand, a.dtype)
  }
  if (db !== null) {
    checkPlace('db', db.operand, 'x', x)
    checkDb(db.operand, problem)
    checkTypeOrFloat32('db', db.operand, b.dtype)
  }
  checkOverlaps(state, x, inputs)
}

/**
 * Checks that no optimiser has changed a parameter since forward.
 *
 * @param names of a, router, b and weight in the error
 */
export function checkVersions(state: CallState, names: readonly [string, string, string, string]): void {
  const { versions } = state
  if (versions === null) return
  const now = versionsOf(state)
  const changed = names.find((_, i) => now[i] !== versions[i])
  if (changed === undefined) return
  fail(
    'ERR_LILY_ARGUMENT',
    changed,
    'expected the values of forward, but an optimiser has changed them since; run backward before step(), or forward again',
  )
}

/** Checks that an x that is given again is like that of forward. */
function checkSameX(x: Operand, saved: Operand): void {
  checkSameDevice('x', x, 'the x of forward', saved)
  checkShape('x', x, saved.shape)
  checkType('x', x, saved.dtype)
}

/** Checks that the tensors of `saved` have their memory: on the host the caller can transfer it. */
function checkKept({ problem, kept, weights }: CallState): void {
  if (kept !== null && problem.keptBytes > 0) checkAttached('saved', kept)
  if (weights !== null && problem.groups > 0) checkAttached('saved', weights.memory)
}

/** Checks that no gradient is given that the options switch off or that the routing does not have. */
function checkNeeded({ routing, router }: Problem, inputs: BackwardInputs, { needs, deferB }: BackwardSettings): void {
  for (const name of GRADIENTS) {
    if (inputs[name] === null || needs[name]) continue
    fail('ERR_LILY_ARGUMENT', name, `is given, but needs.${name} is false; leave out one of them`)
  }
  if (router === null && inputs.dRouter !== null) {
    fail('ERR_LILY_ARGUMENT', 'dRouter', `routing '${routing}' has no router; leave it out`)
  }
  if (!deferB) return
  if (!needs.db) fail('ERR_LILY_ARGUMENT', 'deferB', 'leaves db to foldB, but needs.db is false; leave out one of them')
  if (inputs.db !== null) {
    fail('ERR_LILY_ARGUMENT', 'db', 'is given, but deferB leaves db to foldB; give it to foldB, or leave out deferB')
  }
}

/** Checks that a given gradient shares no memory with an operand, with the memory of the saved call, or with another gradient. */
function checkOverlaps({ problem, kept, weights, weight }: CallState, x: Operand, inputs: BackwardInputs): void {
  const { a, router, b } = problem
  const given = weights !== null && weights.memory !== kept ? weights.memory : null
  for (let i = 0; i < GRADIENTS.length; i++) {
    const name = GRADIENTS[i]
    const output = inputs[name]?.operand
    if (output === undefined) continue
    refuseOverlap(name, output, 'dy', inputs.dy)
    refuseOverlap(name, output, 'x', x)
    refuseOverlap(name, output, 'a', a)
    refuseOverlap(name, output, 'router', router)
    refuseOverlap(name, output, 'b', b)
    refuseOverlap(name, output, 'weight', weight?.operand)
    refuseBuffer(name, output, 'saved', kept)
    refuseBuffer(name, output, 'saved.weights', given)
    for (let j = 0; j < i; j++) refuseOverlap(name, output, GRADIENTS[j], inputs[GRADIENTS[j]]?.operand)
  }
}

/** Checks that db has the shape in which the operation stores b. */
function checkDb(db: Operand, { routing, experts, rank, dOut }: Problem): void {
  if (routing === 'none') checkMatrix('db', db, dOut, rank)
  else checkExpertStack('db', db, experts, rank, dOut)
}
