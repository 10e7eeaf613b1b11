/** What the buffers of host memory are, and where they lie. */
import { fail } from '../base/errors.js'
import { native } from '../binding/native.js'

/** Whether a buffer is a SharedArrayBuffer, of any realm. Several of these may be objects of the same memory. */
export function isShared(buffer: ArrayBufferLike): boolean {
  return buffer[Symbol.toStringTag] === 'SharedArrayBuffer'
}

/**
 * The ArrayBuffers whose memory came from another addon, or was given to one, and how many there have been. Others may
 * be objects of the same memory.
 */
const exchanged = new WeakSet<ArrayBufferLike>()
export let exchangedCount = 0

/** Records that a buffer may not be the only object of its memory. */
export function addExchanged(buffer: ArrayBufferLike): void {
  if (exchanged.has(buffer)) return
  exchanged.add(buffer)
  exchangedCount++
}

/** Whether other buffers may be objects of the same memory. */
export function hasAliases(buffer: ArrayBufferLike): boolean {
  return isShared(buffer) || exchanged.has(buffer)
}

/**
 * Refuses memory that may shrink, for work that goes on after a call returns: the rest of the memory would be gone.
 *
 * @param until the end of that work
 */
export function refuseShrinking(
  argument: string,
  array: ArrayBufferView,
  until = 'before the promise is settled',
): void {
  // A SharedArrayBuffer can only grow, and does not move. It has no property `resizable`.
  if (!(array.buffer as { readonly resizable?: boolean }).resizable) return
  fail(
    'ERR_LILY_ARGUMENT',
    argument,
    `expected memory that cannot shrink ${until}, got a resizable ArrayBuffer; ` +
      'pass memory of a fixed length, or a SharedArrayBuffer',
  )
}

/**
 * Reports that memory was transferred while work used it. Memory that is not empty has length 0 then, and no view of it
 * becomes valid again.
 */
export function refuseTransferred(argument: string, array: ArrayBufferView): void {
  if (array.byteLength > 0) return
  fail(
    'ERR_LILY_ARGUMENT',
    argument,
    'its ArrayBuffer was transferred before the promise was settled, so the result is invalid; transfer it afterwards',
  )
}

/** Address of the first element of an array in shared memory. It fits a number: addresses have fewer than 53 bits. */
export function addressOf(array: ArrayBufferView): number {
  return native.hostAddress(array)
}
