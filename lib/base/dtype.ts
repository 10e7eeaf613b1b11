/** Data types of tensors, and the typed arrays that hold them on the host. */
import { describe, fail } from './errors.js'
import { classNameOf } from './views.js'

/** Data type of a tensor's elements. Masks are `uint8` and sequence offsets `int32`; all other operands hold floats. */
export type DType = 'float32' | 'bfloat16' | 'float16' | 'uint8' | 'int32'

/**
 * Host memory of a tensor: a Float32Array, Uint16Array, Float16Array, Uint8Array or Int32Array. A Uint16Array holds the
 * bit patterns of bfloat16 or float16 elements; float16 elements may also be in a native Float16Array. The buffer may be a
 * SharedArrayBuffer.
 *
 * It is an interface of the members that these classes have in common, since methods of a union of them, such as `reduce`,
 * cannot be called, and libraries of TypeScript before `esnext.float16` do not declare Float16Array.
 */
export interface HostData extends ArrayBufferView {
  readonly [Symbol.toStringTag]: 'Float32Array' | 'Uint16Array' | 'Float16Array' | 'Uint8Array' | 'Int32Array'
  readonly BYTES_PER_ELEMENT: number
  readonly length: number
  [index: number]: number
  [Symbol.iterator](): IterableIterator<number>
  keys(): IterableIterator<number>
  values(): IterableIterator<number>
  entries(): IterableIterator<[number, number]>
  every(predicate: (value: number, index: number) => unknown): boolean
  fill(value: number, start?: number, end?: number): this
  filter(predicate: (value: number, index: number) => unknown): HostData
  find(predicate: (value: number, index: number) => boolean): number | undefined
  findIndex(predicate: (value: number, index: number) => boolean): number
  forEach(callback: (value: number, index: number) => void): void
  includes(value: number, fromIndex?: number): boolean
  indexOf(value: number, fromIndex?: number): number
  join(separator?: string): string
  map(callback: (value: number, index: number) => number): HostData
  reduce(callback: (previous: number, value: number, index: number) => number, initial?: number): number
  reduce<T>(callback: (previous: T, value: number, index: number) => T, initial: T): T
  set(values: ArrayLike<number>, offset?: number): void
  slice(start?: number, end?: number): HostData
  some(predicate: (value: number, index: number) => unknown): boolean
  sort(compare?: (a: number, b: number) => number): this
  subarray(begin?: number, end?: number): HostData
}

/**
 * Data of a class that tells the type of the elements, which Uint16Array does not. A HostData may be of such a class:
 * unlike the class Uint16Array it has no `reverse`.
 */
export interface TypedData extends HostData {
  readonly reverse?: () => {
    readonly [Symbol.toStringTag]: Exclude<HostData[typeof Symbol.toStringTag], 'Uint16Array'>
  }
}

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
    case 'bool': // ONNX Runtime stores one byte per boolean
      return 'uint8'
    default:
      return fail(
        'ERR_LILY_DTYPE',
        argument,
        `expected dtype 'float32', 'bfloat16' or 'float16' ('uint8' for masks, 'int32' for offsets), ` +
          `got ${describe(value)}`,
      )
  }
}

export function readFloatDType(argument: string, value: unknown): DType {
  if (value === 'float32' || value === 'bfloat16' || value === 'float16') return value
  return fail('ERR_LILY_DTYPE', argument, `expected 'float32', 'bfloat16' or 'float16', got ${describe(value)}`)
}

/**
 * The dtype of host memory, from the class of its typed array. `given`, if defined, must agree with it. For a
 * Uint16Array `given` is required: the array holds bit patterns of bfloat16 or of float16.
 *
 * Arrays are told apart by the name of their class, because `instanceof` fails for arrays of another realm (a vm
 * context).
 *
 * @param accepted the types to which an error advises to convert an array of another class
 */
export function dtypeOf(argument: string, data: HostData, given: unknown, accepted = FLOATS): DType {
  switch (classNameOf(data)) {
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
      if (!accepted.some(is16Bit)) return failClass(argument, data, accepted)
      return fail(
        'ERR_LILY_DTYPE',
        argument,
        `expected dtype 'bfloat16' or 'float16' for a Uint16Array, got ${describe(given)}; pass one of the two`,
      )
    default:
      return failClass(argument, data, accepted)
  }
}

/** Types that an argument accepts. Advice about other arrays is a conversion to the first one. */
export type DTypes = readonly [DType, ...DType[]]

/** The types of parameters and activations. */
export const FLOATS: DTypes = ['float32', 'bfloat16', 'float16']

/** The class of the typed arrays that hold a type. */
function arrayOf(dtype: DType): string | undefined {
  return classNameOf(viewOf(dtype, new ArrayBuffer(0), 0, 0))
}

/** Fails with the advice to convert an array to the first type that an argument accepts. */
export function failClass(argument: string, data: ArrayBufferView, accepted: DTypes): never {
  const arrays = [...new Set(accepted.map(arrayOf))]
  const toNumber = classNameOf(data)?.startsWith('Big') ? ', Number' : ''
  fail(
    'ERR_LILY_DTYPE',
    argument,
    `expected data in ${arrays.join(' or ')}, got ${describe(data)}; convert it, for example with ` +
      // A DataView has no elements.
      (classNameOf(data) === undefined
        ? `new ${arrays[0]}(data.buffer, data.byteOffset, length)`
        : `${arrays[0]}.from(data${toNumber})`),
  )
}

function agreed(argument: string, dtype: DType, given: unknown): DType {
  if (given === undefined || given === dtype || readDType(argument, given) === dtype) return dtype
  const type = readDType(argument, given)
  const remedy =
    FLOATS.includes(dtype) && FLOATS.includes(type) ? leaveOutAndCast(type) : 'pass that dtype or leave it out'
  return fail(
    'ERR_LILY_DTYPE',
    argument,
    `expected dtype '${dtype}', the type of its typed array, got ${describe(given)}; ${remedy}`,
  )
}

/** What to do with a dtype that the given numbers do not have. */
export function leaveOutAndCast(dtype: DType): string {
  return `leave it out, and convert with cast(tensor, '${dtype}')`
}

/**
 * What to do with data that is no typed array, if it is the Float16Array of a library for runtimes without one: a proxy,
 * whose numbers are in the memory of a Uint16Array. Empty for other data.
 */
export function proxyAdvice(data: unknown): string {
  return describe(data) === 'an object of type Float16Array'
    ? "; pass new Uint16Array(data.buffer, data.byteOffset, data.length) and the dtype 'float16'"
    : ''
}

/**
 * A typed array over `length` elements of `buffer`, from `byteOffset` on. 16-bit floats are viewed as a Uint16Array.
 */
export function viewOf(dtype: DType, buffer: ArrayBufferLike, byteOffset: number, length: number): HostData {
  if (dtype === 'float32') return new Float32Array(buffer, byteOffset, length)
  if (dtype === 'int32') return new Int32Array(buffer, byteOffset, length)
  if (dtype === 'uint8') return new Uint8Array(buffer, byteOffset, length)
  return new Uint16Array(buffer, byteOffset, length)
}

/** The same memory as a new array of `dtype`; see {@link viewOf}. */
export function plainView(dtype: DType, data: ArrayBufferView): HostData {
  return viewOf(dtype, data.buffer, data.byteOffset, data.byteLength / bytesPerElement(dtype))
}

export function bytesOf(data: ArrayBufferView): Uint8Array {
  return plainView('uint8', data) as Uint8Array
}
