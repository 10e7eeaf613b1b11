/**
 * Several files of a folder replaced as one: after a crash, a failure, or saves by several processes at once, a reader
 * sees all files of one save.
 *
 * A save writes temporary files beside the old ones and flushes them. If there is more than one, it then writes a
 * journal that lists the renames. From then on the save is valid: the next save completes the renames of a journal that it
 * finds, and a load reads through it. Renames happen under an exclusive lock of the folder.
 */
import { randomBytes } from 'node:crypto'
import { copyFile, type FileHandle, link, lstat, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { native } from '../binding/native.js'
import { checkpointError, fileSystemError } from './errors.js'
import { withFolderLock } from './folder-lock.js'
import { isObject } from './json.js'

export interface FileContent {
  /** Name of the file in the folder. */
  readonly name: string
  /** Writes the content, which may be read back through the handle. */
  readonly write: (handle: FileHandle) => Promise<void>
}

/** The renames of a save, in order, and the files that it removes after them. */
export interface Journal {
  readonly renames: readonly { readonly from: string; readonly to: string }[]
  readonly removals: readonly string[]
}

const JOURNAL_FILE = '.lily-save.json'

/** A file that a save writes, locked until the save ends: nobody else removes it as stale. */
interface Temporary {
  readonly name: string
  readonly temporary: string
  readonly handle: FileHandle
}

const temporaryName = (name: string): string => `.${name}.${randomBytes(6).toString('hex')}.tmp`
const TEMPORARY = /^\.(.+)\.[0-9a-f]{12}\.tmp$/

/** The last save of each folder in this process: saves of one folder run one after the other, in the order of the calls. */
const saves = new Map<string, Promise<void>>()

/**
 * Writes files of a folder, which is created if it does not exist. Either all files have their new content afterwards,
 * or all have their old one. Replaced files keep their permissions. Temporary files of saves that were interrupted are
 * removed.
 *
 * @param obsolete names of files that are removed with it, if they exist
 * @throws LilyError ERR_LILY_CHECKPOINT if the file system refuses; the old files are unchanged then
 */
export async function replaceFiles(
  folder: string,
  files: readonly FileContent[],
  obsolete: readonly string[] = [],
): Promise<void> {
  // Before the first await: the order of the saves is that of the calls.
  const path = resolve(folder)
  const earlier = saves.get(path) ?? Promise.resolve()
  const save = earlier.catch(() => undefined).then(() => replaceNow(folder, files, obsolete))
  saves.set(path, save)
  try {
    await save
  } finally {
    if (saves.get(path) === save) saves.delete(path)
  }
}

async function replaceNow(folder: string, files: readonly FileContent[], obsolete: readonly string[]): Promise<void> {
  const temporaries: Temporary[] = []
  let path = folder
  try {
    await mkdir(folder, { recursive: true })
    for (const { name } of files) await checkReplaceable(join(folder, name))
    // Under a shared lock no save looks for stale files, between the creation of these and their locking.
    await withFolderLock(folder, 'shared', async () => {
      for (const { name } of files) temporaries.push(await createTemporary(folder, name))
    })
    for (const [i, { write }] of files.entries()) {
      const { name, handle } = temporaries[i]
      path = join(folder, name)
      await write(handle)
      await keepPermissions(path, handle)
      await handle.sync()
    }
    path = folder
    await withFolderLock(folder, 'exclusive', async () => {
      await completeSave(folder)
      await removeStale(folder)
      await commit(folder, temporaries, obsolete)
    })
  } catch (cause) {
    await Promise.all(temporaries.map(({ temporary }) => rm(join(folder, temporary), { force: true })))
    throw fileSystemError(path, 'cannot be written', cause)
  } finally {
    await Promise.all(temporaries.map(({ handle }) => handle.close()))
  }
}

/** A rename cannot replace a folder, and must not replace a device or a socket. */
async function checkReplaceable(path: string): Promise<void> {
  const stats = await lstat(path).catch(ignoreMissing)
  if (stats === null || stats.isFile() || stats.isSymbolicLink()) return
  throw checkpointError(path, `expected a file or nothing, got ${stats.isDirectory() ? 'a folder' : 'something else'}`)
}

async function createTemporary(folder: string, name: string): Promise<Temporary> {
  const temporary = temporaryName(name)
  const handle = await open(join(folder, temporary), 'wx+')
  native.fileLock(handle.fd, true)
  return { name, temporary, handle }
}

/** As far as this process may: only root gives files away. */
async function keepPermissions(path: string, handle: FileHandle): Promise<void> {
  const old = await lstat(path).catch(ignoreMissing)
  if (old?.isFile() !== true) return
  await handle.chown(old.uid, old.gid).catch(() => undefined)
  await handle.chmod(old.mode & 0o7777)
}

/** Gives all files their names, or none. */
async function commit(folder: string, temporaries: readonly Temporary[], obsolete: readonly string[]): Promise<void> {
  const renames = temporaries.map(({ name, temporary }) => ({ from: temporary, to: name }))
  if (renames.length + obsolete.length === 1) {
    await rename(join(folder, renames[0].from), join(folder, renames[0].to))
    await synchronizeFolder(folder)
    return
  }
  const backups = new Map<string, string>()
  try {
    for (const { to } of renames) await backUp(folder, to, backups)
    const journal = { renames, removals: obsolete }
    await writeJournal(folder, journal)
    try {
      for (const { from, to } of renames) await rename(join(folder, from), join(folder, to))
      await finish(folder, journal)
    } catch (cause) {
      await undo(folder, renames, backups)
      throw cause
    }
  } finally {
    await Promise.all([...backups.values()].map((backup) => rm(join(folder, backup), { force: true })))
  }
}

/** A second name for the old file; a copy on file systems that have one name per file. */
async function backUp(folder: string, name: string, backups: Map<string, string>): Promise<void> {
  const path = join(folder, name)
  if ((await lstat(path).catch(ignoreMissing)) === null) return
  const backup = temporaryName(name)
  backups.set(name, backup)
  await link(path, join(folder, backup)).catch(() => copyFile(path, join(folder, backup)))
}

/** The same steps with the old files: if this process ends meanwhile, the next one completes them. */
async function undo(folder: string, renames: Journal['renames'], backups: ReadonlyMap<string, string>): Promise<void> {
  await writeJournal(folder, {
    renames: renames.flatMap(({ to }) => {
      const backup = backups.get(to)
      return backup === undefined ? [] : [{ from: backup, to }]
    }),
    removals: renames.map(({ to }) => to).filter((name) => !backups.has(name)),
  })
  await completeSave(folder)
}

async function writeJournal(folder: string, journal: Journal): Promise<void> {
  const temporary = join(folder, temporaryName('journal'))
  const handle = await open(temporary, 'wx')
  try {
    await handle.writeFile(JSON.stringify(journal))
    await handle.sync()
  } finally {
    await handle.close()
  }
  await rename(temporary, join(folder, JOURNAL_FILE))
  await synchronizeFolder(folder)
}

/** Completes the save that a journal describes, if there is one. Steps that were made before are skipped. */
async function completeSave(folder: string): Promise<void> {
  const journal = await readJournal(folder)
  if (journal === null) return
  for (const { from, to } of journal.renames) await rename(join(folder, from), join(folder, to)).catch(ignoreMissing)
  await finish(folder, journal)
}

/** What comes after the renames. The renames are on the disk before the journal is removed. */
async function finish(folder: string, { removals }: Journal): Promise<void> {
  for (const name of removals) await rm(join(folder, name), { force: true })
  await synchronizeFolder(folder)
  await rm(join(folder, JOURNAL_FILE), { force: true })
  await synchronizeFolder(folder)
}

/** The journal of a save that has not been completed; null if there is none. Held under a lock of the folder. */
export async function readJournal(folder: string): Promise<Journal | null> {
  const path = join(folder, JOURNAL_FILE)
  const text = await readFile(path, 'utf8').catch(ignoreMissing)
  if (text === null) return null
  const journal = parseJournal(text)
  if (journal !== null) return journal
  throw checkpointError(path, 'expected the journal of an interrupted save, got something else; remove the file')
}

/** Only names of files of this folder, so that a folder of unknown origin cannot name others. */
function parseJournal(text: string): Journal | null {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return null
  }
  if (!isObject(value)) return null
  const { renames, removals } = value
  if (!Array.isArray(renames) || !Array.isArray(removals)) return null
  const areRenames = renames.every(
    (step: unknown) =>
      isObject(step) && isName(step.to) && isName(step.from) && TEMPORARY.exec(step.from)?.[1] === step.to,
  )
  return areRenames && removals.every(isName) ? { renames: renames as Journal['renames'], removals } : null
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && value !== '..' && value !== '.' && !/[/\\\0]/.test(value)
}

/**
 * The path of a file of the folder as the journal's save leaves it; null if that save removes it. The caller holds a lock
 * of the folder.
 */
export async function committedPath(folder: string, journal: Journal | null, name: string): Promise<string | null> {
  const path = join(folder, name)
  if (journal?.removals.includes(name) === true) return null
  const step = journal?.renames.find(({ to }) => to === name)
  if (step === undefined) return path
  const temporary = join(folder, step.from)
  return (await lstat(temporary).catch(ignoreMissing)) === null ? path : temporary
}

/** Removes temporary files that no running save holds. On a file system without locks nothing says which those are. */
async function removeStale(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!TEMPORARY.test(name)) continue
    const path = join(folder, name)
    const handle = await open(path).catch(() => null)
    if (handle === null) continue
    try {
      if (native.fileLock(handle.fd, true) === true) await rm(path, { force: true })
    } finally {
      await handle.close()
    }
  }
}

/** Without it a crash of the machine may undo renames. */
async function synchronizeFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return // has no such call
  const handle = await open(folder)
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

function ignoreMissing(error: unknown): null {
  if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
  throw error
}
