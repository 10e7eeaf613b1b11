/**
 * Calls with an adapter for each row whose adapters are stacked: a [sum r, d_in] has the rows of one adapter after the other,
 * and `rankOffsets` says where each begins.
 */
import { checkActivations, checkColumnsOfA, checkExperts, checkMatrix, checkTypeOrFloat32 } from '../base/checks.js'
import { fail } from '../base/errors.js'
import { MAX_RANK } from '../base/limits.js'
import { shapeText } from '../base/shape.js'
import { blockOf, type Operand } from '../memory/operand.js'
import type { ForwardCall } from './allocate.js'
import { checkPerSegment, checkScale, refuseOnDevice, type Segments, segmentsOf } from './assignment.js'
import { checkPresence, expertsOf } from './check-routing.js'
import { checkNeeded } from './check.js'
import { Output } from './output.js'
import type { Routing } from './problem.js'
import type { BackwardInputs, BackwardSettings, ForwardInputs, ForwardSettings } from './read.js'
import {
  failDropout,
  joinBackward,
  joinForward,
  type ParameterGradients,
  type RowsAdapter,
  type RowsBackwardCall,
} from './rows.js'
import type { Parameters, RowsState } from './rows-state.js'
import { checkOperation, type Operation } from './saved.js'
import { checkWeights, type SmallOperand } from './small-operands.js'

/** Whether a call is given an adapter for each row, or a part of that. */
export function hasRows({ rankOffsets, adapterOf, scale }: ForwardSettings): boolean {
  return rankOffsets !== null || adapterOf !== null || scale !== null
}

/** Where the parameters of the adapters lie in the parameters of the stack. */
interface Stack {
  readonly routing: Routing | 'none'
  /** E, which all adapters share; 1 for LoRA. */
  readonly experts: number
  /** [K + 1]: the first row of a of each adapter, and the number of rows. */
  readonly ranks: ArrayLike<number>
}

/** The part of a stacked parameter, or of its gradient, that adapter k has. */
function partOf(name: keyof Parameters, of: Operand, { routing, experts, ranks }: Stack, k: number): Operand {
  const [start, rank] = [ranks[k], ranks[k + 1] - ranks[k]]
  if (name === 'router' && routing === 'learned') return blockOf(of, 0, of.rows, k, 1)
  if (name === 'router' || (name === 'b' && routing === 'none')) return blockOf(of, 0, of.rows, start, rank)
  const each = name === 'a' ? 1 : experts
  return blockOf(of, each * start, each * rank, 0, of.columns)
}

/**
 * The phases of a forward call of stacked adapters between reading and running. Without `save` it leaves out the adapters
 * that have no rows, but keeps one, whose checks cover the stack.
 */
export function prepareStacked(
  inputs: ForwardInputs,
  settings: ForwardSettings,
  problemOf: RowsAdapter['problemOf'],
  isLora: boolean,
): ForwardCall<RowsState> {
  const { x, weight, bias, a, router, b, y } = inputs
  const { rankOffsets, adapterOf } = checkGiven(settings)
  const { routing, pool, activation, scaling } = settings
  if (!isLora) checkPresence(router, { ...settings, sequenceOffsets: null }) // of any routing: adapters have sequences
  checkActivations(x)
  checkColumnsOfA(a, x.columns)
  const ranks = checkRanks(rankOffsets, a)
  const adapters = ranks.length - 1
  const experts = isLora ? 1 : checkExpertsOf(inputs, routing === 'learned' ? adapters : null)
  checkB(b, a, experts, isLora)
  const weights = settings.weights && checkRowsOfWeights(settings.weights, adapters, experts)
  const segments = segmentsOf(x, settings)
  const of = checkAdapterOf(adapterOf, adapters, segments, x)
  const scale = settings.scale && checkScale(settings.scale, segments, x)

  const stack = { routing: isLora ? 'none' : routing, experts, ranks } as const
  const used = settings.save ? Array.from({ length: adapters }, (_, k) => k) : renumber(of, adapters)
  const list = used.map((k): RowsAdapter => {
    const own = { routing, pool, activation, scaling, weights: weights && weights[k] }
    const [ofA, ofB] = [partOf('a', a, stack, k), partOf('b', b, stack, k)]
    return { a: ofA, router: router && partOf('router', router, stack, k), b: ofB, settings: own, problemOf }
  })
  const dOut = isLora ? b.rows : b.columns
  return joinForward({ x, weight, bias, y, dOut }, list, { segments, of, scale }, settings, [{ a, router, b }])
}

/** The adapters that have a segment, or the first one; `of` then has their places in this list. */
function renumber(of: Int32Array, adapters: number): number[] {
  const places = new Int32Array(adapters).fill(-1)
  const used: number[] = []
  for (let g = 0; g < of.length; g++) {
    const k = of[g]
    if (k < 0) continue
    if (places[k] < 0) places[k] = used.push(k) - 1
    of[g] = places[k]
  }
  return used.length === 0 ? [0] : used
}

const GRADIENTS = [
  ['da', 'a'],
  ['dRouter', 'router'],
  ['db', 'b'],
] as const

/** The phases of a backward call of stacked adapters between reading and running. */
export function prepareStackedBackward(
  state: RowsState,
  inputs: BackwardInputs,
  settings: BackwardSettings,
  of: Operation,
): RowsBackwardCall {
  const { adapters, tensors } = state
  checkOperation('saved', adapters[0].problem, of)
  const [stacked] = tensors
  const { routing, experts } = adapters[0].problem
  checkNeeded({ routing, router: stacked.router }, inputs, settings)
  for (const [name, parameter] of GRADIENTS) {
    const [operand, gradient] = [stacked[parameter], inputs[name]?.operand]
    if (operand === null || gradient === undefined) continue
    checkMatrix(name, gradient, operand.rows, operand.columns)
    checkTypeOrFloat32(name, gradient, operand.dtype)
  }
  const ranks = [0]
  for (const [k, { problem }] of adapters.entries()) ranks.push(ranks[k] + problem.rank)
  const stack = { routing, experts, ranks }
  const gradients: Partial<Record<keyof ParameterGradients, Output | null>> = {}
  const call = joinBackward(state, inputs, [inputs], settings, (placement) => {
    const each = adapters.map((): Record<keyof ParameterGradients, Output | null> => ({ ...NO_GRADIENTS }))
    for (const [name, parameter] of GRADIENTS) {
      const [operand, given] = [stacked[parameter], inputs[name]]
      if (given !== null) given.accumulate = settings.accumulateParameters
      const isNew = given === null && settings.needs[name] && operand !== null
      const output = isNew ? Output.fresh(name, operand.dtype, operand.shape, placement) : given
      gradients[name] = output
      if (output === null) continue
      for (const [k, own] of each.entries()) own[name] = output.in(partOf(parameter, output.operand, stack, k))
    }
    return each
  })
  return { ...call, gradients: { ...call.gradients, ...gradients } }
}

const NO_GRADIENTS: ParameterGradients = { da: null, dRouter: null, db: null }

function checkGiven({ rankOffsets, adapterOf, scale, dropout }: ForwardSettings) {
  if (dropout !== null) failDropout()
  if (adapterOf === null) {
    if (rankOffsets === null) {
      if (scale === null) fail('ERR_LILY_ARGUMENT', 'sequenceOffsets', 'goes with adapterOf; leave it out')
      fail('ERR_LILY_ARGUMENT', 'scale', 'goes with adapterOf; use scaling, or leave it out')
    }
    fail(
      'ERR_LILY_ARGUMENT',
      'adapterOf',
      'is required with rankOffsets, got undefined; pass the adapter of each sequence or token',
    )
  }
  if (rankOffsets === null) {
    fail(
      'ERR_LILY_ARGUMENT',
      'rankOffsets',
      'is required with adapterOf, got undefined; pass the first row of a of each adapter, and the number of rows of a',
    )
  }
  return { rankOffsets, adapterOf }
}

/** Checks the offsets of the ranks, [K + 1]. Each is larger than the one before, by at most the limit of a rank. */
function checkRanks(operand: SmallOperand, { rows }: Operand): SmallOperand['numbers'] {
  const argument = 'rankOffsets'
  refuseOnDevice(argument, operand)
  const { numbers, shape } = operand
  if (shape.length !== 1 || shape[0] < 2) {
    fail('ERR_LILY_SHAPE', argument, `expected [K + 1] of K adapters, such as [0, ${rows}], got ${shapeText(shape)}`)
  }
  if (numbers[0] !== 0) fail('ERR_LILY_ARGUMENT', argument, `the first offset must be 0, got ${numbers[0]}`)
  for (let k = 1; k < numbers.length; k++) {
    const rank = numbers[k] - numbers[k - 1]
    if (!Number.isSafeInteger(rank) || rank < 1) {
      fail(
        'ERR_LILY_ARGUMENT',
        argument,
        `offsets must ascend by 1 to ${MAX_RANK}: element ${k} is ${numbers[k]} after ${numbers[k - 1]}`,
      )
    }
    if (rank > MAX_RANK) {
      fail('ERR_LILY_SHAPE', argument, `expected ranks from 1 to ${MAX_RANK}, got ${rank} for adapter ${k - 1}`)
    }
  }
  const last = numbers[numbers.length - 1]
  if (last !== rows) {
    fail('ERR_LILY_ARGUMENT', argument, `the last offset must be the number of rows of a, ${rows}, got ${last}`)
  }
  return numbers
}

/**
 * E of a stack: the rows of router, or the rows of b for each row of a.
 *
 * @param logits columns of router with learned routing, one for each adapter; null: it has sum r
 */
function checkExpertsOf({ a, router, b }: ForwardInputs, logits: number | null): number {
  if (router === null) return expertsOf(b, a.rows)
  const columns = logits ?? a.rows
  if (router.shape.length !== 2 || router.columns !== columns) {
    const why = logits === null ? `a has ${a.rows} rows` : 'a column of logits for each adapter'
    fail('ERR_LILY_SHAPE', 'router', `expected [E, ${columns}] (${why}), got ${shapeText(router.shape)}`)
  }
  checkExperts('router', router.rows)
  return router.rows
}

/** Checks a stacked b: [d_out, sum r] of LoRA; [E * sum r, d_out], in which each adapter has a stack of experts. */
function checkB({ shape, rows, columns }: Operand, a: Operand, experts: number, isLora: boolean): void {
  const [found, other] = isLora ? [columns, rows] : [rows, columns]
  const expected = experts * a.rows
  if (shape.length === 2 && found === expected && other >= 1) return
  const expectedShape = isLora ? `[d_out, ${expected}] (` : `[${expected}, d_out] (E ${experts}, `
  fail('ERR_LILY_SHAPE', 'b', `expected ${expectedShape}a has ${a.rows} rows), got ${shapeText(shape)}`)
}

/** Checks the weights of fixed routing, [K, E]. Returns the weights of each adapter. */
function checkRowsOfWeights(operand: SmallOperand, adapters: number, experts: number): SmallOperand[] {
  refuseOnDevice('weights', operand)
  const { numbers, shape } = operand
  if (shape.length !== 2 || shape[0] !== adapters || shape[1] !== experts) {
    fail(
      'ERR_LILY_SHAPE',
      'weights',
      `expected [${adapters}, ${experts}]: one row for each adapter; got ${shapeText(shape)}`,
    )
  }
  checkWeights(operand, adapters, experts)
  return Array.from({ length: adapters }, (_, k) => {
    const own = numbers.subarray(k * experts, (k + 1) * experts)
    return { numbers: own, shape: [experts], source: null }
  })
}

/** Checks the adapters of the segments, from -1 (the base) to K - 1. */
function checkAdapterOf(operand: SmallOperand, adapters: number, segments: Segments, x: Operand): Int32Array {
  refuseOnDevice('adapterOf', operand)
  const { numbers } = operand
  checkPerSegment('adapterOf', operand.shape, 'adapter', segments, x)
  for (let g = 0; g < numbers.length; g++) {
    const k = numbers[g]
    if (Number.isInteger(k) && k >= -1 && k < adapters) continue
    fail('ERR_LILY_ARGUMENT', 'adapterOf', `element ${g} must be from -1 (the base) to ${adapters - 1}, got ${k}`)
  }
  return new Int32Array(numbers)
}
