import { expect } from 'vitest'
import type { Matrix } from '../reference.js'

/** Float32's unit of rounding. */
const ROUNDING = 2 ** -24

/**
 * How many times the reference's error scale a float32 result may be off, as L2 norms. The scale counts every product's
 * rounding once and adds magnitudes without cancellation, while the roundings of a sum of k terms, in blocks, partly
 * cancel; so a right result stays below the scale itself, whatever the shape, and a bfloat16 or TF32 rounding of any
 * operand, 2^13 times coarser and more, is far above the limit.
 */
const LIMIT = 4

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
  return Number.isNaN(error) ? Infinity : error / (ROUNDING * norm(expected.error))
}

export function expectClose(name: string, actual: ArrayLike<number>, expected: Matrix): void {
  const error = errorInScale(actual, expected)
  if (process.env.DBG) (globalThis as any).console.error("ERR", name, error.toFixed(3))
  expect(error, `${name}: error in units of the float32 error scale`).toBeLessThanOrEqual(LIMIT)
}

/** The bits of float32 numbers, for exact comparison: NaN equals itself, -0 is not 0. */
export function bits(values: ArrayBufferView): Buffer {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength)
}

export function expectSameBits(name: string, actual: ArrayBufferView, expected: ArrayBufferView): void {
  expect(bits(actual).equals(bits(expected)), `${name} is the same bit for bit`).toBe(true)
}
