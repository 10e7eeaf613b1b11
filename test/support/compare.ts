import { expect } from 'vitest'
import type { Matrix } from './reference.js'

/** The unit roundoff of float32. */
const ROUNDING = 2 ** -24

/**
 * Limit of the error of a result, in units of the error that the reference expects of a plain computation in the same
 * data types, as L2 norms. The expectation is a mean: over random float32 problems, results had 0.2 times this error, and
 * twice in the worst of thousands, problems of a few numbers. A bfloat16 or TF32 rounding of any operand exceeds it
 * hundreds of times.
 */
const LIMIT = 4

/** Error in float32 units in the last place, of the norm of the result, that is negligible next to 16-bit roundings. */
const ULPS = 8

function norm(values: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i] * values[i]
  return Math.sqrt(sum)
}

function difference(actual: ArrayLike<number>, expected: ArrayLike<number>): Float64Array {
  if (actual.length !== expected.length) throw new Error(`${actual.length} numbers, expected ${expected.length}`)
  const result = new Float64Array(actual.length)
  for (let i = 0; i < actual.length; i++) result[i] = actual[i] - expected[i]
  return result
}

/** |actual - expected| / |expected|, as L2 norms. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  const error = norm(difference(actual, expected))
  return error === 0 ? 0 : error / norm(expected)
}

/** The error in units of the error that the reference expects; see LIMIT. NaN counts as infinite. */
function errorInScale(actual: ArrayLike<number>, expected: Matrix): number {
  const error = norm(difference(actual, expected.value))
  if (error === 0) return 0
  return Number.isNaN(error) ? Infinity : error / (ROUNDING * norm(expected.variance.map(Math.sqrt)))
}

export function expectClose(name: string, actual: ArrayLike<number>, expected: Matrix): void {
  const error = errorInScale(actual, expected)
  expect(error, `${name}: error in units of the float32 error scale`).toBeLessThanOrEqual(LIMIT)
}

/** Checks for at most twice the error of a plain computation with the same roundings. See expectClose for exact ones. */
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

/** The bits of float32 numbers for exact comparison: NaN equals itself, and -0 differs from 0. */
export function bits(values: ArrayBufferView): Buffer {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength)
}

export function expectSameBits(name: string, actual: ArrayBufferView, expected: ArrayBufferView): void {
  const [ours, theirs] = [actual, expected].map((view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength))
  let isSame = ours.length === theirs.length
  // A loop, because `every` with a function takes several times as long.
  for (let i = 0; isSame && i < ours.length; i++) isSame = ours[i] === theirs[i]
  expect(isSame, `${name} is the same bit for bit`).toBe(true)
}
