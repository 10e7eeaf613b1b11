/**
 * The small operands: mask, sequence offsets, weights of experts. Their numbers are copied when they are read, so that
 * no later change by the caller, nor by another thread, can slip past the checks.
 */
import { dtypeOf, type DType, type HostData } from './dtype.js'
import { describe, fail, failedToRead, shapeText } from './errors.js'
import { checkMemory, CPU, layOut, type Operand } from './operand.js'
import { resolve, type TensorLike } from './resolve.js'

/** One flag per token: zero or false drops it, anything else keeps it. */
export type MaskLike = Uint8Array | readonly boolean[] | readonly number[] | TensorLike

/** Cumulative offsets of G sequences: G + 1 numbers from 0 to M. */
export type OffsetsLike = Int32Array | readonly number[] | TensorLike

/** Weights of experts: [E], or a tensor of [G, E]. */
export type WeightsLike = Float32Array | readonly number[] | TensorLike

export interface Indices {
  readonly numbers: Float64Array
  readonly shape: readonly number[]
  readonly device: Operand | null
}

const NONE = new Float64Array(0)

/** The numbers of an array, a typed array or a tensor of one dtype. In device memory they are not read; absent: null. */
export function readIndices(argument: string, value: unknown, dtype: DType): Indices | null {
  if (value === undefined) return null
  if (Array.isArray(value)) return { numbers: copyArray(argument, value), shape: [value.length], device: null }
  const operand = ArrayBuffer.isView(value) ? wrap(argument, value as HostData) : resolve(argument, value)
  if (operand.dtype !== dtype) {
    fail('ERR_LILY_DTYPE', argument, `expected ${dtype}, got ${operand.dtype}`)
  }
  if (operand.device !== CPU) return { numbers: NONE, shape: operand.shape, device: operand }
  checkMemory(argument, operand)
  return { numbers: copyRows(operand), shape: operand.shape, device: null }
}

function wrap(argument: string, data: HostData): Operand {
  return layOut(argument, data, 0, dtypeOf(argument, data, undefined), CPU, [data.length], null)
}

function copyArray(argument: string, values: readonly unknown[]): Float64Array {
  const copy = new Float64Array(values.length)
  try {
    for (let i = 0; i < copy.length; i++) {
      const value = values[i]
      if (typeof value !== 'number' && typeof value !== 'boolean') {
        fail('ERR_LILY_ARGUMENT', argument, `element ${i} must be a number, got ${describe(value)}`)
      }
      copy[i] = Number(value)
    }
  } catch (cause) {
    throw failedToRead(argument, cause)
  }
  return copy
}

function copyRows({ memory, byteOffset, rows, columns, pitch }: Operand): Float64Array {
  const data = memory as HostData
  const start = byteOffset / data.BYTES_PER_ELEMENT
  const copy = new Float64Array(rows * columns)
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      copy[row * columns + column] = data[start + row * pitch + column] ?? 0
    }
  }
  return copy
}

/** One byte per token, 1 to keep it. */
export function checkMask({ numbers, shape }: Indices, tokens: number, xShape: readonly number[]): Uint8Array {
  if (numbers.length !== tokens) {
    fail(
      'ERR_LILY_SHAPE',
      'mask',
      `expected one flag for each of the ${tokens} tokens of x ${shapeText(xShape)}, got shape ${shapeText(shape)}`,
    )
  }
  const mask = new Uint8Array(tokens)
  for (let token = 0; token < tokens; token++) {
    const flag = numbers[token] ?? 0
    if (Number.isNaN(flag)) fail('ERR_LILY_ARGUMENT', 'mask', `element ${token} is NaN; 0 drops a token, 1 keeps it`)
    mask[token] = flag === 0 ? 0 : 1
  }
  return mask
}

/** Offsets from 0 to M that never decrease. */
export function checkOffsets({ numbers, shape }: Indices, tokens: number): Int32Array {
  const argument = 'sequenceOffsets'
  if (shape.length !== 1 || numbers.length === 0) {
    fail('ERR_LILY_SHAPE', argument, `expected G + 1 cumulative offsets, such as [0, ${tokens}], got ${shapeText(shape)}`)
  }
  let previous = 0
  for (let i = 0; i < numbers.length; i++) {
    const offset = numbers[i] ?? 0
    if (!Number.isSafeInteger(offset)) fail('ERR_LILY_ARGUMENT', argument, `element ${i} must be an integer, got ${offset}`)
    if (i === 0 && offset !== 0) fail('ERR_LILY_ARGUMENT', argument, `the first offset must be 0, got ${offset}`)
    if (offset < previous) {
      fail('ERR_LILY_ARGUMENT', argument, `offsets must not decrease: element ${i} is ${offset} after ${previous}`)
    }
    previous = offset
  }
  if (previous !== tokens) {
    fail('ERR_LILY_ARGUMENT', argument, `the last offset must be the number of tokens, ${tokens}, got ${previous}`)
  }
  return Int32Array.from(numbers)
}

/** Finite weights, [G, E]; [E] is one group. */
export function checkWeights({ numbers, shape }: Indices, groups: number, experts: number): Float32Array {
  const [rows, columns] = shape.length === 1 ? [1, shape[0]] : shape
  if (shape.length > 2 || rows !== groups || columns !== experts) {
    fail(
      'ERR_LILY_SHAPE',
      'weights',
      `expected ${groups === 1 ? `[${experts}] or ` : ''}[${groups}, ${experts}] (G ${groups}, E ${experts}), ` +
        `got ${shapeText(shape)}`,
    )
  }
  const weights = Float32Array.from(numbers)
  for (let i = 0; i < weights.length; i++) {
    if (Number.isFinite(weights[i])) continue
    fail('ERR_LILY_ARGUMENT', 'weights', `element ${i} must be a finite float32, got ${describe(numbers[i])}`)
  }
  return weights
}
