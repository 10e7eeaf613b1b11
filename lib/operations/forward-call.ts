/** What the forward calls of Lily and LoRA have in common: operands in, checks of memory, results out. */
import { checkTokenRows, checkType } from '../base/checks.js'
import { checkKeys, get, type Known } from '../base/options.js'
import { checkDevice } from '../memory/backends.js'
import { checkPlace, checkSameDevice, refuseOverlap } from '../memory/checks.js'
import { CPU } from '../memory/device.js'
import type { Operand } from '../memory/operand.js'
import { Placement } from '../memory/placement.js'
import { resolve, resolveFrom } from '../tensor/resolve.js'
import type { Tensor } from '../tensor/tensor.js'
import { Output } from './output.js'
import type { Problem } from './problem.js'
import { type Saved, savedOf } from './saved.js'
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
  // Before a device is asked about its memory, which it may not have.
  checkSameDevice('a', a, 'x', x)
  checkSameDevice('router', router, 'x', x)
  checkSameDevice('b', b, 'x', x)
  checkPlace('x', x, 'x', x)
  checkPlace('a', a, 'x', x)
  checkPlace('router', router, 'x', x)
  checkPlace('b', b, 'x', x)
  if (y !== null) checkPlace('y', y.operand, 'x', x)
  if (mask !== null) checkIndexPlace('mask', mask.source, x)
  if (sequenceOffsets !== null) checkIndexPlace('sequenceOffsets', sequenceOffsets.source, x)
  if (weights !== null) checkIndexPlace('weights', weights.source, x)
  checkDevice('x', x.device)
}

/** The small operands may be on the host in any call. */
function checkIndexPlace(argument: string, source: Operand | null, x: Operand): void {
  if (source !== null && source.device !== CPU) checkPlace(argument, source, 'x', x)
}

/** A forward call that is ready to run. */
export interface ForwardCall {
  readonly problem: Problem
  readonly y: Output
  readonly placement: Placement | null
}

/** Checks y, then makes the memory that is not given. Nothing is refused after it. */
export function prepareForward(problem: Problem, y: Output | null, settings: Settings): ForwardCall {
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
  const placement = Placement.of(x.device, settings.stream, () => [...problem.located, y?.operand])
  if (placement !== null) problem.stage(placement)
  if (settings.save) problem.keep(placement)
  if (y !== null) return { problem, y, placement }
  const shape = x.shape.slice()
  shape[shape.length - 1] = dOut
  return { problem, y: Output.fresh('y', x.dtype, shape, placement), placement }
}

/** What the caller gets. */
export function finishForward({ problem, y }: ForwardCall): { y: Tensor; saved: Saved | undefined } {
  if (problem.kept !== null) return { y: y.tensor, saved: savedOf(problem) }
  problem.dispose()
  return { y: y.tensor, saved: undefined }
}
