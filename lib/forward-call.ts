/** What the forward calls of Lily and LoRA have in common: operands in, checks of memory, results out. */
import { checkComputes, refuseDevice } from './backends.js'
import { checkPlace, checkTokenRows, checkType, refuseOverlap } from './checks.js'
import { CPU, type Operand } from './operand.js'
import { checkKeys, get, type Known } from './options.js'
import { Output } from './output.js'
import type { Problem } from './problem.js'
import { resolve, resolveFrom } from './resolve.js'
import type { Settings } from './settings.js'

export interface Inputs {
  readonly x: Operand
  readonly a: Operand
  readonly router: Operand | null
  readonly b: Operand
  readonly y: Output | null
}

/** Reads every operand, once. */
export function readInputs(operands: object, known: Known): Inputs {
  checkKeys('operands', operands, known)
  const router = get('operands', operands, 'router')
  return {
    x: resolveFrom(operands, 'x'),
    a: resolveFrom(operands, 'a'),
    router: router === undefined ? null : resolve('router', router),
    b: resolveFrom(operands, 'b'),
    y: Output.from(operands, 'y'),
  }
}

/** All operands are on one device that computes, and their memory is there. */
export function checkPlaces({ x, a, router, b, y }: Inputs, { mask, sequenceOffsets, weights }: Settings): void {
  checkPlace('x', x, 'x', x)
  checkPlace('a', a, 'x', x)
  checkPlace('router', router, 'x', x)
  checkPlace('b', b, 'x', x)
  if (y !== null) checkPlace('y', y.operand, 'x', x)
  if (mask !== null) checkPlace('mask', mask.source, 'x', x)
  if (sequenceOffsets !== null) checkPlace('sequenceOffsets', sequenceOffsets.source, 'x', x)
  if (weights !== null) checkPlace('weights', weights.source, 'x', x)
  if (x.device !== CPU) refuseDevice('x', x.device)
}

/** Checks y, then makes the memory that is not given. Nothing is refused after it. */
export function prepareOutput(problem: Problem, y: Output | null, settings: Settings): Output {
  const { x, a, router, b, dOut } = problem
  if (y !== null) {
    checkTokenRows('y', y.operand, x.rows, dOut)
    checkType('y', y.operand, x.dtype)
    refuseOverlap('y', y.operand, 'x', x)
    refuseOverlap('y', y.operand, 'a', a)
    refuseOverlap('y', y.operand, 'router', router)
    refuseOverlap('y', y.operand, 'b', b)
    refuseOverlap('y', y.operand, 'mask', settings.mask?.source)
    refuseOverlap('y', y.operand, 'sequenceOffsets', settings.sequenceOffsets?.source)
    refuseOverlap('y', y.operand, 'weights', settings.weights?.source)
    y.accumulate = settings.accumulate
  }
  checkComputes('x', x.dtype)
  if (settings.save) problem.keep()
  if (y !== null) return y
  const shape = x.shape.slice()
  shape[shape.length - 1] = dOut
  return Output.fresh('y', x.dtype, shape)
}
