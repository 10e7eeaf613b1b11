/** Data types of tensors, and the typed arrays that hold them on the host. */
import { describe, fail } from './errors.js'

/** Data type of a tensor. `uint8` and `int32` are those of masks and offsets. */
export type DType = 'float32' | 'bfloat16' | 'float16' | 'uint8' | 'int32'

/** The part of Node 24's Float16Array that is needed here; older type libraries do not know it. */
export interface Float16ArrayLike extends ArrayBufferView {
  readonly BYTES_PER_ELEMENT: number
  readonly length: number
  readonly [Symbol.toStringTag]: 'Float16Array'
  [index: number]: number
  [Symbol.iterator](): IterableIterator<number>
  fill(value: number, start?: number, end?: number): this
  forEach(callback: (value: number, index: number) => void): void
  set(values: ArrayLike<number>, offset?: number): void
  slice(start?: number, end?: number): Float16ArrayLike
  subarray(begin?: number, end?: number): Float16ArrayLike
}

/**
 * Host memory of a tensor. bfloat16 and float16 numbers lie in a Uint16Array as bits; float16 may also lie in a native
 * Float16Array. The memory may be shared (SharedArrayBuffer).
 */
export type HostData = Float32Array | Uint16Array | Float16ArrayLike | Uint8Array | Int32Array

export function bytesPerElement(dtype: DType): number {
  if (dtype === 'float32' || dtype === 'int32') return 4
  return dtype === 'uint8' ? 1 : 2
}

export function is16Bit(dtype: DType): boolean {
  return dtype === 'bfloat16' || dtype === 'float16'
}

export function readDType(argument: string, value: unknown): DType {
  switch (value) {
    case 'float32':
    case 'bfloat16':
    case 'float16':
    case 'uint8':
    case 'int32':
      return value
    case 'bool': // ONNX Runtime's name of a byte per truth value
      return 'uint8'
    default:
      return fail(
        'ERR_LILY_DTYPE',
        argument,
        `expected dtype 'float32', 'bfloat16' or 'float16' ('uint8' for masks, 'int32' for offsets), got ${describe(value)}`,
      )
  }
}

/**
 * The dtype of host memory: what its typed array says, which a given dtype must agree with; the bits in a Uint16Array
 * say nothing by themselves. The tag, not `instanceof`, tells arrays apart: it holds for arrays of other realms too.
 */
export function dtypeOf(argument: string, data: HostData, given: unknown): DType {
  switch (data[Symbol.toStringTag]) {
    case 'Float32Array':
      return agreed(argument, 'float32', given)
    case 'Float16Array':
      return agreed(argument, 'float16', given)
    case 'Uint8Array':
      return agreed(argument, 'uint8', given)
    case 'Int32Array':
      return agreed(argument, 'int32', given)
    case 'Uint16Array':
      if (given === 'bfloat16' || given === 'float16') return given
      return fail(
        'ERR_LILY_DTYPE',
        argument,
        `a Uint16Array holds the bits of dtype 'bfloat16' or 'float16', got dtype ${describe(given)}; say which`,
      )
    default:
      return fail(
        'ERR_LILY_DTYPE',
        argument,
        `expected data in a Float32Array (or a Uint16Array or Float16Array of 16-bit numbers), ` +
          `got ${describe(data)}; convert it, for example with Float32Array.from(data)`,
      )
  }
}

function agreed(argument: string, dtype: DType, given: unknown): DType {
  if (given === undefined || given === dtype || readDType(argument, given) === dtype) return dtype
  return fail('ERR_LILY_DTYPE', argument, `its typed array holds ${dtype}, but its dtype says ${describe(given)}`)
}

/** A view of `length` elements of a dtype in a buffer. */
export function viewOf(dtype: DType, buffer: ArrayBufferLike, byteOffset: number, length: number): HostData {
  if (dtype === 'float32') return new Float32Array(buffer, byteOffset, length)
  if (dtype === 'int32') return new Int32Array(buffer, byteOffset, length)
  if (dtype === 'uint8') return new Uint8Array(buffer, byteOffset, length)
  return new Uint16Array(buffer, byteOffset, length)
}

/** The same memory, whatever its type. */
export function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}
