/** Opens files of the disk. */
import type { FileHandle } from 'node:fs/promises'
import { checkpointError, fileSystemError } from '../errors.js'
import type { OpenFile } from '../open-file.js'

const { open, stat } = process.getBuiltinModule('node:fs/promises')

/**
 * Opens a file.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT if there is none, or something else of this name
 */
export async function openFile(path: string): Promise<OpenFile> {
  let handle: FileHandle | undefined
  try {
    // stat first: open would wait for the other end of a FIFO.
    if (!(await stat(path)).isFile()) throw checkpointError(path, 'expected a file, got a folder or a special file')
    handle = await open(path)
    return await openHandle(path, handle)
  } catch (cause) {
    await handle?.close()
    throw fileSystemError(path, 'cannot be read', cause)
  }
}

/** A file that is open already. */
export async function openHandle(path: string, handle: FileHandle): Promise<OpenFile> {
  const { size } = await handle.stat()
  return {
    path,
    size,
    read: async (bytes, position) => {
      try {
        // The file handles of Yarn's Plug'n'Play take any array that is no Buffer for an object of options.
        const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
        return (await handle.read(buffer, 0, buffer.length, position)).bytesRead
      } catch (cause) {
        throw fileSystemError(path, 'cannot be read', cause)
      }
    },
    close: () => handle.close(),
  }
}
