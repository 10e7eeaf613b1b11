/** The builds import a shared memory. A page that is not cross-origin isolated cannot share one. */

const HEADER_BYTES = 8
const IMPORT_SECTION = 2
const MEMORY = 2
/** Limits of a memory with a maximum, and of one that is shared besides. */
const LIMITED = 1
const LIMITED_AND_SHARED = 3

/**
 * A copy of the code whose memory is not shared. All of its instructions remain valid and work alike, except that
 * waiting traps: only threads wait.
 *
 * @param code a module whose only import of kind memory is shared; its other imports are functions
 * @throws Error for other code
 */
export function unshareMemory(code: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const copy = code.slice()
  let at = HEADER_BYTES
  const byte = () => copy[at++] ?? 0
  const number = () => {
    let value = 0
    for (let shift = 0; ; shift += 7) {
      const next = byte()
      value += (next & 0x7f) * 2 ** shift
      if (next < 0x80) return value
    }
  }
  const skipName = () => {
    const length = number()
    at += length
  }
  while (at < copy.length) {
    const section = byte()
    const end = number() + at
    if (section !== IMPORT_SECTION) {
      at = end
      continue
    }
    for (let left = number(); left > 0; left--) {
      skipName()
      skipName()
      if (byte() !== MEMORY) {
        number() // the type of a function
        continue
      }
      if (copy[at] !== LIMITED_AND_SHARED) break
      copy[at] = LIMITED
      return copy
    }
    break
  }
  throw new Error('the module imports no shared memory')
}
