/**
 * The properties of typed arrays, read with the getters of the language itself: an own property, or a
 * getter of a subclass, may give another buffer or another length than the one that the addon sees, and may run code of
 * the caller.
 */

const prototype = Object.getPrototypeOf(Uint8Array.prototype) as object

type Getter = (this: unknown) => unknown

function getterOf(name: string | symbol): Getter {
  return (Object.getOwnPropertyDescriptor(prototype, name) as { readonly get: Getter }).get
}

const buffer = getterOf('buffer')
const byteOffset = getterOf('byteOffset')
const byteLength = getterOf('byteLength')
const className = getterOf(Symbol.toStringTag)

export function bufferOf(view: ArrayBufferView): ArrayBufferLike {
  return buffer.call(view) as ArrayBufferLike
}

/** Bytes from the start of the buffer to the first element; 0 once the buffer is detached. */
export function byteOffsetOf(view: ArrayBufferView): number {
  return byteOffset.call(view) as number
}

/** Length in bytes; 0 once the buffer is detached, or has shrunk so far that the array is out of its bounds. */
export function byteLengthOf(view: ArrayBufferView): number {
  return byteLength.call(view) as number
}

/** Whether a buffer is neither shared nor resizable: functions of browsers refuse all others. */
export function isFixed(buffer: ArrayBufferLike): buffer is ArrayBuffer {
  // Of any realm, so by its name.
  return (
    Object.prototype.toString.call(buffer) === '[object ArrayBuffer]' &&
    !(buffer as { readonly resizable?: boolean }).resizable
  )
}

/** Name of a typed array's class, such as 'Float32Array', in any realm; undefined for all other values. */
export function classNameOf(value: unknown): string | undefined {
  return className.call(value) as string | undefined
}
