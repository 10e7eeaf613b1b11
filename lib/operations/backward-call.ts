/** What the backward calls of Lily and LoRA have in common: gradients in, checks, gradients out. */
import { checkExpertStack, checkMatrix, checkTokenRows, checkType, checkTypeOrFloat32 } from '../base/checks.js'
import { fail } from '../base/errors.js'
import { checkKeys, get, type Known, readFlag } from '../base/options.js'
import { allocate } from '../memory/allocate.js'
import { checkPlace, refuseBuffer, refuseOverlap } from '../memory/checks.js'
import type { Operand, OperandMemory } from '../memory/operand.js'
import { Placement, type StreamOption } from '../memory/placement.js'
import { resolveFrom } from '../tensor/resolve.js'
import { readStream } from '../tensor/stream-option.js'
import type { Tensor } from '../tensor/tensor.js'
import { Output } from './output.js'
import type { Problem } from './problem.js'
import type { State } from './saved.js'

const NAMES = ['dx', 'da', 'dRouter', 'db'] as const
type Name = (typeof NAMES)[number]
const ALL: Readonly<Record<Name, boolean>> = { dx: true, da: true, dRouter: true, db: true }

/** What a backward call computes; null: it does not. */
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
  readonly state: State
  readonly dy: Operand
  readonly gradients: Gradients
  readonly placement: Placement | null
}

interface Given extends Readonly<Record<Name, Output | null>> {
  readonly dy: Operand
}

interface Settings {
  readonly needs: Readonly<Record<Name, boolean>>
  readonly deferB: boolean
  readonly accumulate: boolean
  readonly stream: StreamOption
}

/** Reads every operand, once. */
export function readGradients(operands: object, known: Known): Given {
  checkKeys('operands', operands, known)
  return {
    dy: resolveFrom(operands, 'dy'),
    dx: Output.from(operands, 'dx'),
    da: Output.from(operands, 'da'),
    dRouter: Output.from(operands, 'dRouter'),
    db: Output.from(operands, 'db'),
  }
}

/** Reads every option, once. */
export function readBackwardSettings(options: object, known: Known, knownNeeds: Known): Settings {
  checkKeys('options', options, known)
  return {
    needs: readNeeds(get('options', options, 'needs'), knownNeeds),
    deferB: readFlag(options, 'deferB', false),
    accumulate: readFlag(options, 'accumulate', true),
    stream: readStream(options),
  }
}

function readNeeds(needs: unknown, known: Known): Readonly<Record<Name, boolean>> {
  if (needs === undefined) return ALL
  checkKeys('needs', needs, known)
  return {
    dx: readFlag(needs, 'dx', true, 'needs.dx'),
    da: readFlag(needs, 'da', true, 'needs.da'),
    dRouter: readFlag(needs, 'dRouter', true, 'needs.dRouter'),
    db: readFlag(needs, 'db', true, 'needs.db'),
  }
}

/** Checks everything, then makes the memory that is not given. Nothing is refused after it. */
export function prepareGradients(state: State, given: Given, settings: Settings): BackwardCall {
  const { problem } = state
  const { x, a, router, b } = problem
  const { dy, dx, da, dRouter, db } = given
  const { needs, deferB, accumulate } = settings
  checkWanted(problem, given, settings)

  // The operands of forward may have gone since.
  checkPlace('x', x, 'x', x)
  checkPlace('a', a, 'x', x)
  checkPlace('router', router, 'x', x)
  checkPlace('b', b, 'x', x)
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
    checkB(db.operand, problem)
    checkTypeOrFloat32('db', db.operand, b.dtype)
  }
  checkOverlaps(problem, given)

  const placement = Placement.of(x.device, settings.stream, () => [
    ...problem.located,
    ...[dy, dx?.operand, da?.operand, dRouter?.operand, db?.operand],
  ])
  const deferred = problem.deferredPartials * problem.rank * problem.dOut
  const gradients = {
    dx: output('dx', dx, needs.dx, accumulate, x, placement),
    da: output('da', da, needs.da, accumulate, a, placement),
    dRouter: router === null ? null : output('dRouter', dRouter, needs.dRouter, accumulate, router, placement),
    db: output('db', db, needs.db && !deferB, accumulate, b, placement),
    deferredDb: deferB ? allocate('deferB', 'float32', deferred, placement) : null,
  }
  return { state, dy, gradients, placement }
}

/** No gradient is both given and unwanted, or there is no such gradient. */
function checkWanted({ routing, router }: Problem, given: Given, { needs, deferB }: Settings): void {
  for (const name of NAMES) {
    if (given[name] === null || needs[name]) continue
    fail('ERR_LILY_ARGUMENT', name, `is given, but needs.${name} is false; leave out one of them`)
  }
  if (router === null && given.dRouter !== null) {
    fail('ERR_LILY_ARGUMENT', 'dRouter', `routing '${routing}' has no router; leave it out`)
  }
  if (!deferB) return
  if (!needs.db) fail('ERR_LILY_ARGUMENT', 'deferB', 'leaves db to foldB, but needs.db is false; leave out one of them')
  if (given.db !== null) {
    fail('ERR_LILY_ARGUMENT', 'db', 'is given, but deferB leaves db to foldB; give it to foldB, or leave out deferB')
  }
}

/** A given gradient shares no memory with an operand, with what forward kept, nor with another gradient. */
function checkOverlaps({ x, a, router, b, kept, weights }: Problem, given: Given): void {
  for (let i = 0; i < NAMES.length; i++) {
    const name = NAMES[i]
    const output = given[name]?.operand
    if (output === undefined) continue
    refuseOverlap(name, output, 'dy', given.dy)
    refuseOverlap(name, output, 'x', x)
    refuseOverlap(name, output, 'a', a)
    refuseOverlap(name, output, 'router', router)
    refuseOverlap(name, output, 'b', b)
    refuseBuffer(name, output, 'saved', kept)
    refuseBuffer(name, output, 'saved.weights', weights?.memory ?? null)
    for (let j = 0; j < i; j++) refuseOverlap(name, output, NAMES[j], given[NAMES[j]]?.operand)
  }
}

/** b as it is stored by the problem's operation, or its gradient. */
function checkB(db: Operand, { routing, experts, rank, dOut }: Problem): void {
  if (routing === 'none') checkMatrix('db', db, dOut, rank)
  else checkExpertStack('db', db, experts, rank, dOut)
}

function output(
  name: Name,
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

/** What the caller gets: only what was computed. */
export function tensorsOf({ dx, da, dRouter, db }: Gradients): Partial<Record<Name, Tensor>> {
  const tensors: Partial<Record<Name, Tensor>> = {}
  if (dx !== null) tensors.dx = dx.tensor
  if (da !== null) tensors.da = da.tensor
  if (dRouter !== null) tensors.dRouter = dRouter.tensor
  if (db !== null) tensors.db = db.tensor
  return tensors
}
