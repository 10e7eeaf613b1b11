/** Comparison of a case with an adapter per row. */
import { expect } from 'vitest'
import type { RowsCase } from './cases.js'
import { expectClose, expectSameBits } from './compare.js'
import { Matrix } from './reference.js'
import { gather, type HowRows, type RowsResult, runAlone, runRows } from './rows.js'
import { backwardRows, forwardRows, tokensOf } from './rows-reference.js'

/** Compares a call with one of each adapter over its rows, bit by bit, and with the reference. */
export async function checkRows(c: RowsCase, how: HowRows = {}): Promise<void> {
  const result = await runRows(c, how)
  expect(result.damaged, 'operands written to where they must not be').toEqual([])
  for (const k of c.adapters.keys()) {
    const { y, dx, each } = await runAlone(c, k, how, result.old)
    const tokens = tokensOf(c, k)
    expectSameBits(`y of adapter ${k}`, gather(result.y, c.dOut, tokens), y)
    expectSameBits(`dx of adapter ${k}`, gather(result.dx, c.dIn, tokens), dx)
    expect(Object.keys(result.each[k])).toEqual(Object.keys(each[0]))
    for (const name of ['hidden', 'probabilities', 'weights'] as const) {
      const [actual, expected] = [result.each[k][name], each[0][name]]
      if (expected) expectSameBits(`${name} of adapter ${k}`, actual ?? new Float32Array(), expected)
    }
  }
  checkBase(c, how, result)
  checkReference(c, how, result)
}

/** Rows of the base keep their bits; overwritten or new they are 0. */
function checkBase(c: RowsCase, { outputs = 'new' }: HowRows, { y, dx, old }: RowsResult): void {
  const rows = tokensOf(c, -1)
  const before = (values: Float32Array) => (outputs === 'add' ? values : new Float32Array(values.length))
  expectSameBits('y of the base', gather(y, c.dOut, rows), gather(before(old.y), c.dOut, rows))
  expectSameBits('dx of the base', gather(dx, c.dIn, rows), gather(before(old.dx), c.dIn, rows))
}

function checkReference(c: RowsCase, { outputs = 'new' }: HowRows, { y, dx, each, old }: RowsResult): void {
  const { activations, parameters = activations } = c
  const expected = forwardRows(c)
  const gradients = backwardRows(c, expected, c.dy)
  const close = (name: string, actual: Float32Array, matrix: Matrix, before: Float32Array | undefined) => {
    const type = name === 'y' || name === 'dx' ? activations : parameters
    const isAdded = outputs === 'add' && before !== undefined
    const sum = isAdded ? matrix.plus(Matrix.exact(matrix.rows, matrix.cols, before)) : matrix
    expectClose(name, actual, sum.rounded(type, true))
  }
  close('y', y, expected.y, old.y)
  close('dx', dx, gradients.dx, old.dx)
  for (const [k, of] of gradients.each.entries())
    for (const name of ['da', 'dRouter', 'db'] as const) {
      if (name === 'dRouter' && c.adapters[k].router === undefined) continue
      close(name, each[k][name] ?? new Float32Array(), of[name], old.each[k][name])
    }
}
