/** Locks of folders, by which saves and loads of several processes, Workers and calls exclude each other. */
import { constants, type FileHandle, open } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { native } from '../../binding/native.js'
import { checkpointError } from '../errors.js'

/** A lock is held for as long as files are renamed or opened: milliseconds, unless its holder has been stopped. */
const MOST_SECONDS = 60

/**
 * Runs `work` while this call holds the folder's lock. A shared lock excludes exclusive ones only. The operating system
 * releases the lock of a process that ends, however it ends. A file system without locks, and a folder that this process
 * may not list, are used without one.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT if another process keeps the lock for a minute
 */
export async function withFolderLock<T>(
  folder: string,
  kind: 'shared' | 'exclusive',
  work: () => Promise<T>,
): Promise<T> {
  const handle = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY).catch((error: unknown) => {
    if (['EACCES', 'EPERM', 'EISDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return null
    throw error
  })
  try {
    if (handle !== null) await lock(folder, handle, kind)
    return await work()
  } finally {
    await handle?.close()
  }
}

async function lock(folder: string, handle: FileHandle, kind: 'shared' | 'exclusive'): Promise<void> {
  const begin = performance.now()
  for (let milliseconds = 1; native.fileLock(handle.fd, kind === 'exclusive') === false;) {
    if (performance.now() - begin > MOST_SECONDS * 1000) {
      throw checkpointError(
        folder,
        `another process has kept it locked for ${MOST_SECONDS} s, as a save does for milliseconds; end that process`,
      )
    }
    await delay(milliseconds)
    milliseconds = Math.min(2 * milliseconds, 20)
  }
}
