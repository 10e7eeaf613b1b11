/** Renames that replace files, which Windows may refuse for a while. */
const fs = process.getBuiltinModule('node:fs/promises')
const { setTimeout: delay } = process.getBuiltinModule('node:timers/promises')

/** A load, a scanner for viruses or a backup has a file open for a shorter time, unless it is stopped. */
const MOST_SECONDS = 10

/**
 * Gives a file a name that another file may have. On Windows a file that a program has open cannot be replaced: there this
 * waits until it is closed.
 *
 * @param begin of the waiting: renames that follow each other wait for no longer than one
 */
export async function rename(from: string, to: string, begin = performance.now()): Promise<void> {
  for (let milliseconds = 1; ; milliseconds = Math.min(2 * milliseconds, 100)) {
    try {
      await fs.rename(from, to)
      return
    } catch (error) {
      const mayBeOpen = ['EACCES', 'EBUSY', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')
      if (process.platform !== 'win32' || !mayBeOpen || performance.now() - begin > MOST_SECONDS * 1000) throw error
    }
    await delay(milliseconds)
  }
}
