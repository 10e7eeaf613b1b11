import { expect } from 'vitest'
import type { Matrix } from '../reference.js'

/** Float32's unit of rounding. */
const ROUNDING = 2 ** -24

/**
 * How many times the error that the reference expects of a plain computation in the same data types a result may have,
 * as L2 norms. The expectation is a mean: over random problems of float32 results had 0.2 times it, and in the worst of
 * thousands, problems of a few numbers, twice. A bfloat16 or TF32 rounding of any operand has hundreds of times.
 */
const LIMIT = 4

/** Units in the last place of float32, of the whole result's norm, that count for nothing beside roundings to 16 bits. */
const ULPS = 8

function norm(values: Iterable<number>): number {
  let sum = 0
  for (const value of values) sum += value * value
  return Math.sqrt(sum)
}

function difference(actual: ArrayLike<number>, expected: ArrayLike<number>): Float64Array {
  if (actual.length !== expected.length) throw new Error(`${actual.length} numbers, expected ${expected.length}`)
  return Float64Array.from(actual, (value, i) => value - expected[i])
}

/** |actual - expected| / |expected|, as L2 norms. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  const error = norm(difference(actual, expected))
  return error === 0 ? 0 : error / norm(Array.from(expected))
}

/** Error in units of what the reference says that float32 may lose; see LIMIT. Not a number counts as infinite. */
export function errorInScale(actual: ArrayLike<number>, expected: Matrix): number {
  const error = norm(difference(actual, expected.value))
  if (error === 0) return 0
  return Number.isNaN(error) ? Infinity : error / (ROUNDING * norm(expected.variance.map(Math.sqrt)))
}

export function expectClose(name: string, actual: ArrayLike<number>, expected: Matrix): void {
  const error = errorInScale(actual, expected)
  expect(error, `${name}: error in units of the float32 error scale`).toBeLessThanOrEqual(LIMIT)
}

/** At most twice the error of a plain computation that rounded the same; for one that rounded nothing see expectClose. */
export function expectCloseAsPlain(
  name: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  plain: ArrayLike<number>,
): void {
  const ofPlain = relativeError(plain, expected)
  const floor = ULPS * ROUNDING
  if (ofPlain < floor) return
  const error = relativeError(actual, expected)
  expect(error, `${name}: relative error, of the plain computation ${ofPlain}`).toBeLessThanOrEqual(2 * ofPlain + floor)
}

/** The bits of float32 numbers, for exact comparison: NaN equals itself, -0 is not 0. */
export function bits(values: ArrayBufferView): Buffer {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength)
}

export function expectSameBits(name: string, actual: ArrayBufferView, expected: ArrayBufferView): void {
  expect(bits(actual).equals(bits(expected)), `${name} is the same bit for bit`).toBe(true)
}
