/**
 * The small operands: mask, sequence offsets, weights of experts. Their numbers are copied when they are read, so that
 * no later change by the caller, nor by another thread, can slip past the checks.
 */
import { type DType, dtypeOf, type HostData, viewOf } from '../base/dtype.js'
import { describe, fail, failedToRead } from '../base/errors.js'
import { get } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import { CPU } from '../memory/device.js'
import { checkMemory, failDetached, isDetached, layOut, type Operand, type Part } from '../memory/operand.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'

/** One flag per token: zero or false drops it, anything else keeps it. */
export type MaskLike = Uint8Array | readonly boolean[] | readonly number[] | TensorLike

/** Cumulative offsets of G sequences: G + 1 numbers from 0 to M. */
export type OffsetsLike = Int32Array | readonly number[] | TensorLike

/** Weights of experts: [E], or a tensor of [G, E]. */
export type WeightsLike = Float32Array | readonly number[] | TensorLike

export interface Indices {
  /** A copy, row-major; empty for what is in device memory. */
  readonly numbers: HostData | Float64Array
  readonly shape: readonly number[]
  /** The tensor or typed array that they were read from; null for an array. */
  readonly source: Operand | null
}

const UNREAD = new Float64Array(0)

/** The numbers of an array, a typed array or a tensor of one dtype; null where there is none. */
export function readIndices(options: object, argument: string, dtype: DType): Indices | null {
  const value = get('options', options, argument)
  if (value === undefined) return null
  try {
    return read(argument, value, dtype)
  } catch (cause) {
    throw failedToRead(argument, cause)
  }
}

function read(argument: string, value: unknown, dtype: DType): Indices {
  if (Array.isArray(value)) return { numbers: copyArray(argument, value), shape: [value.length], source: null }
  const source = ArrayBuffer.isView(value) ? wrap(argument, value as HostData) : resolve(argument, value)
  if (source.dtype !== dtype) fail('ERR_LILY_DTYPE', argument, `expected ${dtype}, got ${source.dtype}`)
  if (source.device !== CPU) return { numbers: UNREAD, shape: source.shape, source }
  checkMemory(argument, source)
  return { numbers: copyRows(source), shape: source.shape, source }
}

function wrap(argument: string, data: HostData): Operand {
  if (data.length === 0 && isDetached(data.buffer)) failDetached(argument)
  return layOut(argument, data, 0, dtypeOf(argument, data, undefined), CPU, [data.length], null)
}

function copyArray(argument: string, values: readonly unknown[]): Float64Array {
  const copy = new Float64Array(values.length)
  for (let i = 0; i < copy.length; i++) {
    const value = values[i]
    if (typeof value !== 'number' && typeof value !== 'boolean') {
      fail('ERR_LILY_ARGUMENT', argument, `element ${i} must be a number, got ${describe(value)}`)
    }
    copy[i] = Number(value)
  }
  return copy
}

function copyRows({ memory, byteOffset, dtype, rows, columns, pitch }: Operand): HostData {
  const data = memory as HostData
  const bytes = data.BYTES_PER_ELEMENT
  const copy = viewOf(dtype, new ArrayBuffer(rows * columns * bytes), 0, rows * columns)
  for (let row = 0; row < rows; row++) {
    const start = byteOffset / bytes + row * pitch
    copy.set(data.subarray(start, start + columns), row * columns)
  }
  return copy
}

/** Those that are in device memory: they are not read, and the kernels clamp what they find. */
export function onDevice({ source }: Indices): Operand | null {
  return source === null || source.device === CPU ? null : source
}

/** Numbers of the host as they are, those of a device with their rows one after the other. */
function partOf(argument: string, indices: Indices, copy: () => HostData): Part {
  const source = onDevice(indices)
  if (source === null) return { memory: copy(), byteOffset: 0 }
  if (source.rows <= 1 || source.pitch === source.columns) return source
  return fail('ERR_LILY_SHAPE', argument, 'in device memory it must be contiguous; copy it into a buffer of its own')
}

/** One byte per token, 1 to keep it. */
export function checkMask(indices: Indices, tokens: number, xShape: readonly number[]): Part {
  const { numbers, shape } = indices
  const leading = shape.length === xShape.length - 1 && shape.every((size, axis) => size === xShape[axis])
  if (!leading && !(shape.length === 1 && shape[0] === tokens)) {
    fail(
      'ERR_LILY_SHAPE',
      'mask',
      `expected one flag per token, ${shapeText([tokens])} or ${shapeText(xShape.slice(0, -1))}, got ${shapeText(shape)}`,
    )
  }
  return partOf('mask', indices, () => {
    const mask = new Uint8Array(tokens)
    for (let token = 0; token < tokens; token++) {
      const flag = numbers[token]
      if (Number.isNaN(flag)) fail('ERR_LILY_ARGUMENT', 'mask', `element ${token} is NaN; 0 drops a token, 1 keeps it`)
      mask[token] = flag === 0 ? 0 : 1
    }
    return mask
  })
}

/** Offsets from 0 to M that never decrease. */
export function checkOffsets(indices: Indices, tokens: number): Part {
  const argument = 'sequenceOffsets'
  const { numbers, shape } = indices
  if (shape.length !== 1 || shape[0] === 0) {
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `expected G + 1 cumulative offsets, such as [0, ${tokens}], got ${shapeText(shape)}`,
    )
  }
  // Those in device memory are not read: their number alone says that no sequence has the tokens.
  if (shape[0] === 1 && tokens > 0) {
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `expected G + 1 cumulative offsets of at least one sequence, for x has ${tokens} tokens, got [1]; ` +
        `pass [0, ${tokens}] if they are one sequence`,
    )
  }
  return partOf(argument, indices, () => {
    checkAscending(argument, numbers, tokens)
    return new Int32Array(numbers)
  })
}

function checkAscending(argument: string, numbers: Indices['numbers'], tokens: number): void {
  let previous = 0
  for (let i = 0; i < numbers.length; i++) {
    const offset = numbers[i]
    if (!Number.isSafeInteger(offset)) {
      fail('ERR_LILY_ARGUMENT', argument, `element ${i} must be an integer, got ${offset}`)
    }
    if (i === 0 && offset !== 0) {
      fail('ERR_LILY_ARGUMENT', argument, `the first offset must be 0, got ${offset}`)
    }
    if (offset < previous) {
      fail('ERR_LILY_ARGUMENT', argument, `offsets must not decrease: element ${i} is ${offset} after ${previous}`)
    }
    previous = offset
  }
  if (previous !== tokens) {
    fail('ERR_LILY_ARGUMENT', argument, `the last offset must be the number of tokens, ${tokens}, got ${previous}`)
  }
}

/** Finite weights, [G, E]; [E] is one group. */
export function checkWeights(indices: Indices, groups: number, experts: number): Part {
  const { numbers, shape } = indices
  const [rows, columns] = shape.length === 1 ? [1, shape[0]] : shape
  if (shape.length > 2 || rows !== groups || columns !== experts) {
    fail(
      'ERR_LILY_SHAPE',
      'weights',
      `expected ${groups === 1 ? `[${experts}] or ` : ''}[${groups}, ${experts}] (G ${groups}, E ${experts}), ` +
        `got ${shapeText(shape)}`,
    )
  }
  return partOf('weights', indices, () => {
    const weights = new Float32Array(numbers)
    for (let i = 0; i < weights.length; i++) {
      if (Number.isFinite(weights[i])) continue
      fail('ERR_LILY_ARGUMENT', 'weights', `element ${i} must be a finite float32, got ${describe(numbers[i])}`)
    }
    return weights
  })
}
