/** A case against the reference. */
import { expect } from 'vitest'
import { backward, forward, Matrix } from '../reference.js'
import type { Case } from './cases.js'
import { expectClose, expectCloseAsPlain } from './compare.js'
import { type How as Call, type Result, run, wantedGradients } from './run.js'

interface How extends Call {
  /** Compares with the plain computation, too: for fixed problems of many numbers; of a few, one is luckier than the other. */
  plain?: boolean
}

/** Runs a case and compares all that it yields, memory around the operands included. */
export async function checkCase(c: Case, how: How = {}): Promise<void> {
  const result = await run(c, how)
  expect(result.damaged, 'operands written to where they must not be').toEqual([])
  checkResult(c, result, how)
}

/**
 * Every result against what a plain computation in the problem's data types may be expected to lose, and against what
 * that computation lost.
 */
export function checkResult(c: Case, { values, old }: Omit<Result, 'damaged'>, how: How = {}): void {
  const expected = expectedOf(c, old, how, true)
  expect(Object.keys(values).sort()).toEqual([...expected.keys()].sort())
  for (const [name, matrix] of expected) expectClose(name, valueOf(values, name), matrix)
  if (how.plain !== true || (c.activations ?? 'float32') === 'float32') return
  for (const [name, { value }] of expectedOf(c, old, how, false)) {
    expectCloseAsPlain(name, valueOf(values, name), expected.get(name)?.value ?? [], value)
  }
}

function valueOf(values: Result['values'], name: string): Float32Array {
  return values[name as keyof typeof values] ?? new Float32Array()
}

/** All that a call yields: exact, or as the plain computation rounds it. */
function expectedOf(c: Case, old: Result['old'], how: How, exact: boolean): Map<string, Matrix> {
  const { activations, parameters = activations, gradients: given = parameters } = c
  // With `gradients` only given outputs have that type.
  const ofGradients = (how.outputs ?? 'new') === 'new' ? parameters : given
  const saved = forward(c, exact)
  const gradients = backward(c, saved, c.dy, exact)
  const result = (name: keyof typeof old, matrix: Matrix) => {
    const before = how.outputs === 'add' ? old[name] : undefined
    const sum = before ? matrix.plus(Matrix.exact(matrix.rows, matrix.cols, before)) : matrix
    return sum.rounded(name === 'y' || name === 'dx' ? activations : ofGradients, exact)
  }
  const expected = new Map<string, Matrix>([
    ['y', result('y', saved.y)],
    ['hidden', saved.hidden],
  ])
  if (saved.probabilities) expected.set('probabilities', saved.probabilities)
  if (c.routing !== 'token' && c.routing !== 'lora') expected.set('weights', saved.weights)
  for (const name of wantedGradients(c, how.needs)) expected.set(name, result(name, gradients[name]))
  return expected
}
