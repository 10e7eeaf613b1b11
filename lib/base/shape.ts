/** Shapes. The kernels see every operand as a row-major matrix: the last dimension is columns, all others are rows. */
import { bytesPerElement, type DType } from './dtype.js'
import { cut, describe, fail } from './errors.js'

/** A shape flattened to a row-major matrix. */
export interface Matrix {
  readonly rows: number
  readonly columns: number
  /** Elements from the start of one row to the start of the next (the leading dimension of BLAS). */
  readonly pitch: number
  /** Bytes from the start of the first element to the end of the last. */
  readonly byteLength: number
}

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
 * @throws LilyError ERR_LILY_SHAPE if the rows are not evenly spaced, or overlap
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
    const layout = strides === null ? '' : ` with strides ${shapeText(strides)}`
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `expected at most 2^53 - 1 bytes, got shape ${shapeText(shape)}${layout} of ${dtype}`,
    )
  }
  return { rows, columns, pitch, byteLength }
}

/** The row pitch of a non-empty strided shape. The stride of a dimension of size 1 is ignored. */
function commonPitch(argument: string, shape: readonly number[], strides: readonly number[]): number {
  const last = shape.length - 1
  const columns = shape[last]
  if (columns > 1 && strides[last] !== 1) {
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `expected 1 as the last stride, got strides ${shapeText(strides)}; make a row-major copy`,
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
        `expected evenly spaced rows, with stride ${pitch * rows} in dimension ${axis}, got shape ` +
          `${shapeText(shape)} with strides ${shapeText(strides)}; make a contiguous copy`,
      )
    }
    rows *= size
  }
  if (pitch < columns) {
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `expected a row pitch of at least ${columns}, got ${pitch} (strides ${shapeText(strides)}): the rows ` +
        `overlap; make a contiguous copy`,
    )
  }
  return pitch
}

/**
 * Copies an array of non-negative integers that the caller passed.
 *
 * @param what name of the array in an error message, such as 'shape' or 'strides'
 * @throws LilyError ERR_LILY_SHAPE
 */
export function readIntegers(argument: string, what: string, value: unknown): number[] {
  if (!Array.isArray(value)) {
    fail('ERR_LILY_SHAPE', argument, `expected ${what} as an array of integers, got ${describe(value)}`)
  }
  const copy: number[] = []
  for (let i = 0; i < value.length; i++) {
    const number: unknown = value[i]
    if (!Number.isSafeInteger(number) || (number as number) < 0) {
      fail(
        'ERR_LILY_SHAPE',
        argument,
        `expected ${what}[${i}] to be an integer from 0 to 2^53 - 1, got ${describe(number)}`,
      )
    }
    copy.push(number as number)
  }
  return copy
}

/** A shape as it is written in error messages, such as '[2, 3]'. */
export function shapeText(shape: readonly number[]): string {
  const sizes = shape.length > 32 ? `${shape.slice(0, 32).join(', ')}, ... (${shape.length} sizes)` : shape.join(', ')
  return `[${cut(sizes)}]`
}
