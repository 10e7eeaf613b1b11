/** Atomic replacement of files. */
import { randomBytes } from 'node:crypto'
import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fileSystemError } from './errors.js'

/** A file to write. */
export interface FileContent {
  /** Name of the file in the folder. */
  readonly name: string
  readonly write: (handle: FileHandle) => Promise<void>
}

/**
 * Writes files of a folder, which is created if necessary. All files are written under temporary names and flushed to
 * disk, and then renamed. So each file has its old or its new contents after a crash at any time, and an error before
 * the first rename leaves all old files. A crash may leave temporary files, which end in `.tmp`.
 *
 * @param files the files, in the order in which they are renamed
 * @param obsolete names of files to remove afterwards, if they exist
 * @throws LilyError ERR_LILY_CHECKPOINT if a file operation fails
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

/** Flushes the folder to disk: otherwise a crash of the machine may undo the renames. */
async function synchronizeFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return // Windows cannot open folders for fsync
  const handle = await open(folder)
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
