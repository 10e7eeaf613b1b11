/** Reads the JSON files of an adapter. */
import { checkpointError, DAMAGED } from './errors.js'
import { decodeUtf8 } from './json.js'
import { fill, type OpenFile } from './open-file.js'

/** The names of all modules of a large model take less. */
export const MAX_BYTES = 16 * 1024 * 1024

/**
 * Reads a text file and closes it.
 *
 * @param what name of the text in an error message
 * @throws LilyError ERR_LILY_CHECKPOINT for a file that is too large, or not UTF-8
 */
export async function readText(file: OpenFile, what: string): Promise<string> {
  const { path, size } = file
  try {
    if (size > MAX_BYTES) {
      throw checkpointError(path, `expected a file of at most ${MAX_BYTES} bytes, got ${size}; ${DAMAGED}`)
    }
    const bytes = new Uint8Array(size)
    await fill(file, bytes, 0)
    return decodeUtf8(path, what, bytes)
  } finally {
    await file.close()
  }
}
