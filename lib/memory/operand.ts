/**
 * The one internal form of an operand: where its memory is, and the row-major matrix that it is seen as. Leading
 * dimensions are flattened into rows; the last dimension is a row's columns.
 */
import { bytesPerElement, type DType, type HostData } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { flatten, shapeText } from '../base/shape.js'
import { bound } from '../binding/errors.js'
import { native } from '../binding/native.js'
import { checkDevice } from './backends.js'
import type { DeviceMemory } from './device-memory.js'
import type { Device } from './device.js'
import type { StreamState } from './stream-state.js'

/** Memory of an operand: a view on the host, on a device the package's own or an address. */
export type OperandMemory = HostData | DeviceMemory | bigint

/** Some of a memory, from a byte on. */
export interface Part {
  readonly memory: OperandMemory
  readonly byteOffset: number
}

export function isHostMemory(memory: OperandMemory): memory is HostData {
  return ArrayBuffer.isView(memory)
}

/** Of the package's own. */
export function isDeviceMemory(memory: OperandMemory): memory is DeviceMemory {
  return typeof memory === 'object' && !isHostMemory(memory)
}

export class Operand {
  /** Set when the tensor that owns this operand is disposed of. */
  disposed = false
  /** Of device memory: the stream in which it may be used without waiting; null where its owner says nothing. */
  stream: StreamState | null = null
  /** Of device memory that someone else owns: what keeps it. */
  owner: unknown = null

  constructor(
    readonly memory: OperandMemory,
    /** Bytes from the start of the view, or from the address, to the first element. */
    readonly byteOffset: number,
    /** Bytes from the first element to the end of the last. */
    readonly byteLength: number,
    readonly dtype: DType,
    readonly device: Device,
    readonly shape: readonly number[],
    /** In elements; null: contiguous. */
    readonly strides: readonly number[] | null,
    readonly rows: number,
    readonly columns: number,
    /** Elements from one row to the next. */
    readonly pitch: number,
  ) {}

  /** The same memory for one more tensor. */
  share(): Operand {
    const { memory } = this
    const shared = new Operand(
      isDeviceMemory(memory) ? memory.retain() : memory,
      this.byteOffset,
      this.byteLength,
      this.dtype,
      this.device,
      this.shape,
      this.strides,
      this.rows,
      this.columns,
      this.pitch,
    )
    shared.stream = this.stream
    shared.owner = this.owner
    return shared
  }

  /** Some of its rows and columns, in the same memory, of which there is at least one. */
  window(row: number, rows: number, column: number, columns: number): Operand {
    const bytes = bytesPerElement(this.dtype)
    const { memory, byteOffset, dtype, device, pitch } = this.share()
    const offset = byteOffset + (row * pitch + column) * bytes
    const byteLength = ((rows - 1) * pitch + columns) * bytes
    const shape = [rows, columns]
    const window = new Operand(memory, offset, byteLength, dtype, device, shape, [pitch, 1], rows, columns, pitch)
    window.stream = this.stream
    window.owner = this.owner
    return window
  }

  /** Lets go of the memory. */
  dispose(): void {
    if (this.disposed) return
    this.disposed = true
    const { memory } = this
    if (isDeviceMemory(memory)) memory.release()
  }
}

/** An operand in device memory of the package's. */
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

/** An operand over memory, its shape flattened into a matrix; throws where the shape has no single row pitch. */
export function layOut(
  argument: string,
  memory: OperandMemory,
  byteOffset: number,
  dtype: DType,
  device: Device,
  shape: readonly number[],
  strides: readonly number[] | null,
): Operand {
  const { rows, columns, pitch, byteLength } = flatten(argument, dtype, shape, strides)
  return new Operand(memory, byteOffset, byteLength, dtype, device, shape, strides, rows, columns, pitch)
}

/** Whether the memory is still there and holds the whole operand. Asked when nothing of the caller's runs any more. */
export function checkMemory(argument: string, operand: Operand): void {
  if (operand.disposed) fail('ERR_LILY_DISPOSED', argument, 'this tensor has been disposed of; use it before dispose()')
  const memory = operand.memory
  if (typeof memory === 'bigint') {
    checkDevice(argument, operand.device)
    const address = memory + BigInt(operand.byteOffset)
    bound(() => native.checkPointer(operand.device.id, address, operand.byteLength, argument))
    return
  }
  if (operand.byteOffset + operand.byteLength <= memory.byteLength) return
  if (isHostMemory(memory) && isDetached(memory.buffer)) failDetached(argument)
  fail(
    'ERR_LILY_SHAPE',
    argument,
    `shape ${shapeText(operand.shape)}${operand.strides === null ? '' : ` with strides ${shapeText(operand.strides)}`} ` +
      `of ${operand.dtype} ends ${operand.byteOffset + operand.byteLength} bytes after the start of its data, ` +
      `which has ${memory.byteLength} bytes${memory.byteLength === 0 ? ' (a buffer that shrank has none left)' : ''}`,
  )
}

/** Data that is longer than its shape is more likely a wrong shape than meant. */
export function checkNotLonger(argument: string, data: ArrayBufferView, { byteLength, shape, dtype }: Operand): void {
  if (data.byteLength <= byteLength) return
  fail(
    'ERR_LILY_SHAPE',
    argument,
    `shape ${shapeText(shape)} of ${dtype} has ${byteLength} bytes, data has ${data.byteLength}; ` +
      `pass data.subarray(...), or byteOffset, to use a part of it`,
  )
}

export function failDetached(argument: string): never {
  fail(
    'ERR_LILY_ARGUMENT',
    argument,
    'its ArrayBuffer is detached (transferred elsewhere); pass memory that is still here',
  )
}

export function isDetached(buffer: ArrayBufferLike): boolean {
  try {
    new Uint8Array(buffer) // throws for a detached buffer; ArrayBuffer.detached is not in Node 20
    return false
  } catch {
    return true
  }
}

/**
 * Whether two operands share a byte. Exact where both have the same row pitch, as column windows cut from one fused
 * buffer have; by their whole ranges otherwise.
 */
export function overlaps(a: Operand, b: Operand): boolean {
  const left = a.memory
  const right = b.memory
  if (isHostMemory(left) ? !isHostMemory(right) || left.buffer !== right.buffer : isHostMemory(right)) return false
  if (a.byteLength === 0 || b.byteLength === 0) return false
  const aStart = startOf(left) + a.byteOffset
  const bStart = startOf(right) + b.byteOffset
  if (aStart + a.byteLength <= bStart || bStart + b.byteLength <= aStart) return false

  const aPitch = a.pitch * bytesPerElement(a.dtype)
  const bPitch = b.pitch * bytesPerElement(b.dtype)
  // One row has any pitch.
  const pitch = a.rows === 1 ? bPitch : aPitch
  if (pitch !== bPitch && b.rows !== 1) return true
  const shift = (((bStart - aStart) % pitch) + pitch) % pitch
  const aWidth = a.columns * bytesPerElement(a.dtype)
  const bWidth = b.columns * bytesPerElement(b.dtype)
  return shift < aWidth || shift + bWidth > pitch
}

/** Whether an operand lies in memory of the package's own: in its buffer, or in its block on a device. */
export function sharesMemory({ memory, byteOffset, byteLength }: Operand, own: OperandMemory): boolean {
  if (isHostMemory(own)) return isHostMemory(memory) && memory.buffer === own.buffer
  if (isHostMemory(memory) || typeof own === 'bigint') return false
  const start = startOf(memory) + byteOffset
  return start < own.address + own.byteLength && own.address < start + byteLength
}

/** Where memory begins: in its buffer, or on the devices, which have no address in common. */
export function startOf(memory: OperandMemory): number {
  if (typeof memory === 'bigint') return Number(memory)
  return isHostMemory(memory) ? memory.byteOffset : memory.address
}
