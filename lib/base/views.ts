/**
 * The properties of typed arrays, read by the getters of the language. A typed array of the caller, or its class, may have
 * properties of the same names; their getters would run code of the caller after the first phase of a call, which could
 * change what has been checked.
 */

type Getter<T> = (this: ArrayBufferView) => T

interface Getters {
  readonly [Symbol.toStringTag]: { readonly get: Getter<string | undefined> }
  readonly buffer: { readonly get: Getter<ArrayBufferLike> }
  readonly byteOffset: { readonly get: Getter<number> }
  readonly byteLength: { readonly get: Getter<number> }
}

const getters = Object.getOwnPropertyDescriptors(Object.getPrototypeOf(Uint8Array.prototype)) as unknown as Getters
const { get: tag } = getters[Symbol.toStringTag]
const { get: buffer } = getters.buffer
const { get: byteOffset } = getters.byteOffset
const { get: byteLength } = getters.byteLength

/** Name of the class of a typed array, also of one of another realm; undefined for a DataView. */
export function tagOf(view: ArrayBufferView): string | undefined {
  return tag.call(view)
}

/** The buffer of a typed array. */
export function bufferOf(view: ArrayBufferView): ArrayBufferLike {
  return buffer.call(view)
}

/** Bytes from the start of the buffer to the first element; 0 if the buffer is detached. */
export function byteOffsetOf(view: ArrayBufferView): number {
  return byteOffset.call(view)
}

/** Bytes of the elements; 0 if the buffer is detached. */
export function byteLengthOf(view: ArrayBufferView): number {
  return byteLength.call(view)
}
