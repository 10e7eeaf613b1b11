/** Reads the JSON files of an adapter's folder. */
import { isUtf8 } from 'node:buffer'
import { readFile, stat } from 'node:fs/promises'
import { checkpointError, DAMAGED, fileSystemError } from './errors.js'

/** The names of all modules of a large model take less. */
const MAX_BYTES = 16 * 1024 * 1024

/**
 * Reads a text file.
 *
 * @param what name of the text in an error message
 * @throws LilyError ERR_LILY_CHECKPOINT for a file that is too large, no regular file, or not UTF-8
 */
export async function readText(path: string, what: string): Promise<string> {
  try {
    const stats = await stat(path)
    // Before it is opened: opening a pipe waits for a writer.
    if (!stats.isFile()) throw checkpointError(path, 'expected a file, got a folder or a special file')
    if (stats.size > MAX_BYTES) {
      throw checkpointError(path, `expected a file of at most ${MAX_BYTES} bytes, got ${stats.size}; ${DAMAGED}`)
    }
    const bytes = await readFile(path)
    if (isUtf8(bytes)) return bytes.toString('utf8')
    throw checkpointError(path, `expected ${what} to be UTF-8, got other bytes; ${DAMAGED}`)
  } catch (cause) {
    throw fileSystemError(path, 'cannot be read', cause)
  }
}
