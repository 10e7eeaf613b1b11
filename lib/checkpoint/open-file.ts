/** Files that are read at any position, wherever they are: on a disk, or in the memory of a program. */
import { checkpointError } from './errors.js'

export interface OpenFile {
  /** Its path, or its name; in messages. */
  readonly path: string
  /** In bytes. */
  readonly size: number
  /** Reads into `bytes` from `position` on. Returns the number of bytes, which may be fewer than requested, 0 at the end. */
  readonly read: (bytes: Uint8Array, position: number) => Promise<number>
  readonly close: () => Promise<void>
}

export interface FileContent {
  readonly name: string
  /** The bytes, in blocks. A block is used before the next one is requested. */
  readonly blocks: () => AsyncIterable<Uint8Array> | Iterable<Uint8Array>
  /** Checks what has been written. */
  readonly check?: ((written: OpenFile) => Promise<void>) | undefined
}

/** Size of the largest single read or write, in bytes. */
export const BLOCK_BYTES = 1 << 24

/** Fills `bytes` from `position` on. */
export async function fill(file: OpenFile, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const count = await file.read(bytes.subarray(done, done + BLOCK_BYTES), position + done)
    if (count === 0) {
      throw checkpointError(
        file.path,
        `ended at byte ${position + done} while it was read; finish writing it before reading it`,
      )
    }
    done += count
  }
}
