/** Memory for results, parameters and their gradients beside the addon. */
import type { Binding, Native } from './native.js'

/**
 * Smallest allocation that is left uninitialised, in bytes. `new ArrayBuffer` zeroes its memory; for a large result the
 * zeroing and the page faults that it causes cost more than the operation itself.
 */
const UNINITIALISED_BYTES = 4096

const CACHE_LINE = 64

/** An allocator of blocks that begin with a cache line; see native/napi/host_memory.cc. */
export function alignedMemory(addon: Native): NonNullable<Binding['allocateHost']> {
  return (byteLength) => {
    if (byteLength < UNINITIALISED_BYTES) return null
    const memory = Buffer.allocUnsafeSlow(byteLength + CACHE_LINE)
    const offset = addon.placeHostBlock(memory, byteLength)
    return { buffer: memory.buffer, byteOffset: memory.byteOffset + offset }
  }
}
