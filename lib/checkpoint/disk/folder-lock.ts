/** Locks of folders, by which saves and loads of several processes, Workers and calls exclude each other. */
import type { FileHandle } from 'node:fs/promises'
import { native } from '../../binding/native.js'
import { checkpointError } from '../errors.js'
import { absolute } from './paths.js'

const { constants, open, stat } = process.getBuiltinModule('node:fs/promises')
const { tmpdir } = process.getBuiltinModule('node:os')
const { join } = process.getBuiltinModule('node:path')
const { setTimeout: delay } = process.getBuiltinModule('node:timers/promises')

/** A lock is held for as long as files are renamed or opened: milliseconds, unless its holder has been stopped. */
const MOST_SECONDS = 60

/**
 * Runs `work` while this call holds the folder's lock. A shared lock excludes exclusive ones only. The operating system
 * releases the lock of a process that ends, however it ends. In a file system without locks, and in a folder that this
 * process may not list, the calls of this thread exclude each other, and no other ones. On Windows processes exclude each
 * other if they have the same temporary folder, in which they may create files.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT if another process keeps the lock for a minute
 */
export async function withFolderLock<T>(
  folder: string,
  kind: 'shared' | 'exclusive',
  work: () => Promise<T>,
): Promise<T> {
  const handle = await openToLock(folder).catch((error: unknown) => {
    if (['EACCES', 'EPERM', 'EISDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return null
    throw error
  })
  try {
    const hasLock = handle !== null && (await lock(folder, handle, kind))
    return await (hasLock ? work() : inTurn(absolute(folder), work))
  } finally {
    await handle?.close()
  }
}

/**
 * Windows has no locks of folders: there an empty file in the temporary folder stands for the folder. It stays, as another
 * process may be about to lock it. null if it cannot be opened.
 */
async function openToLock(folder: string): Promise<FileHandle | null> {
  if (process.platform !== 'win32') return open(folder, constants.O_RDONLY | constants.O_DIRECTORY)
  const stats = await stat(folder, { bigint: true })
  if (!stats.isDirectory()) {
    throw Object.assign(new Error(`ENOTDIR: not a directory, open '${folder}'`), { code: 'ENOTDIR' })
  }
  const { dev, ino } = stats
  return open(join(tmpdir(), `lily-kernels-${dev}-${ino}.lock`), 'a+').catch(() => null)
}

/** The last call of each key. */
const turns = new Map<string, Promise<unknown>>()

/** Runs `work` after the earlier calls with this key. Locks that are shared elsewhere are exclusive here: they are short. */
export async function inTurn<T>(key: string, work: () => Promise<T>): Promise<T> {
  const earlier = turns.get(key) ?? Promise.resolve()
  const turn = earlier.catch(() => undefined).then(work)
  turns.set(key, turn)
  try {
    return await turn
  } finally {
    if (turns.get(key) === turn) turns.delete(key)
  }
}

/** Returns false where there are no locks. */
async function lock(folder: string, handle: FileHandle, kind: 'shared' | 'exclusive'): Promise<boolean> {
  const begin = performance.now()
  const tryLock = () => native.fileLock(handle.fd, kind === 'exclusive')
  let isLocked = tryLock()
  for (let milliseconds = 1; isLocked === false; isLocked = tryLock()) {
    if (performance.now() - begin > MOST_SECONDS * 1000) {
      throw checkpointError(
        folder,
        `another process has kept it locked for ${MOST_SECONDS} s, as a save does for milliseconds; end that process`,
      )
    }
    await delay(milliseconds)
    milliseconds = Math.min(2 * milliseconds, 20)
  }
  return isLocked !== null
}
