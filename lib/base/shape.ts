/** Shapes, and the row-major matrix that a shape is seen as: leading dimensions become rows, the last one columns. */
import { bytesPerElement, type DType } from './dtype.js'
import { cut, describe, fail } from './errors.js'

/** A shape seen as a matrix. */
export interface Matrix {
  readonly rows: number
  readonly columns: number
  /** Elements from one row to the next. */
  readonly pitch: number
  /** Bytes from the first element to the end of the last. */
  readonly byteLength: number
}

/** What checks of an operand's shape and type read. */
export interface TypedMatrix {
  readonly shape: readonly number[]
  readonly rows: number
  readonly columns: number
  readonly dtype: DType
}

/**
 * Flattens a shape into a matrix.
 *
 * @param strides in elements; null: contiguous
 * @throws LilyError ERR_LILY_SHAPE where the rows have no common pitch, or overlap
 */
export function flatten(
  argument: string,
  dtype: DType,
  shape: readonly number[],
  strides: readonly number[] | null,
): Matrix {
  const last = shape.length - 1
  if (last < 0) fail('ERR_LILY_SHAPE', argument, 'expected at least one dimension, got shape []')
  const columns = shape[last]
  let rows = 1
  for (let axis = 0; axis < last; axis++) rows *= shape[axis]
  let pitch = columns
  if (strides !== null && rows * columns > 0) pitch = commonPitch(argument, shape, strides)

  const bytes = bytesPerElement(dtype)
  const byteLength = rows * columns > 0 ? ((rows - 1) * pitch + columns) * bytes : 0
  if (!Number.isSafeInteger(rows * columns * bytes) || !Number.isSafeInteger(byteLength)) {
    fail('ERR_LILY_SHAPE', argument, `shape ${shapeText(shape)} has more bytes than a number can count`)
  }
  return { rows, columns, pitch, byteLength }
}

/** The row pitch of a non-empty strided shape. A dimension of one element may have any stride. */
function commonPitch(argument: string, shape: readonly number[], strides: readonly number[]): number {
  const last = shape.length - 1
  const columns = shape[last]
  if (columns > 1 && strides[last] !== 1) {
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `the last stride must be 1, got strides ${shapeText(strides)}; make a row-major copy`,
    )
  }
  let rows = 1
  let pitch = columns
  for (let axis = last - 1; axis >= 0; axis--) {
    const size = shape[axis]
    const stride = strides[axis]
    if (size === 1) continue
    if (rows === 1) {
      pitch = stride
    } else if (stride !== pitch * rows) {
      fail(
        'ERR_LILY_SHAPE',
        argument,
        `the leading dimensions of shape ${shapeText(shape)} with strides ${shapeText(strides)} are not evenly ` +
          `spaced rows (stride ${pitch * rows} was expected for dimension ${axis}); make a contiguous copy`,
      )
    }
    rows *= size
  }
  if (pitch < columns) {
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `rows of ${columns} elements overlap: the row pitch is only ${pitch} (strides ${shapeText(strides)})`,
    )
  }
  return pitch
}

/** A copy of the caller's shape or strides: integers from 0. */
export function readIntegers(argument: string, what: string, value: unknown): number[] {
  if (!Array.isArray(value)) {
    fail('ERR_LILY_SHAPE', argument, `expected ${what} as an array of integers, got ${describe(value)}`)
  }
  const copy: number[] = []
  for (let i = 0; i < value.length; i++) {
    const number: unknown = value[i]
    if (!Number.isSafeInteger(number) || (number as number) < 0) {
      fail('ERR_LILY_SHAPE', argument, `${what}[${i}] must be an integer from 0 to 2^53 - 1, got ${describe(number)}`)
    }
    copy.push(number as number)
  }
  return copy
}

export function shapeText(shape: readonly number[]): string {
  const sizes = shape.length > 32 ? `${shape.slice(0, 32).join(', ')}, ... (${shape.length} sizes)` : shape.join(', ')
  return `[${cut(sizes)}]`
}
