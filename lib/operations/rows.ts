/**
 * Many adapters in one call: each row of x has one adapter, or none (docs/math.md, "Adapters per row"). Such a call is a
 * list of ordinary calls over disjoint rows of one x and one y, whose steps a backend runs together.
 *
 * Stacked tensors (stacked.ts) and the layers of several models (lib/model) prepare it with the functions of this file. They
 * read their arguments, find the adapter of each segment of x, and then
 *
 *     const segments = segmentsOf(x, settings)           // what has an adapter: a sequence, or a token (assignment.ts)
 *     const call = joinForward({ x, weight, bias, y, dOut }, adapters, { segments, of, scale }, settings)
 *     const { y, saved } = runForward(call)              // saved: RowsSaved; saved.adapters is in the order of the list
 *
 *     const state = readRowsSaved('saved', saved)        // state.adapters[k].problem has the parameters of adapter k
 *     const call = joinBackward(state, { dy, x, dx }, gradients, settings)
 *     const { dx } = runBackward(call)
 *
 * Both check all that does not depend on how the adapters are given, and write nothing.
 */
import { checkActivations, checkTokenRows, checkType } from '../base/checks.js'
import { fail } from '../base/errors.js'
import { webGpu } from '../binding/devices.js'
import { allocate } from '../memory/allocate.js'
import { checkDevice } from '../memory/backends.js'
import { checkPlace, checkSameDevice, refuseBuffer, refuseOverlap } from '../memory/checks.js'
import { isDeviceMemory, type OperandMemory } from '../memory/operand-memory.js'
import { Operand, type Part } from '../memory/operand.js'
import { Placement } from '../memory/placement.js'
import { type BackwardCall, type ForwardCall, upload } from './allocate.js'
import { type Assignment, assign, gatherMask, gatherScale, type Rows, type Segments } from './assignment.js'
import {
  BACKWARD_ROWS,
  type Call,
  type Entry,
  FORWARD_ROWS,
  gpuBackwardRows,
  gpuForwardRows,
  gpuLinear,
  type RowsProblem,
  rowsSizes,
} from './call.js'
import { CallState } from './call-state.js'
import { failWithoutSequences } from './check-routing.js'
import {
  checkFrozen,
  checkKept,
  checkSameX,
  checkSavedWeight,
  checkUnused,
  checkVersions,
  checkWanted,
} from './check.js'
import { allocateLinear } from './linear-problem.js'
import { Output } from './output.js'
import { aligned, type Problem } from './problem.js'
import type { BackwardSettings, ForwardInputs, ForwardSettings, OwnSettings, ProblemSettings } from './read.js'
import { locatedOf, type Parameters, RowsState } from './rows-state.js'

/** An adapter of a forward call. */
export interface RowsAdapter extends Parameters {
  /** All other settings belong to the call. */
  readonly settings: OwnSettings
  /** `lilyProblem` or `loraProblem`. */
  readonly problemOf: (inputs: ForwardInputs, settings: ProblemSettings) => Problem
}

/** The adapters of the segments of x. */
export interface RowsOf {
  readonly segments: Segments
  /** [segments.count]: the index of the adapter in the list, -1 for none. */
  readonly of: ArrayLike<number>
  /** [segments.count]: the factor on the adapter's output; null: 1. */
  readonly scale: Float32Array | null
}

/** The operands of a forward call that do not belong to an adapter. */
export interface RowsInputs extends Pick<ForwardInputs, 'x' | 'weight' | 'bias' | 'y'> {
  readonly dOut: number
}

/** The same of a backward call. */
export interface RowsBackwardInputs {
  readonly dy: Operand
  /** In the place of the x of forward; null: that x. */
  readonly x: Operand | null
  readonly dx: Output | null
}

/** The gradients of the parameters of an adapter, or of a stack; null: not computed. */
export type ParameterGradients = Readonly<Record<'da' | 'dRouter' | 'db', Output | null>>

/** A backward call of several adapters that is ready to run. */
export type RowsBackwardCall = Pick<BackwardCall, 'gradients' | 'retain' | 'work'> & { readonly state: RowsState }

const PARAMETERS = ['a', 'router', 'b'] as const
const PARAMETER_GRADIENTS = ['da', 'dRouter', 'db'] as const

/**
 * The phases of a forward call between reading and running.
 *
 * @param adapters in any order, of one device and type. An adapter may have no rows
 * @param settings of the call. Its mask is for the adapters that pool tokens
 * @param tensors what the caller passed, if the parameters of the adapters are parts of that
 */
export function joinForward(
  inputs: RowsInputs,
  adapters: readonly RowsAdapter[],
  { segments, of, scale }: RowsOf,
  settings: ForwardSettings<null>,
  tensors: readonly Parameters[] = adapters,
): ForwardCall<RowsState> {
  const { x, weight, bias, y, dOut } = inputs
  checkOperands(inputs, tensors)
  if (settings.dropout !== null) failDropout()
  const divides = adapters.map((adapter) => adapter.settings.routing === 'sequence')
  if (segments.offsets === null && divides.includes(true)) failWithoutSequences('sequence', x)
  const assignment = assign(of, segments, divides)
  const calls = adapters.map((adapter, k) => problemOf(x, adapter, assignment.rows[k], settings))
  const mask = gatherMask(settings.mask, x, assignment)
  const factors = gatherScale(scale, segments, assignment)
  if (weight !== null || bias !== null) checkFrozen({ dOut, dIn: x.columns }, inputs)

  const given = [weight?.operand, bias, y?.operand]
  const placement = Placement.of(x.device, settings.stream, () => [x, ...locatedOf(tensors), ...given])
  const problem = rowsProblem(inputs, tensors, calls, assignment, settings)
  const weights = calls.map(({ small }) => (small.weights?.memory ?? null) as Float32Array | null)
  const arrays = [assignment.index, mask, factors, ...weights]
  const uploaded = placement && upload(arrays, placement)
  const staged = uploaded && uploaded.memory
  const parts = uploaded?.parts ?? arrays.map((memory) => memory && { memory, byteOffset: 0 })
  const small = [parts[0] as Part, parts[1], parts[2]] as const
  const { kept, starts } = settings.save ? allocateKept(calls, placement) : NOT_KEPT
  const states = calls.map((call, k) => {
    const own = staged && {
      memory: staged.retain(),
      mask: null,
      sequenceOffsets: null,
      draw: null,
      weights: parts[small.length + k],
    }
    return new CallState(call, own, kept !== null && isDeviceMemory(kept) ? kept.retain() : kept, null, starts[k] ?? 0)
  })
  const state = new RowsState(problem, x, states, tensors, weight, assignment, small, staged, kept)

  if (y !== null) y.accumulate = settings.accumulate
  const linear = weight && allocateLinear({ x, weight, bias, y }, settings, placement, false)
  const output = linear?.y ?? y ?? Output.fresh('y', x.dtype, [...x.shape.slice(0, -1), dOut], placement)
  const call = forwardCall(state, linear === null ? output : output.addedTo(), placement)
  const gpu = () => [...(linear === null ? [] : [gpuLinear(linear.call)]), gpuForwardRows(call)]
  const work = { calls: linear === null ? [call] : [linear.call, call], placement, gpu }
  return { state, y: output, work }
}

/** The error about dropout in a call of several adapters. */
export function failDropout(): never {
  fail('ERR_LILY_ARGUMENT', 'dropout', 'does not go with an adapter per row; leave it out, or call each adapter alone')
}

/** Checks the operands of a forward call but for the shapes of the parameters. */
function checkOperands({ x, y, dOut }: RowsInputs, tensors: readonly Parameters[]): void {
  // The others are compared with x, which a createLily object names itself if it is elsewhere.
  if (webGpu.current !== null) checkDevice('x', x.device)
  // This comes before checkPlace, which queries x's device for memory that may belong to another device.
  forParameters(tensors, (name, parameter) => checkSameDevice(name, parameter, 'x', x))
  checkPlace('x', x, 'x', x)
  forParameters(tensors, (name, parameter) => checkPlace(name, parameter, 'x', x))
  checkActivations(x)
  if (y === null) return
  checkPlace('y', y.operand, 'x', x)
  checkTokenRows('y', y.operand, x.rows, dOut)
  checkType('y', y.operand, x.dtype)
  refuseOverlap('y', y.operand, 'x', x)
  forParameters(tensors, (name, parameter) => refuseOverlap('y', y.operand, name, parameter))
}

/** Calls `check` with each parameter, in the order of PARAMETERS. */
function forParameters(
  tensors: readonly Parameters[],
  check: (name: keyof Parameters, parameter: Operand | null) => void,
): void {
  for (const { a, router, b } of tensors) {
    check('a', a)
    check('router', router)
    check('b', b)
  }
}

/** The call of one adapter, which reads of x only what a call over its rows alone would know. */
function problemOf(
  x: Operand,
  { a, router, b, settings, problemOf: of }: RowsAdapter,
  rows: Rows,
  { precision }: Pick<ForwardSettings, 'precision'>,
): Problem {
  const { memory, byteOffset, dtype, device, columns, pitch } = x
  const matrix = { rows: rows.count, columns, pitch, byteLength: 0 }
  const own = new Operand(memory, byteOffset, dtype, device, [rows.count, columns], null, matrix)
  const { offsets } = rows
  const sequenceOffsets = offsets && { numbers: offsets, shape: [offsets.length], source: null }
  const { routing, pool, activation, scaling, weights } = settings
  return of(
    { x: own, weight: null, bias: null, a, router, b, y: null },
    { routing, pool, activation, scaling, weights, precision, mask: null, sequenceOffsets, dropout: null },
  )
}

function rowsProblem(
  { x, dOut }: RowsInputs,
  tensors: readonly Parameters[],
  calls: readonly Problem[],
  { index, rows, listed }: Assignment,
  { precision }: Pick<ForwardSettings, 'precision'>,
): RowsProblem {
  const indices = index.length
  return {
    precision,
    dtype: x.dtype,
    parameterDtype: tensors.length === 0 ? x.dtype : tensors[0].a.dtype,
    tokens: x.rows,
    dIn: x.columns,
    dOut,
    listed,
    indices,
    calls,
    firsts: rows.map(({ first }) => first),
    sizes: rowsSizes({ listed, indices }),
  }
}

/** Allocates one block for hidden, probabilities and weights of all adapters, and where each begins in it. */
function allocateKept(calls: readonly Problem[], placement: Placement | null): Kept {
  let bytes = 0
  const starts = calls.map(({ keptBytes }) => {
    const start = bytes
    bytes = aligned(start + keptBytes)
    return start
  })
  return { kept: allocate('saved', 'float32', bytes / Float32Array.BYTES_PER_ELEMENT, placement), starts }
}

interface Kept {
  readonly kept: OperandMemory | null
  readonly starts: readonly number[]
}

const NOT_KEPT: Kept = { kept: null, starts: [] }

/** In the order of forwardRowsSlots. */
function forwardCall(state: RowsState, y: Output, placement: Placement | null): Call<RowsProblem> {
  const { problem, x, small } = state
  const operands: Entry[] = [x, y, ...small]
  for (const { problem: of, hidden, probabilities, weights } of state.adapters) {
    operands.push(of.a, of.router, of.b, hidden, probabilities, weights)
  }
  return { kind: FORWARD_ROWS, problem, operands, placement }
}

/**
 * The phases of a backward call between reading and running.
 *
 * @param given the gradients that the caller gives, in the order of `state.tensors`, with the shapes of the parameters
 * @param gradientsOf the gradients of each adapter, if those that are given are of stacked parameters
 */
export function joinBackward(
  state: RowsState,
  inputs: RowsBackwardInputs,
  given: readonly ParameterGradients[],
  settings: BackwardSettings<boolean | null>,
  gradientsOf: (placement: Placement | null) => readonly ParameterGradients[] = () => given,
): RowsBackwardCall {
  const { problem, weight } = state
  const { dy, dx } = inputs
  const x = inputs.x ?? state.x
  const { needs, retain, accumulate } = settings
  checkBackward(state, inputs, x, given, settings)

  const placement = Placement.of(x.device, settings.stream, () => [
    ...state.located,
    x,
    dy,
    dx?.operand,
    ...given.flatMap((of) => PARAMETER_GRADIENTS.map((name) => of[name]?.operand)),
  ])
  if (dx !== null) dx.accumulate = accumulate
  const frozen = needs.dx && weight !== null ? { x: dy, weight, bias: null, y: dx } : null
  const linear =
    frozen && allocateLinear(frozen, { precision: problem.precision, accumulate }, placement, true, x.shape)
  const ofX = linear?.y ?? dx ?? (needs.dx ? Output.fresh('dx', x.dtype, x.shape, placement) : null)
  const added = linear === null ? ofX : linear.y.addedTo()
  const call = backwardCall(state, dy, x, added, gradientsOf(placement), placement)
  const gpu = () => [...(linear === null ? [] : [gpuLinear(linear.call)]), gpuBackwardRows(call)]
  const work = { calls: linear === null ? [call] : [linear.call, call], placement, gpu }
  return { state, gradients: { dx: ofX, da: null, dRouter: null, db: null, dWeights: null }, retain, work }
}

/** In the order of backwardRowsSlots. */
function backwardCall(
  { problem, adapters, small }: RowsState,
  dy: Operand,
  x: Operand,
  dx: Output | null,
  gradients: readonly ParameterGradients[],
  placement: Placement | null,
): Call<RowsProblem> {
  const operands: Entry[] = [dy, x, dx, ...small]
  for (const [k, { problem: of, hidden, probabilities, weights }] of adapters.entries()) {
    const { da, dRouter, db } = gradients[k]
    operands.push(of.a, of.router, of.b, hidden, probabilities, weights, da, dRouter, db)
  }
  return { kind: BACKWARD_ROWS, problem, operands, placement }
}

/** Checks a backward call but for the shapes of the gradients of parameters. */
function checkBackward(
  state: RowsState,
  { dy, dx }: RowsBackwardInputs,
  x: Operand,
  given: readonly ParameterGradients[],
  { needs, deferB }: BackwardSettings<boolean | null>,
): void {
  const { problem, tensors, versions, weight, kept, adapters } = state
  checkWanted({ dx }, needs)
  if (needs.dWeights) {
    fail('ERR_LILY_ARGUMENT', 'needs.dWeights', 'does not go with an adapter per row; leave it out')
  }
  if (deferB === true) {
    fail('ERR_LILY_ARGUMENT', 'deferB', 'does not go with an adapter per row: each adapter has a db; leave it out')
  }
  for (const [i, of] of tensors.entries()) checkVersions({ problem: of, versions: versions?.[i] ?? null }, PARAMETERS)
  checkUnused(state)

  // The operands of forward may have been disposed of or detached since.
  checkSameX(x, state.x)
  checkDevice('x', x.device)
  checkPlace('x', x, 'x', x)
  forParameters(tensors, (name, parameter) => checkPlace(name, parameter, 'x', x))
  if (weight !== null) checkSavedWeight(weight, 'x', x)
  for (const adapter of adapters) checkKept(adapter)
  checkPlace('dy', dy, 'x', x)
  checkTokenRows('dy', dy, problem.tokens, problem.dOut)
  checkType('dy', dy, problem.dtype)
  if (dx !== null) {
    checkPlace('dx', dx.operand, 'x', x)
    checkTokenRows('dx', dx.operand, problem.tokens, problem.dIn)
    checkType('dx', dx.operand, problem.dtype)
    checkOutput('dx', dx.operand)
    forParameters(tensors, (name, parameter) => refuseOverlap('dx', dx.operand, name, parameter))
  }
  for (const [i, of] of given.entries()) {
    for (const [j, name] of PARAMETER_GRADIENTS.entries()) {
      const gradient = of[name]?.operand
      if (gradient === undefined) continue
      checkPlace(name, gradient, 'x', x)
      checkOutput(name, gradient)
      for (const other of PARAMETERS) refuseOverlap(name, gradient, other, tensors[i][other])
      refuseOverlap(name, gradient, 'dx', dx?.operand)
      for (let other = 0; other < j; other++) {
        refuseOverlap(name, gradient, PARAMETER_GRADIENTS[other], of[PARAMETER_GRADIENTS[other]]?.operand)
      }
    }
  }

  function checkOutput(name: string, output: Operand): void {
    refuseOverlap(name, output, 'dy', dy)
    refuseOverlap(name, output, 'x', x)
    refuseOverlap(name, output, 'weight', weight?.operand)
    refuseBuffer(name, output, 'saved', kept)
  }
}
