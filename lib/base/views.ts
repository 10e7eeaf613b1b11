/** Recognises typed arrays and their buffers. In another realm they have the same names, but other classes. */

/** Whether a buffer is neither shared nor resizable: functions of browsers refuse all others. */
export function isFixed(buffer: ArrayBufferLike): buffer is ArrayBuffer {
  return buffer[Symbol.toStringTag] === 'ArrayBuffer' && !(buffer as { readonly resizable?: boolean }).resizable
}

/** Name of a typed array's class, such as 'Float32Array'; undefined for all other values, also for a DataView. */
export function classNameOf(value: unknown): string | undefined {
  return ArrayBuffer.isView(value) && 'length' in value ? (value as Uint8Array)[Symbol.toStringTag] : undefined
}
