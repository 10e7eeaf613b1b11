/** A case against the reference. */
import { expect } from 'vitest'
import { backward, forward, Matrix } from '../reference.js'
import type { Case } from './cases.js'
import { expectClose } from './compare.js'
import { run, wantedGradients, type How, type Result } from './run.js'

/** Runs a case and compares all that it yields, memory around the operands included. */
export async function checkCase(c: Case, how: How = {}): Promise<void> {
  const result = await run(c, how)
  expect(result.damaged, 'operands written to where they must not be').toEqual([])
  checkResult(c, result, how)
}

export function checkResult(c: Case, { values, old }: Omit<Result, 'damaged'>, how: How = {}): void {
  const saved = forward(c)
  const gradients = backward(c, saved, c.dy)
  const added = (name: keyof typeof old, matrix: Matrix) => {
    const before = how.outputs === 'add' ? old[name] : undefined
    return before ? matrix.plus(Matrix.exact(matrix.rows, matrix.cols, before)) : matrix
  }
  const expected = new Map<string, Matrix>([
    ['y', added('y', saved.y)],
    ['hidden', saved.hidden],
  ])
  if (saved.probabilities) expected.set('probabilities', saved.probabilities)
  if (c.routing !== 'token' && c.routing !== 'lora') expected.set('weights', saved.weights)
  for (const name of wantedGradients(c, how.needs)) expected.set(name, added(name, gradients[name]))

  expect(Object.keys(values).sort()).toEqual([...expected.keys()].sort())
  for (const [name, matrix] of expected) expectClose(name, values[name as keyof typeof values] ?? [], matrix)
}
