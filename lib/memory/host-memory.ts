/** What the buffers of host memory are, and where they lie. */
import { fail } from '../base/errors.js'
import { bufferOf, byteLengthOf } from '../base/views.js'
import { native } from '../binding/native.js'

/** The getter of `resizable`; undefined in a runtime without resizable buffers. */
const resizable = (
  Object.getOwnPropertyDescriptor(ArrayBuffer.prototype, 'resizable') as
    { readonly get: (this: ArrayBufferLike) => boolean } | undefined
)?.get

type LengthGetter = (this: ArrayBufferLike) => number

function lengthGetterOf(prototype: object | undefined): LengthGetter | undefined {
  return prototype && (Object.getOwnPropertyDescriptor(prototype, 'byteLength') as { readonly get: LengthGetter }).get
}

/** The getters of `byteLength`. Each throws for a buffer of the other kind. A page may have no SharedArrayBuffer. */
const lengthOfUnshared = lengthGetterOf(ArrayBuffer.prototype)
const lengthOfShared = lengthGetterOf(globalThis.SharedArrayBuffer?.prototype)

/** Whether a buffer is a SharedArrayBuffer. Several of these may be objects of the same memory. */
export function isShared(buffer: ArrayBufferLike): boolean {
  // The guess is wrong for buffers of another realm only: a getter that throws takes 10 us.
  const guess = lengthOfShared !== undefined && buffer instanceof SharedArrayBuffer
  try {
    ;(guess ? lengthOfShared : lengthOfUnshared)?.call(buffer)
    return guess
  } catch {
    return !guess
  }
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

/** Whether a buffer may shrink. A SharedArrayBuffer can only grow, and does not move. */
function canShrink(buffer: ArrayBufferLike): boolean {
  return resizable !== undefined && !isShared(buffer) && resizable.call(buffer)
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
  if (!canShrink(bufferOf(array))) return
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
  if (byteLengthOf(array) > 0) return
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
