/** Comparison of a case with the reference. */
import { expect } from 'vitest'
import { backward, type Forward, forward, type Gradients, Matrix } from './reference.js'
import { isSanitized } from './backend.js'
import type { Case } from './cases.js'
import { expectClose, expectCloseAsPlain } from './compare.js'
import { type How as Call, type Result, run, wantedGradients } from './run.js'

interface How extends Call {
  /** Compares with the plain computation, too. For fixed problems with many numbers: with few, errors vary too much. */
  plain?: boolean
}

/** Runs a case and compares all results, including the memory around the operands. */
export async function checkCase(c: Case, how: How = {}): Promise<void> {
  const result = await run(c, how)
  expect(result.damaged, 'operands written to where they must not be').toEqual([])
  checkResult(c, result, how)
}

/**
 * Compares the error of every result with the expected error of a plain computation in the data types of the problem, and
 * with the actual error of that computation.
 */
export function checkResult(c: Case, { values, old }: Omit<Result, 'damaged'>, how: How = {}): void {
  const expected = expectedOf(c, old, how, true)
  expect(Object.keys(values).sort()).toEqual([...expected.keys()].sort())
  for (const [name, matrix] of expected) expectClose(name, valueOf(values, name), matrix)
  // The plain computation takes longer than everything else.
  if (how.plain !== true || (c.activations ?? 'float32') === 'float32' || isSanitized) return
  for (const [name, { value }] of expectedOf(c, old, how, false)) {
    if (name === 'dWeights') continue // G E numbers, most of their error that of a few elements of hidden
    expectCloseAsPlain(name, valueOf(values, name), expected.get(name)?.value ?? [], value)
  }
}

function valueOf(values: Result['values'], name: string): Float32Array {
  return values[name as keyof typeof values] ?? new Float32Array()
}

interface Reference {
  saved: Forward
  gradients: Gradients
}

/** What the reference computed of a case, exactly and plainly: a case runs in several ways, or on several backends. */
const references = [new WeakMap<Case, Reference>(), new WeakMap<Case, Reference>()]

function referenceOf(c: Case, exact: boolean): Reference {
  const known = references[Number(exact)].get(c)
  if (known !== undefined) return known
  const saved = forward(c, exact)
  const reference = { saved, gradients: backward(c, saved, c.dy, exact) }
  references[Number(exact)].set(c, reference)
  return reference
}

/** All results of a call: exact, or rounded as in the plain computation. */
function expectedOf(c: Case, old: Result['old'], how: How, exact: boolean): Map<string, Matrix> {
  const { activations, parameters = activations, gradients: given = parameters } = c
  // `gradients` applies to given outputs only.
  const ofGradients = (how.outputs ?? 'new') === 'new' ? parameters : given
  const { saved, gradients } = referenceOf(c, exact)
  const result = (name: keyof typeof old, matrix: Matrix) => {
    const before = how.outputs === 'add' ? old[name] : undefined
    const sum = before ? matrix.plus(Matrix.exact(matrix.rows, matrix.cols, before)) : matrix
    const ofParameters = name === 'dWeights' ? 'float32' : ofGradients
    return sum.rounded(name === 'y' || name === 'dx' ? activations : ofParameters, exact)
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
