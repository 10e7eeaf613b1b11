/**
 * The statistics of the masks of dropout: the rate, and independence along every axis of the counter and of the key. That
 * the masks are those of Philox is in the tests that compare with the reference; here a wrong definition would show, such
 * as one that gives neighbours the same numbers.
 */
import { beforeAll, describe, expect, test } from 'vitest'
import { dropoutState, loraForward, tensor } from '../../lib/index.js'

/** Neighbours, and two of another high word. */
const SEEDS = [0, 1, 2, 3, 2 ** 32, 2 ** 32 + 1, 2 ** 32 + 2, 2 ** 32 + 3]
/** The elements by seed, position, row, block of columns that share a counter, and column of the block. */
const SHAPE = [SEEDS.length, 8, 64, 8, 8]
const AXES = ['seeds', 'positions', 'rows', 'blocks of columns', 'columns of a block']
const ROWS = 64
const COLUMNS = 64

/**
 * The largest deviation that the tests accept. The seeds are fixed, so that a test passes always or never; one of random
 * numbers would fail once in 16,000 times.
 */
const LARGEST_DEVIATION = 4

const product = (sizes: readonly number[]) => sizes.reduce((all, size) => all * size, 1)

/** 1 for each dropped element of x, in the order of {@link SHAPE}: where x = 1 and A is the identity, h has zeros there. */
function droppedOf(rate: number): Uint8Array {
  const x = tensor(new Float32Array(ROWS * COLUMNS).fill(1), [ROWS, COLUMNS])
  const identity = Float32Array.from({ length: COLUMNS ** 2 }, (_, i) => (i % (COLUMNS + 1) === 0 ? 1 : 0))
  const a = tensor(identity, [COLUMNS, COLUMNS])
  const b = tensor(new Float32Array(COLUMNS), [1, COLUMNS])
  const dropped = new Uint8Array(product(SHAPE))
  let end = 0
  for (const seed of SEEDS) {
    const dropout = { rate, state: dropoutState(seed) }
    for (let position = 0; position < SHAPE[1]; position++) {
      const { saved } = loraForward({ x, a, b }, { dropout })
      for (const h of saved.hidden.data as Float32Array) dropped[end++] = h === 0 ? 1 : 0
      saved.dispose()
    }
  }
  return dropped
}

/**
 * How far a chi-square is from its expectation, as a standard normal number (Wilson and Hilferty, 1931). Far below zero
 * the numbers are more even than random ones.
 */
function deviation(chiSquare: number, freedom: number): number {
  const variance = 2 / (9 * freedom)
  return (Math.cbrt(chiSquare / freedom) - 1 + variance) / Math.sqrt(variance)
}

/** Of the number of dropped elements at each place of an axis. */
function deviationOfRate(dropped: Uint8Array, axis: number, rate: number): number {
  const [size, stride] = [SHAPE[axis], product(SHAPE.slice(axis + 1))]
  const counts = new Array<number>(size).fill(0)
  for (const [i, isDropped] of dropped.entries()) counts[Math.floor(i / stride) % size] += isDropped
  const trials = dropped.length / size
  const chiSquare = counts.reduce((sum, count) => sum + (count - trials * rate) ** 2, 0) / (trials * rate * (1 - rate))
  return deviation(chiSquare, size)
}

/** Of the numbers of the 2^width patterns that `width` neighbours along an axis have. */
function deviationOfPatterns(dropped: Uint8Array, axis: number, width: number, rate: number): number {
  const stride = product(SHAPE.slice(axis + 1))
  const counts = new Array<number>(2 ** width).fill(0)
  for (let begin = 0; begin < dropped.length; begin += width * stride)
    for (let i = begin; i < begin + stride; i++) {
      let pattern = 0
      for (let n = 0; n < width; n++) pattern = 2 * pattern + dropped[i + n * stride]
      counts[pattern]++
    }
  const patterns = dropped.length / width
  const chiSquare = counts.reduce((sum, count, pattern) => {
    const ones = pattern.toString(2).replaceAll('0', '').length
    const expected = patterns * rate ** ones * (1 - rate) ** (width - ones)
    return sum + (count - expected) ** 2 / expected
  }, 0)
  return deviation(chiSquare, counts.length - 1)
}

// So many neighbours that the rarest pattern is expected five times or more.
describe.each([
  { rate: 0.5, width: 8 },
  { rate: 0.1, width: 4 },
])('rate $rate', ({ rate, width }) => {
  let dropped: Uint8Array
  beforeAll(() => {
    dropped = droppedOf(rate)
  })

  test.each(AXES.map((name, axis) => ({ name, axis })))('$name', ({ axis }) => {
    expect(Math.abs(deviationOfRate(dropped, axis, rate)), 'rate').toBeLessThan(LARGEST_DEVIATION)
    expect(Math.abs(deviationOfPatterns(dropped, axis, width, rate)), 'patterns').toBeLessThan(LARGEST_DEVIATION)
  })
})
