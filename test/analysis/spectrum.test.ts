/**
 * Eigenvalues and singular values from products of size r, compared with a library that uses another method.
 *
 * @project cpu wasm @asan
 */
import fc from 'fast-check'
import { EigenvalueDecomposition, Matrix, SingularValueDecomposition } from 'ml-matrix'
import { describe, expect, it } from 'vitest'
import { congruenceEigenvalues, gramFactor } from '../../lib/analysis/spectrum.js'
import { analyseUpdate } from '../../lib/analysis/updates.js'
import '../../lib/index.js'
import { gaussian, randomFrom } from '../support/random.js'

const random = randomFrom(11)

/** Integers, small enough for products without rounding. */
const integers = (rows: number, columns: number, most: number) =>
  Matrix.from1DArray(
    rows,
    columns,
    Array.from({ length: rows * columns }, () => Math.round((2 * random() - 1) * most)),
  )

/** L [r, r], zero above the diagonal, and X [r, columns], of integers of which many are equal. */
const anyFactors = fc.tuple(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 12 })).chain(([r, columns]) => {
  const matrixOf = (width: number) =>
    fc
      .array(fc.integer({ min: -2, max: 2 }), { minLength: r * width, maxLength: r * width })
      .map((values) => Matrix.from1DArray(r, width, values))
  return fc.tuple(matrixOf(r), matrixOf(columns))
})

/** Compares the eigenvalues of Lᵀ X Xᵀ L. */
function expectEigenvaluesOf(l: Matrix, x: Matrix): void {
  const r = l.rows
  const lower = l.clone()
  for (let i = 0; i < r; i++) for (let j = i + 1; j < r; j++) lower.set(i, j, 0)
  const product = lower.transpose().mmul(x.mmul(x.transpose())).mmul(lower)
  const expected = new EigenvalueDecomposition(product, { assumeSymmetric: true }).realEigenvalues
  expected.sort((p, q) => q - p)
  const actual = congruenceEigenvalues(Float64Array.from(lower.to1DArray()), Float64Array.from(x.to1DArray()), r)
  const largest = Math.max(...expected.map(Math.abs), 1e-300)
  actual.forEach((value, i) => {
    expect(Math.abs(value - expected[i]) / largest).toBeLessThan(4 * r * Number.EPSILON)
  })
}

describe('eigenvalues', () => {
  it('of small matrices, with multiple and zero eigenvalues', () => {
    fc.assert(
      fc.property(anyFactors, ([l, x]) => {
        expectEigenvaluesOf(l, x)
        expectEigenvaluesOf(Matrix.identity(x.rows), x)
      }),
      { numRuns: 300 },
    )
  })
  // Beyond the blocks, panels and shift groups of native/cpu/spectrum/spectrum.cc.
  it.each([1, 2, 33, 113, 145, 300])('of random numbers, n = %d', (n) => {
    expectEigenvaluesOf(Matrix.identity(n), integers(n, n, 1000))
    expectEigenvaluesOf(integers(n, n, 4), integers(n, 2 * n, 100))
  })
  it('of zero, one and a diagonal', () => {
    const zeros = new Float64Array(9)
    expect([...congruenceEigenvalues(zeros, zeros, 3)]).toEqual([0, 0, 0])
    expectEigenvaluesOf(Matrix.identity(7), Matrix.identity(7))
    expectEigenvaluesOf(Matrix.identity(5), Matrix.diag([2, -1, 2, 2 ** -15, 0]))
    // So small that the rounding error of the largest eigenvalue is below every number.
    const [smallest] = congruenceEigenvalues(Float64Array.of(1), Float64Array.of(2 ** -530), 1)
    expect(smallest / 2 ** -1060).toBeCloseTo(1, 3)
  })
})

describe('the singular values of an update', () => {
  it.each([
    [4, 30, 20],
    [33, 113, 40],
    [20, 7, 40], // A has rank 7
    [20, 40, 7],
    [16, 1, 1],
    [65, 225, 30],
    [145, 40, 449],
    [300, 225, 449],
    [300, 100, 400], // A has rank 100
  ])('of rank %d, d_in %d, d_out %d', (r, dIn, dOut) => {
    const a = gaussian(random, r * dIn)
    const c = gaussian(random, r * dOut)
    const { singularValues, norm, spectralNorm, effectiveRank } = analyseUpdate(
      gramFactor(Float64Array.from(a), r),
      Float64Array.from(c),
      r,
      -2,
      3,
    )
    const product = Matrix.from1DArray(r, dOut, Array.from(c))
      .transpose()
      .mmul(Matrix.from1DArray(r, dIn, Array.from(a)))
    const expected = new SingularValueDecomposition(product.mul(-2), { autoTranspose: true }).diagonal
    // The squares are exact to about 1e-16 of the largest one, so the values to about 1e-8.
    for (let i = 0; i < r; i++) {
      expect(Math.abs(singularValues[i] - (expected[i] ?? 0)) / expected[0], `value ${i}`).toBeLessThan(1e-7)
    }
    expect(norm / product.norm('frobenius')).toBeCloseTo(1, 10)
    expect(spectralNorm / expected[0]).toBeCloseTo(1, 10)
    const sum = expected.reduce((total, value) => total + value, 0)
    const shares = expected.filter((value) => value > 0).map((value) => value / sum)
    const expectedRank = shares.reduce((total, share) => total * share ** -share, 1)
    expect(effectiveRank / expectedRank).toBeCloseTo(1, 5)
  })

  it('of an update with equal singular values', () => {
    const r = 6
    const identity = Float64Array.from({ length: r * r }, (_, i) => (i % (r + 1) === 0 ? 1 : 0))
    const update = analyseUpdate(gramFactor(identity, r), identity, r, 3, 2.9)
    expect(update.effectiveRank).toBeCloseTo(r, 10)
    expect(update.sharedWithLora).toBeCloseTo(2 / r, 10)
    for (const value of update.singularValues) expect(value).toBeCloseTo(3, 10)
  })

  it('of factors whose rows differ in scale', () => {
    const [r, dIn, dOut] = [70, 90, 80]
    const a = gaussian(random, r * dIn)
    const c = gaussian(random, r * dOut)
    const product = Matrix.from1DArray(r, dOut, Array.from(c))
      .transpose()
      .mmul(Matrix.from1DArray(r, dIn, Array.from(a)))
    // From 1 to 1e-12: the product stays the same.
    const scaled = (values: ArrayLike<number>, columns: number, sign: 1 | -1) =>
      Float64Array.from(values, (value, i) => value * 10 ** ((sign * -12 * Math.floor(i / columns)) / (r - 1)))
    const { singularValues, norm } = analyseUpdate(gramFactor(scaled(a, dIn, 1), r), scaled(c, dOut, -1), r, 1, 1)
    const expected = new SingularValueDecomposition(product, { autoTranspose: true }).diagonal
    for (let i = 0; i < r; i++)
      expect(Math.abs(singularValues[i] - expected[i]) / expected[0], `value ${i}`).toBeLessThan(1e-7)
    expect(norm / product.norm('frobenius')).toBeCloseTo(1, 10)
  })

  // In the first row, whose pivot is the first one, and in another.
  it.each([3, 12])('are NaN if element %d of a factor is infinite', (at) => {
    const infinite = Float64Array.from({ length: 6 * 9 }, (_, i) => (i === at ? Infinity : Math.sin(i)))
    const finite = infinite.map((value) => (Number.isFinite(value) ? value : 1))
    for (const [a, c] of [
      [infinite, finite],
      [finite, infinite],
    ])
      expect(analyseUpdate(gramFactor(a, 6), c, 6, 1, 1)).toMatchObject({ norm: NaN, effectiveRank: NaN })
  })

  it('of a zero update', () => {
    const update = analyseUpdate(gramFactor(Float64Array.of(1, 2), 1), new Float64Array(5), 1, 1, 1)
    expect(update).toEqual({ norm: 0, spectralNorm: 0, effectiveRank: 0, sharedWithLora: 1, singularValues: [0] })
    // A of zeros, and beyond one block of columns of its factor.
    for (const r of [2, 70]) {
      const factor = gramFactor(new Float64Array(r * 3), r)
      expect(new Set(factor)).toEqual(new Set([0]))
      expect(analyseUpdate(factor, new Float64Array(r * 5).fill(1), r, 1, 1).norm).toBe(0)
    }
  })
})
