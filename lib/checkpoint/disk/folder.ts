/** Reads the folder of an adapter. */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { AdapterFiles } from '../adapter-files.js'
import { fileSystemError } from '../errors.js'
import { withFolderLock } from './folder-lock.js'
import { openFile } from './open-file.js'
import { committedPath, readJournal } from './replace-files.js'

/**
 * Uses the files of one save of a folder: no save completes meanwhile, and a save that was interrupted is read as it will
 * be completed. Files that are open stay those of that save after another one has replaced them.
 */
export async function withFolder<T>(folder: string, use: (files: AdapterFiles) => Promise<T>): Promise<T> {
  try {
    return await withFolderLock(folder, 'shared', async () => {
      const journal = await readJournal(folder)
      const pathOf = (name: string) => committedPath(folder, journal, name)
      return use({
        name: folder,
        has: async (name) => {
          const path = await pathOf(name)
          return path !== null && (await stat(path).catch(() => null)) !== null
        },
        open: async (name) => openFile((await pathOf(name)) ?? join(folder, name)),
      })
    })
  } catch (cause) {
    throw fileSystemError(folder, 'cannot be read', cause)
  }
}
