/** Reads the folder of an adapter. */
import type { LilyError } from '../../base/errors.js'
import type { AdapterFiles } from '../adapter-files.js'
import { checkpointError, fileSystemError, quoteSome } from '../errors.js'
import { withFolderLock } from './folder-lock.js'
import { openFile } from './open-file.js'
import { committedPath, readJournal } from './replace-files.js'

const { readdir, stat } = process.getBuiltinModule('node:fs/promises')
const { join } = process.getBuiltinModule('node:path')

/** By the code of the file system. */
const WRONG_FOLDERS: Readonly<Record<string, string | undefined>> = {
  ENOENT: 'one that does not exist; download an adapter of a hub first, and pass its folder',
  ENOTDIR: 'one that names a file; pass the folder with the files of the adapter',
}

/**
 * Uses the files of one save of a folder: no save completes meanwhile, and a save that was interrupted is read as it will
 * be completed. Open files keep the contents of that save after another one has replaced them.
 */
export async function withFolder<T>(folder: string, use: (files: AdapterFiles) => Promise<T>): Promise<T> {
  try {
    return await withFolderLock(folder, 'shared', async () => {
      const journal = await readJournal(folder)
      const pathOf = (name: string) => committedPath(folder, journal, name)
      const has = async (name: string) => {
        const path = await pathOf(name)
        return path !== null && (await stat(path).catch(() => null)) !== null
      }
      return use({
        name: folder,
        has,
        open: async (name) => {
          if (!(await has(name))) throw await missing(folder, name)
          return openFile((await pathOf(name)) ?? join(folder, name))
        },
      })
    })
  } catch (cause) {
    const got = WRONG_FOLDERS[(cause as NodeJS.ErrnoException | null)?.code ?? '']
    if (got === undefined) throw fileSystemError(folder, 'cannot be read', cause)
    throw checkpointError(folder, `expected the path of a folder, got ${got}`, cause)
  }
}

/** The error about a file that the folder does not have. */
async function missing(folder: string, name: string): Promise<LilyError> {
  const names = await readdir(folder).catch((cause: unknown) => {
    throw fileSystemError(folder, 'cannot be listed', cause)
  })
  if (names.includes(name)) {
    return checkpointError(
      join(folder, name),
      'expected a file, got a link to one that does not exist; download the adapter again',
    )
  }
  return checkpointError(
    join(folder, name),
    `expected this file in the folder, got ${names.length === 0 ? 'none' : quoteSome(names.sort())}; ` +
      'pass the folder of an adapter that PEFT has saved as safetensors',
  )
}
