/** Reads the fields of a tensor that the caller passed: which ones there are, and where its elements lie. */
import { bytesPerElement, type DType } from '../base/dtype.js'
import { describe, fail } from '../base/errors.js'
import type { Known } from '../base/options.js'
import { readIntegers } from '../base/shape.js'

/** An object that the caller passed, with unknown properties. */
export type Unknown = Readonly<Record<string | symbol, unknown>>

/** A plain object has fields of the known conventions only, and of one of them: a field that is not read may matter. */
export function checkFields(argument: string, value: Unknown, known: Known): void {
  const prototype: unknown = Object.getPrototypeOf(value)
  // Not compared with Object.prototype, because each realm has its own.
  if (Object.getPrototypeOf(prototype ?? Object.prototype) !== null) return
  for (const key in value) {
    if (key === 'data' || key === 'shape' || known.has(key)) continue // comparing is faster than looking up
    fail('ERR_LILY_ARGUMENT', argument, `unknown field ${describe(key)}; the fields are ${[...known].join(', ')}`)
  }
  refuseBoth(argument, value, 'shape', 'dims')
  refuseBoth(argument, value, 'dtype', 'type')
}

function refuseBoth(argument: string, value: Unknown, one: string, other: string): void {
  if (value[one] === undefined || value[other] === undefined) return
  fail('ERR_LILY_ARGUMENT', argument, `expected ${one} or ${other}, got both; leave one of them out`)
}

/** The strides of contiguous elements. */
export function contiguousStrides(shape: readonly number[]): number[] {
  return shape.map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1))
}

/** Where the elements are, by the conventions of this package, of ndarray (stride, offset) and of @stdlib/ndarray. */
interface Layout {
  /** In elements; null: contiguous. */
  readonly strides: number[] | null
  readonly byteOffset: number
  /** With explicit strides or an offset the operand may be a window of longer data. */
  readonly isWindow: boolean
}

export function readLayout(argument: string, value: Unknown, rank: number, dtype: DType): Layout {
  const { strides, stride, byteOffset, offset, pitch } = value
  // Buffers of a GPUDevice have one. The fields of a class are not checked otherwise, but this one would change the rows.
  if (pitch !== undefined) {
    fail('ERR_LILY_ARGUMENT', argument, 'expected strides, got pitch; pass strides: [pitch, 1]')
  }
  if (strides !== undefined && stride !== undefined) {
    fail('ERR_LILY_ARGUMENT', argument, 'expected strides or stride, got both; leave one of them out')
  }
  if (byteOffset !== undefined && offset !== undefined) {
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      'expected byteOffset (bytes) or offset (elements), got both; leave one of them out',
    )
  }
  const read = readStrides(argument, strides === undefined ? stride : strides, rank)
  return {
    strides: read,
    byteOffset:
      offset === undefined ? readByteOffset(argument, byteOffset, dtype) : readOffset(argument, offset, dtype),
    isWindow: read !== null || byteOffset !== undefined || offset !== undefined,
  }
}

/** An offset in elements. */
function readOffset(argument: string, value: unknown, dtype: DType): number {
  const bytes = Number(value) * bytesPerElement(dtype)
  if (Number.isSafeInteger(value) && (value as number) >= 0 && Number.isSafeInteger(bytes)) return bytes
  return fail(
    'ERR_LILY_ARGUMENT',
    argument,
    `expected offset to be an integer from 0, in elements, got ${describe(value)}`,
  )
}

export function readStrides(argument: string, value: unknown, rank: number): number[] | null {
  if (value === undefined) return null
  const negative: unknown = Array.isArray(value)
    ? value.find((stride) => typeof stride === 'number' && stride < 0)
    : undefined
  if (negative !== undefined) {
    fail('ERR_LILY_SHAPE', argument, `expected strides of at least 0, got ${describe(negative)}; make a row-major copy`)
  }
  const strides = readIntegers(argument, 'strides', value)
  if (strides.length === rank) return strides
  return fail('ERR_LILY_SHAPE', argument, `expected one stride per dimension, ${rank}, got ${strides.length}`)
}

export function readByteOffset(argument: string, value: unknown, dtype: DType): number {
  if (value === undefined) return 0
  if (Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) % bytesPerElement(dtype) === 0) {
    return value as number
  }
  return fail(
    'ERR_LILY_ARGUMENT',
    argument,
    `expected byteOffset to be a non-negative multiple of ${bytesPerElement(dtype)}, the size of ${dtype}, ` +
      `got ${describe(value)}`,
  )
}
