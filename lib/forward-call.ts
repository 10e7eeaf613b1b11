/** What the forward calls of Lily and LoRA have in common: operands in, checks of memory, results out. */
import { checkComputes, refuseDevice } from './backends.js'
import { checkPlace, checkTokenRows, checkType, refuseOverlap } from './checks.js'
import { failedToRead } from './errors.js'
import { CPU, type Operand } from './operand.js'
import { checkKeys, type Known } from './options.js'
import { Output } from './output.js'
import type { Problem } from './problem.js'
import { resolve } from './resolve.js'
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
  try {
    checkKeys('operands', operands, known)
    const { x, a, router, b, y } = operands as Readonly<Record<string, unknown>>
    return {
      x: resolve('x', x),
      a: resolve('a', a),
      router: router === undefined ? null : resolve('router', router),
      b: resolve('b', b),
      y: Output.read('y', y),
    }
  } catch (cause) {
    throw failedToRead('operands', cause)
  }
}

/** All operands are on one device that computes, and their memory is there. */
export function checkPlaces({ x, a, router, b, y }: Inputs, { mask, sequenceOffsets, weights }: Settings): void {
  checkPlace('x', x, 'x', x)
  checkPlace('a', a, 'x', x)
  checkPlace('router', router, 'x', x)
  checkPlace('b', b, 'x', x)
  if (y !== null) checkPlace('y', y.operand, 'x', x)
  if (mask !== null) checkPlace('mask', mask.device, 'x', x)
  if (sequenceOffsets !== null) checkPlace('sequenceOffsets', sequenceOffsets.device, 'x', x)
  if (weights !== null) checkPlace('weights', weights.device, 'x', x)
  if (x.device !== CPU) refuseDevice('x', x.device)
}

/** Checks y, then makes the memory that is not given. Nothing is refused after it. */
export function prepareOutput(problem: Problem, y: Output | null, { save, accumulate }: Settings): Output {
  const { x, a, router, b, dOut } = problem
  if (y !== null) {
    checkTokenRows('y', y.operand, x.rows, dOut)
    checkType('y', y.operand, x.dtype)
    refuseOverlap('y', y.operand, 'x', x)
    refuseOverlap('y', y.operand, 'a', a)
    refuseOverlap('y', y.operand, 'router', router)
    refuseOverlap('y', y.operand, 'b', b)
    y.accumulate = accumulate
  }
  checkComputes('x', x.dtype)
  if (save) problem.keep()
  if (y !== null) return y
  const shape = x.shape.slice()
  shape[shape.length - 1] = dOut
  return Output.fresh('y', x.dtype, shape)
}
