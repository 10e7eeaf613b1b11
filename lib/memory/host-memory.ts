/** What the buffers of host memory are, and where they lie. */
import { types } from 'node:util'
import { bytesOf } from '../base/dtype.js'
import { bufferOf } from '../base/views.js'
import { native } from '../binding/native.js'

/** The getter of `resizable`; undefined in a runtime without resizable buffers. */
const resizable = (
  Object.getOwnPropertyDescriptor(ArrayBuffer.prototype, 'resizable') as
    { readonly get: (this: ArrayBufferLike) => boolean } | undefined
)?.get

/** Whether a buffer is a SharedArrayBuffer. Several of these may be objects of the same memory. */
export function isShared(buffer: ArrayBufferLike): boolean {
  return types.isSharedArrayBuffer(buffer)
}

/** Whether a buffer may shrink. A SharedArrayBuffer can only grow, and does not move. */
export function canShrink(buffer: ArrayBufferLike): boolean {
  return resizable !== undefined && !isShared(buffer) && resizable.call(buffer)
}

/** Address of the first element of an array in shared memory. It fits a number: addresses have fewer than 53 bits. */
export function addressOf(array: ArrayBufferView): number {
  return native.hostAddress(bytesOf(array)) // some versions of Node-API reject a Float16Array
}

/** Whether two arrays have the same buffer, or two buffers that may be of the same memory. */
export function mayShareMemory(a: ArrayBufferView, b: ArrayBufferView): boolean {
  const [left, right] = [bufferOf(a), bufferOf(b)]
  return left === right || (isShared(left) && isShared(right))
}
