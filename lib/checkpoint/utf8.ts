/** Text as UTF-8. */

/** Valid bytes as text; a byte order mark is a character of it. */
export function textOf(bytes: Uint8Array): string {
  return (decoder ??= new TextDecoder('utf-8', { ignoreBOM: true })).decode(bytes)
}

// Made on first use: under Jest, jsdom has none.
let decoder: InstanceType<typeof TextDecoder> | undefined

/** The text of a large file is not held as a whole. */
const BLOCK_BYTES = 1 << 16

/** Whether bytes are UTF-8, without surrogates. */
export function isUtf8(bytes: Uint8Array): boolean {
  const strict = new TextDecoder('utf-8', { fatal: true })
  try {
    for (let start = 0; start < bytes.length; start += BLOCK_BYTES) {
      strict.decode(bytes.subarray(start, start + BLOCK_BYTES), { stream: true })
    }
    strict.decode()
    return true
  } catch {
    return false
  }
}
