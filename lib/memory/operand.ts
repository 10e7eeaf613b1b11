/**
 * The internal form of an operand: its memory, and its shape as a row-major matrix (base/shape.ts). Every tensor that
 * the caller passes, in whatever form, is resolved to an `Operand`.
 */
import { bytesPerElement, type DType, type HostData } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { flatten, type Matrix, shapeText } from '../base/shape.js'
import { webGpuBinding } from '../binding/devices.js'
import { bound } from '../binding/errors.js'
import { native } from '../binding/native.js'
import { checkDevice } from './backends.js'
import type { DeviceMemory } from './device-memory.js'
import { CPU, type Device } from './device.js'
import { isDeviceMemory, isHostMemory, type OperandMemory } from './operand-memory.js'
import { exchangedCount } from './host-memory.js'
import { type Space, spaceOf, startOf } from './space.js'
import type { StreamState } from './stream-state.js'

/** Memory from a byte offset on. */
export interface Part {
  readonly memory: OperandMemory
  readonly byteOffset: number
}

export class Operand implements Part, Matrix {
  // Copied from the Matrix argument. Without `declare` they would be initialised twice.
  declare readonly rows: number
  declare readonly columns: number
  declare readonly pitch: number
  declare readonly byteLength: number
  /** True once the tensor that owns this operand is disposed of. */
  disposed = false
  /**
   * The stream in whose order the device memory may be used without further synchronisation; null for host memory, and
   * for foreign memory that names no stream.
   */
  stream: StreamState | null = null
  /** The object that keeps foreign device memory alive. */
  owner: unknown = null
  /** Whether the memory must not be written. */
  isReadOnly = false
  /** The number of steps of optimisers that have changed the values. */
  version = 0
  #space: Space | null = null
  #spaceCount = 0

  constructor(
    readonly memory: OperandMemory,
    /** Bytes from the start of `memory` to the first element. */
    readonly byteOffset: number,
    readonly dtype: DType,
    readonly device: Device,
    readonly shape: readonly number[],
    /** Strides in elements; null: contiguous. */
    readonly strides: readonly number[] | null,
    { rows, columns, pitch, byteLength }: Matrix,
  ) {
    this.rows = rows
    this.columns = columns
    this.pitch = pitch
    this.byteLength = byteLength
  }

  /** The space of the memory. It is found once, because a call compares every output with every other operand. */
  get space(): Space {
    if (this.#space === null || this.#spaceCount !== exchangedCount) {
      this.#spaceCount = exchangedCount
      this.#space = spaceOf(this.memory)
    }
    return this.#space
  }

  /** A new operand over the same memory, with its own reference to it. */
  share(): Operand {
    const memory = isDeviceMemory(this.memory) ? this.memory.retain() : this.memory
    const shared = new Operand(memory, this.byteOffset, this.dtype, this.device, this.shape, this.strides, this)
    shared.stream = this.stream
    shared.owner = this.owner
    shared.isReadOnly = this.isReadOnly
    return shared
  }

  /** Releases the memory. Calling it again has no effect. */
  dispose(): void {
    if (this.disposed) return
    this.disposed = true
    const { memory } = this
    if (isDeviceMemory(memory)) memory.release()
  }
}

/**
 * A submatrix of an operand in the same memory, of at least one row: `rows` rows from `row` on, `columns` columns from
 * `column` on. It has its own reference to the memory.
 */
export function windowOf(operand: Operand, row: number, rows: number, column: number, columns: number): Operand {
  return blockOf(operand.share(), row, rows, column, columns)
}

/** The same without a reference of its own, for calls that hold the operand. */
export function blockOf(operand: Operand, row: number, rows: number, column: number, columns: number): Operand {
  const { memory, byteOffset, dtype, device, pitch } = operand
  const bytes = bytesPerElement(dtype)
  const offset = byteOffset + (row * pitch + column) * bytes
  const matrix = { rows, columns, pitch, byteLength: ((rows - 1) * pitch + columns) * bytes }
  const block = new Operand(memory, offset, dtype, device, [rows, columns], [pitch, 1], matrix)
  block.stream = operand.stream
  block.owner = operand.owner
  block.isReadOnly = operand.isReadOnly
  return block
}

/** A vector [n] as the matrix [n, 1], without a reference of its own; other operands as they are. */
export function columnOf(operand: Operand): Operand {
  const { memory, byteOffset, dtype, device, shape, columns: rows, byteLength } = operand
  if (shape.length !== 1) return operand
  return new Operand(memory, byteOffset, dtype, device, [rows, 1], null, { rows, columns: 1, pitch: 1, byteLength })
}

/** A contiguous operand in host memory. */
export function layOutOnHost(argument: string, data: HostData, dtype: DType, shape: readonly number[]): Operand {
  return layOut(argument, data, 0, dtype, CPU, shape, null)
}

/** A contiguous operand in device memory of the package. */
export function layOutOnDevice(
  argument: string,
  memory: DeviceMemory,
  byteOffset: number,
  dtype: DType,
  shape: readonly number[],
): Operand {
  const operand = layOut(argument, memory, byteOffset, dtype, memory.device, shape, null)
  operand.stream = memory.stream
  return operand
}

/**
 * An operand of any shape and strides over memory.
 *
 * @throws LilyError ERR_LILY_SHAPE if the shape and strides have no single row pitch
 */
export function layOut(
  argument: string,
  memory: OperandMemory,
  byteOffset: number,
  dtype: DType,
  device: Device,
  shape: readonly number[],
  strides: readonly number[] | null,
): Operand {
  const matrix = flatten(argument, dtype, shape, strides)
  return new Operand(memory, byteOffset, dtype, device, shape, strides, matrix)
}

/**
 * Checks that the memory is still valid (not disposed of, not detached) and holds the whole operand. This runs once all
 * arguments have been read: code of the caller could invalidate the memory after an earlier check.
 */
export function checkMemory(argument: string, operand: Operand): void {
  if (operand.disposed) fail('ERR_LILY_DISPOSED', argument, 'this tensor is disposed of; use it before dispose()')
  const memory = operand.memory
  const { device, byteOffset } = operand
  if (typeof memory === 'bigint' || device.type === 'webgpu') checkDevice(argument, device)
  if (typeof memory === 'bigint') {
    bound(() => {
      native.checkPointer(device.id, memory + BigInt(byteOffset), operand.byteLength, argument)
    })
    return
  }
  if (!isHostMemory(memory) && !isDeviceMemory(memory)) {
    webGpuBinding(argument, device.id).checkBuffer(memory, byteOffset, operand.byteLength, argument)
    return
  }
  const given = memory.byteLength
  if (operand.byteOffset + operand.byteLength <= given) return
  if (isHostMemory(memory) && isDetached(memory.buffer)) failDetached(argument)
  fail(
    'ERR_LILY_SHAPE',
    argument,
    `expected at least ${operand.byteOffset + operand.byteLength} bytes of data for shape ${shapeText(operand.shape)} ` +
      `${operand.strides === null ? '' : `with strides ${shapeText(operand.strides)} `}of ${operand.dtype}, got ` +
      `${given}; pass longer data or a smaller shape`,
  )
}

/** Checks that data is not longer than its shape, which is more likely a mistake than intended. */
export function checkNotLonger(argument: string, data: ArrayBufferView, { byteLength, shape, dtype }: Operand): void {
  const given = data.byteLength
  if (given <= byteLength) return
  fail(
    'ERR_LILY_SHAPE',
    argument,
    `expected ${byteLength} bytes of data for shape ${shapeText(shape)} of ${dtype}, got ${given}; ` +
      `pass data.subarray(...) or a byteOffset to use a part of it`,
  )
}

/** Checks that memory that is not empty is not detached. */
export function checkAttached(argument: string, memory: OperandMemory): void {
  if (isHostMemory(memory) && memory.byteLength === 0) failDetached(argument)
}

export function failDetached(argument: string): never {
  fail(
    'ERR_LILY_ARGUMENT',
    argument,
    'its ArrayBuffer is detached, for example because it was transferred to a worker; pass memory that is not',
  )
}

export function isDetached(buffer: ArrayBufferLike): boolean {
  try {
    new Uint8Array(buffer) // throws for a detached buffer; Node.js 20 has no ArrayBuffer.prototype.detached
    return false
  } catch {
    return true
  }
}

/**
 * Whether two operands share a byte. The result is exact if both have the same row pitch, as column windows of one
 * fused buffer do; otherwise their whole byte ranges are compared.
 */
export function overlaps(a: Operand, b: Operand): boolean {
  if (a.space !== b.space || a.byteLength === 0 || b.byteLength === 0) return false
  const aStart = startOf(a.memory) + a.byteOffset
  const bStart = startOf(b.memory) + b.byteOffset
  if (aStart + a.byteLength <= bStart || bStart + b.byteLength <= aStart) return false

  const aPitch = a.pitch * bytesPerElement(a.dtype)
  const bPitch = b.pitch * bytesPerElement(b.dtype)
  // The pitch of an operand with one row is irrelevant.
  const pitch = a.rows === 1 ? bPitch : aPitch
  if (pitch !== bPitch && b.rows !== 1) return true
  const shift = (((bStart - aStart) % pitch) + pitch) % pitch
  const aWidth = a.columns * bytesPerElement(a.dtype)
  const bWidth = b.columns * bytesPerElement(b.dtype)
  return shift < aWidth || shift + bWidth > pitch
}

/**
 * Whether an operand lies in memory `own` that this package allocated: in its ArrayBuffer, or in its block on a device.
 */
export function sharesMemory({ space, memory, byteOffset, byteLength }: Operand, own: OperandMemory): boolean {
  const isOwn = isHostMemory(own) || isDeviceMemory(own)
  if (!isOwn || space !== spaceOf(own)) return false
  if (typeof space !== 'symbol') return true // the whole buffer is the package's
  const [start, ownStart] = [startOf(memory) + byteOffset, startOf(own)]
  return start < ownStart + own.byteLength && ownStart < start + byteLength
}
