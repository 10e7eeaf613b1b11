/** Files that are replaced as a whole or not at all. */
import { randomBytes } from 'node:crypto'
import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fileSystemError } from './errors.js'

export interface FileContent {
  /** Of the file, in the folder. */
  readonly name: string
  readonly write: (handle: FileHandle) => Promise<void>
}

/**
 * Writes files of a folder, which is made where it is not there. All are written and on disk before the first takes its
 * name, so a crash at any time leaves each file as it was or as it shall be, and a failure leaves all as they were. A
 * crash may leave files that end in `.tmp`.
 *
 * @param files in the order in which they take their names
 * @param obsolete names of files that are removed then, where they are there
 * @throws LilyError ERR_LILY_CHECKPOINT where the file system refuses
 */
export async function replaceFiles(
  folder: string,
  files: readonly FileContent[],
  obsolete: readonly string[] = [],
): Promise<void> {
  const written: { path: string; temporary: string }[] = []
  let path = folder
  try {
    await mkdir(folder, { recursive: true })
    for (const { name, write } of files) {
      path = join(folder, name)
      const temporary = join(folder, `.${name}.${randomBytes(6).toString('hex')}.tmp`)
      written.push({ path, temporary })
      await writeNew(temporary, write)
    }
    while (written.length > 0) {
      path = written[0].path
      await rename(written[0].temporary, path)
      written.shift()
    }
    for (const name of obsolete) {
      path = join(folder, name)
      await rm(path, { force: true })
    }
    path = folder
    await synchronizeFolder(folder)
  } catch (cause) {
    await Promise.all(written.map(({ temporary }) => rm(temporary, { force: true })))
    throw fileSystemError(path, 'cannot be written', cause)
  }
}

async function writeNew(path: string, write: FileContent['write']): Promise<void> {
  const handle = await open(path, 'wx')
  try {
    await write(handle)
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Without it a crash of the machine may undo the renaming. */
async function synchronizeFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return // no such thing there
  const handle = await open(folder)
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
