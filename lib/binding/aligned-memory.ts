/** Memory of the addon for results, parameters and their gradients. */
import type { Binding, Native } from './native.js'

/**
 * Smallest allocation that is left uninitialised, in bytes. `new ArrayBuffer` zeroes its memory; for a large result the
 * zeroing and the page faults that it causes cost more than the operation itself.
 */
const UNINITIALISED_BYTES = 4096

const CACHE_LINE = 64

/**
 * An allocator of memory that begins with a cache line. A typed array of that size begins 16 bytes after one, so that
 * every access of a vector of 64 bytes would touch two lines.
 */
export function alignedMemory(addon: Native): NonNullable<Binding['allocateHost']> {
  return (byteLength) => {
    if (byteLength < UNINITIALISED_BYTES) return null
    const bytes = Buffer.allocUnsafeSlow(byteLength + CACHE_LINE)
    const before = CACHE_LINE - (addon.hostAddress(bytes) % CACHE_LINE)
    // Of what the memory was before, only the part is left that the caller overwrites.
    bytes.fill(0, 0, before).fill(0, before + byteLength)
    return { buffer: bytes.buffer, byteOffset: bytes.byteOffset + before }
  }
}
