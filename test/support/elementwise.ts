/** Functions of elements and sums of rows, compared with float64; as a child process with other settings. */
import { expect } from 'vitest'
import { backends, type BackendInfo } from '../../lib/index.js'
import { elementwise, rowSums } from '../../lib/operations/elementwise.js'
import { answer } from './fork.js'
import { gaussian, randomFrom } from './random.js'

/** Edges of vectors, of tasks and of threads. */
const SIZES = [
  [1, 1],
  [3, 17],
  [5, 64],
  [2, 16_403],
  [70, 513],
] as const

const FUNCTIONS = {
  add: (a: number, b: number) => a + b,
  subtract: (a: number, b: number) => a - b,
  multiply: (a: number, b: number) => a * b,
  divide: (a: number, b: number) => a / b,
  sigmoid: (a: number) => 1 / (1 + Math.exp(-a)),
}
const names = Object.keys(FUNCTIONS) as (keyof typeof FUNCTIONS)[]

export interface ElementwiseReport {
  readonly backend: BackendInfo
  readonly results: readonly Float32Array[]
}

interface Case {
  readonly of: keyof typeof FUNCTIONS | 'rowSum'
  readonly m: number
  readonly n: number
  readonly a: Float32Array
  readonly b: Float32Array
  readonly bits: readonly boolean[]
}

/** Every function and size with every way in which an operand repeats; the large sizes with a third of them. */
function* cases(): Generator<Case> {
  const random = randomFrom(1)
  for (const [m, n] of SIZES) {
    for (let i = 0; i < 16; i += m * n > 10_000 ? 3 : 1) {
      const bits = [0, 1, 2, 3].map((bit) => (i >> bit) % 2 === 1)
      const [a, b] = [0, 2].map((at) => gaussian(random, (bits[at] ? m : 1) * (bits[at + 1] ? n : 1)))
      // From 0 to 1 in float32, and not a number.
      if (i === 3) a.set([Infinity, -Infinity, NaN, 100, -100, 0].slice(0, a.length))
      yield { of: names[i % names.length], m, n, a, b, bits }
    }
    yield { of: 'rowSum', m, n, a: gaussian(random, m * n), b: new Float32Array(1), bits: [true, true, false, false] }
  }
}

export function runElementwise(): Float32Array[] {
  return [...cases()].map(({ of, m, n, a, b, bits: [aRows, aColumns, bRows, bColumns] }) => {
    const y = new Float32Array(of === 'rowSum' ? m : m * n).fill(NaN)
    const [ofA, ofB] = [
      { hasRows: aRows, hasColumns: aColumns },
      { hasRows: bRows, hasColumns: bColumns },
    ]
    if (of === 'rowSum') rowSums([m, n], y, a, 0.5)
    else elementwise(of, [m, n], y, a, ofA, of === 'sigmoid' ? null : b, ofB)
    return y
  })
}

export function expectElementwise(results: readonly Float32Array[]): void {
  const all = [...cases()]
  expect(results.length).toBe(all.length)
  for (const [index, { of, m, n, a, b, bits }] of all.entries()) {
    const at = (values: Float32Array, i: number, j: number, first: number) =>
      values[(bits[first] ? i : 0) * (bits[first + 1] ? n : 1) + (bits[first + 1] ? j : 0)]
    const worst = { error: 0, where: '' }
    const compare = (actual: number, expected: number, tolerance: number, where: string) => {
      if (Object.is(actual, Math.fround(expected)) || (Number.isNaN(actual) && Number.isNaN(expected))) return
      const error = Math.abs(actual - expected) / tolerance
      if (!(error <= worst.error)) Object.assign(worst, { error, where: `${where}: ${actual}, expected ${expected}` })
    }
    for (let i = 0; i < m; i++) {
      let [sum, size] = [0, 0]
      for (let j = 0; j < n; j++) {
        const left = at(a, i, j, 0)
        if (of === 'rowSum') {
          sum += left
          size += Math.abs(left)
          continue
        }
        const expected = FUNCTIONS[of](left, at(b, i, j, 2))
        // One rounding; of the sigmoid those of the exponential, the sum and the quotient.
        const tolerance = of === 'sigmoid' ? 2 ** -22 * expected + 2 ** -126 : 2 ** -24 * Math.abs(expected) + 2 ** -149
        compare(results[index][i * n + j], expected, tolerance, `${of} ${m} x ${n}, ${i}, ${j}`)
      }
      // At most a rounding of each addition.
      if (of === 'rowSum')
        compare(results[index][i], 0.5 * sum, 0.5 * 2 ** -24 * n * size, `sum of row ${i} of ${m} x ${n}`)
    }
    expect(worst.error, worst.where).toBeLessThanOrEqual(1)
  }
}

answer((): Promise<ElementwiseReport> => {
  const [backend] = backends()
  return Promise.resolve({ backend, results: backend.available ? runElementwise() : [] })
})
