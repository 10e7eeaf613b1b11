/**
 * The small operands: mask, sequence offsets, weights of experts. Their numbers are copied when they are read, so that
 * the checks and the kernels see the same numbers even if the caller or another thread changes them.
 */
import { bytesPerElement, dtypeOf, type DTypes, failClass, type HostData, is16Bit } from '../base/dtype.js'
import { describe, fail } from '../base/errors.js'
import { shapeText } from '../base/shape.js'
import { CPU } from '../memory/device.js'
import { checkMemory, failDetached, isDetached, layOutOnHost, type Operand, type Part } from '../memory/operand.js'
import { copyRows } from '../tensor/numbers.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'

/**
 * One flag per token: 0 or false drops it. Numbers in an array or of type uint8 may be any others to keep it; int32 and
 * float32, which also hold masks that are added to scores, may hold 0 and 1 only. In device memory: uint8.
 */
export type MaskLike = Uint8Array | Int32Array | Float32Array | readonly boolean[] | readonly number[] | TensorLike

/**
 * Cumulative offsets of G sequences: G + 1 numbers from 0 to M. Those in device memory may be any numbers: each counts as the
 * largest of the offsets up to it, from 0 to M, and tokens before the first and from the last on belong to no sequence.
 */
export type OffsetsLike = Int32Array | readonly number[] | TensorLike

/** Weights of experts: [E], or a tensor of [G, E]. */
export type WeightsLike = Float32Array | readonly number[] | TensorLike

/** A small operand as the caller gives it, not checked yet. */
export interface SmallOperand {
  /** A copy, row-major; empty for an operand in device memory. */
  readonly numbers: HostData | Float64Array
  readonly shape: readonly number[]
  /** The tensor or typed array that the numbers were read from; null for an array. */
  readonly source: Operand | null
}

const MASK = ['uint8', 'int32', 'float32'] as const

const UNREAD = new Float64Array(0)

/** Resolves an option that is a typed array or a tensor. */
export function resolveSmall(argument: string, value: unknown, dtypes: DTypes): Operand {
  return ArrayBuffer.isView(value) ? wrap(argument, value as HostData, dtypes) : resolve(argument, value, dtypes)
}

/**
 * Reads an option that is an array, or a typed array or tensor of a dtype.
 *
 * @param dtypes the dtypes on the host; the kernels read the first one
 */
export function readSmallOperand(argument: string, value: unknown, dtypes: DTypes): SmallOperand {
  if (Array.isArray(value)) return { numbers: copyArray(argument, value), shape: [value.length], source: null }
  const source = resolveSmall(argument, value, dtypes)
  const isHost = source.device === CPU
  if (isHost ? !dtypes.includes(source.dtype) : source.dtype !== dtypes[0]) {
    if (isHost && !is16Bit(source.dtype)) failClass(argument, source.memory as HostData, dtypes)
    const expected = isHost ? dtypes.join(' or ') : `${dtypes[0]} in device memory`
    fail('ERR_LILY_DTYPE', argument, `expected ${expected}, got ${source.dtype}; convert it`)
  }
  if (!isHost) return { numbers: UNREAD, shape: source.shape, source }
  checkMemory(argument, source)
  return { numbers: copyRows(source), shape: source.shape, source }
}

function wrap(argument: string, data: HostData, dtypes: DTypes): Operand {
  const dtype = dtypeOf(argument, data, undefined, dtypes)
  const length = data.byteLength / bytesPerElement(dtype)
  if (length === 0 && isDetached(data.buffer)) failDetached(argument)
  return layOutOnHost(argument, data, dtype, [length])
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

export const readMask = (value: unknown): SmallOperand => readSmallOperand('mask', value, MASK)

/** The operand of a small operand in device memory. Its numbers are not read on the host. */
export function onDevice({ source }: SmallOperand): Operand | null {
  return source === null || source.device === CPU ? null : source
}

/** Its memory, with the size and type of its slot; fails if the operand is not contiguous. */
function contiguousOnDevice(argument: string, operand: SmallOperand): Part | null {
  const source = onDevice(operand)
  if (source === null) return null
  const { memory, byteOffset, rows, columns, pitch } = source
  if (rows <= 1 || pitch === columns) return { memory, byteOffset }
  return fail('ERR_LILY_SHAPE', argument, 'in device memory it must be contiguous; pass a contiguous copy')
}

/** Checks a mask. Returns one byte per token, 1 to keep it. */
export function checkMask(operand: SmallOperand, tokens: number, xShape: readonly number[]): Part {
  const { shape } = operand
  const leading = shape.length === xShape.length - 1 && shape.every((size, axis) => size === xShape[axis])
  if (!leading && !(shape.length === 1 && shape[0] === tokens)) {
    fail(
      'ERR_LILY_SHAPE',
      'mask',
      `expected one flag per token, [${tokens}]${xShape.length > 2 ? ' or the leading dimensions of x' : ''}, got ${shapeText(shape)}`,
    )
  }
  return contiguousOnDevice('mask', operand) ?? flagsOf(operand, 'token')
}

/** Checks a mask of the keys of attention, [batch, keys], or [keys] of one item. Returns one byte per key, 1 to keep it. */
export function checkKeyMask(operand: SmallOperand, batch: number, keys: number): Part {
  const { shape } = operand
  const isOne = batch === 1 && shape.length === 1 && shape[0] === keys
  if (!isOne && !(shape.length === 2 && shape[0] === batch && shape[1] === keys)) {
    fail('ERR_LILY_SHAPE', 'mask', `expected one flag per key, [${batch}, ${keys}], got ${shapeText(shape)}`)
  }
  return flagsOf(operand, 'key')
}

/** One byte per flag of a mask on the host. */
function flagsOf({ numbers, source }: SmallOperand, what: string): Part {
  const isBinary = source !== null && source.dtype !== 'uint8'
  const mask = new Uint8Array(numbers.length)
  for (let i = 0; i < mask.length; i++) {
    const flag = numbers[i]
    if (Number.isNaN(flag) || (isBinary && flag !== 0 && flag !== 1)) {
      fail('ERR_LILY_ARGUMENT', 'mask', `element ${i} is ${flag}; expected 0 to drop the ${what} or 1 to keep it`)
    }
    mask[i] = flag === 0 ? 0 : 1
  }
  return { memory: mask, byteOffset: 0 }
}

/** Checks sequence offsets, which go from 0 to M and never decrease. */
export function checkOffsets(operand: SmallOperand, tokens: number): Part {
  const argument = 'sequenceOffsets'
  const { numbers, shape } = operand
  if (shape.length !== 1 || shape[0] === 0) {
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `expected G + 1 cumulative offsets, such as [0, ${tokens}], got ${shape[0] === 0 ? 'none' : `shape ${shapeText(shape)}`}`,
    )
  }
  // Without a sequence no tokens can exist. The check reads no offsets, so it also covers those in device memory.
  if (shape[0] === 1 && tokens > 0) {
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `expected G + 1 cumulative offsets of at least one sequence, because x has tokens, got one offset; ` +
        `pass [0, ${tokens}] if they are one sequence`,
    )
  }
  const source = contiguousOnDevice(argument, operand)
  if (source !== null) return source
  checkAscending(argument, numbers, tokens)
  return { memory: new Int32Array(numbers), byteOffset: 0 }
}

function checkAscending(argument: string, numbers: SmallOperand['numbers'], tokens: number): void {
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

/** Checks weights, which are finite and [G, E]; [E] is one group. */
export function checkWeights(operand: SmallOperand, groups: number, experts: number): Part {
  const { numbers, shape } = operand
  const [rows, columns] = shape.length === 1 ? [1, shape[0]] : shape
  if (shape.length > 2 || rows !== groups || columns !== experts) {
    fail(
      'ERR_LILY_SHAPE',
      'weights',
      `expected ${groups === 1 ? `[${experts}] or ` : ''}[${groups}, ${experts}] (G ${groups}, E ${experts}), ` +
        `got ${shapeText(shape)}`,
    )
  }
  const source = contiguousOnDevice('weights', operand)
  if (source !== null) return source
  const weights = new Float32Array(numbers)
  for (let i = 0; i < weights.length; i++) {
    if (Number.isFinite(weights[i])) continue
    fail('ERR_LILY_ARGUMENT', 'weights', `element ${i} must be a finite float32, got ${describe(numbers[i])}`)
  }
  return { memory: weights, byteOffset: 0 }
}
