/**
 * Several files of a folder replaced as one: after a crash, a failure, or saves by several processes at once, a reader
 * sees all files of one save.
 *
 * A save writes temporary files beside the old ones and flushes them. If there is more than one, it then writes a
 * journal that lists the renames. From then on the save is valid: the next save completes the renames of a journal that it
 * finds, and a load reads through it. Renames happen under an exclusive lock of the folder.
 */
import type { Stats } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { native } from '../../binding/native.js'
import { checkpointError, fileSystemError } from '../errors.js'
import { isObject } from '../json.js'
import { BLOCK_BYTES, type FileContent } from '../open-file.js'
import { inTurn, withFolderLock } from './folder-lock.js'
import { openHandle } from './open-file.js'
import { absolute, endsLikeFolder } from './paths.js'
import { rename } from './rename.js'

const { randomBytes } = process.getBuiltinModule('node:crypto')
const { fsync } = process.getBuiltinModule('node:fs')
const { chmod, copyFile, link, lstat, mkdir, open, readdir, readFile, rm, stat } =
  process.getBuiltinModule('node:fs/promises')
const { basename, dirname, join } = process.getBuiltinModule('node:path')
const { promisify } = process.getBuiltinModule('node:util')

/** A file that a save replaces by another one of the folder, or removes. */
interface Step {
  readonly to: string
  /** null: `to` is removed. */
  readonly from: string | null
  /** Tells the file `to` from others that take its name later: inode, size and time; null if there was none. */
  readonly old: string | null
}

/** The steps of a save, in order. */
export type Journal = readonly Step[]

const JOURNAL_FILE = '.lily-save.json'

/** A file that a save writes, locked until the save ends, so that no other save removes it as stale. */
interface Temporary {
  readonly name: string
  readonly temporary: string
  readonly handle: FileHandle
}

const temporaryName = (name: string): string => `.${name}.lily-${randomBytes(6).toString('hex')}.tmp`
const TEMPORARY = /^\.(.+)\.lily-[0-9a-f]{12}\.tmp$/

/** A file takes 150 to 200 bytes in a journal, and a merged model may have hundreds of files. */
const MAX_JOURNAL_BYTES = 1 << 20

/**
 * Writes files of a folder, which is created if it does not exist. Either all files have their new content afterwards,
 * or all have their old one. Replaced files keep their permissions. Temporary files of saves that were interrupted are
 * removed.
 *
 * @param obsolete names of files that are removed with it, if they exist
 * @param check runs before the first rename, while no other save of the folder renames files
 * @throws LilyError ERR_LILY_CHECKPOINT if the file system refuses; the old files are unchanged then
 */
export async function replaceFiles(
  folder: string,
  files: readonly FileContent[],
  obsolete: readonly string[] = [],
  check: () => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  // Before the first await, so that saves run in the order of the calls.
  const path = absolute(folder)
  await inTurn(`saves of ${path}`, () => replaceNow(path, files, obsolete, check))
}

/** Replaces one file, as {@link replaceFiles} does. */
export async function replaceFile(path: string, content: Omit<FileContent, 'name'>): Promise<void> {
  // `dirname` and `basename` take 'folder/' for the file 'folder'.
  if (endsLikeFolder(path)) {
    throw checkpointError(path, 'expected the path of a file, got one that ends like the path of a folder; add a name')
  }
  await replaceFiles(dirname(path), [{ ...content, name: basename(path) }])
}

async function replaceNow(
  folder: string,
  files: readonly FileContent[],
  obsolete: readonly string[],
  check: () => Promise<void>,
): Promise<void> {
  const temporaries: Temporary[] = []
  let path = folder
  try {
    await makeFolder(folder)
    for (const name of [...files.map((file) => file.name), ...obsolete]) {
      path = join(folder, name)
      await checkReplaceable(path)
    }
    path = folder
    // Under this lock no other save looks for stale files, between the creation of these and their locking. What earlier
    // saves have left goes first: on a full disk there may be room for these files only then.
    await withFolderLock(folder, 'exclusive', async () => {
      await completeSave(folder)
      await removeStale(folder)
      for (const { name } of files) {
        path = join(folder, name)
        const temporary = temporaryName(name)
        const handle = await open(join(folder, temporary), 'wx+')
        temporaries.push({ name, temporary, handle })
        native.fileLock(handle.fd, true)
      }
    })
    for (const [i, { name, blocks, check: checkFile }] of files.entries()) {
      const { handle } = temporaries[i]
      path = join(folder, name)
      await keepPermissions(path, folder, temporaries[i])
      for await (const block of blocks()) await writeAll(handle, block)
      await checkFile?.(await openHandle(path, handle))
      await flush(handle)
    }
    path = folder
    await withFolderLock(folder, 'exclusive', async () => {
      await completeSave(folder)
      await check()
      await commit(folder, temporaries, obsolete)
    })
  } catch (cause) {
    await removeAll(
      folder,
      temporaries.map(({ temporary }) => temporary),
    )
    throw fileSystemError(path, 'cannot be written', cause)
  } finally {
    await closeAll(temporaries)
  }
}

async function closeAll(temporaries: readonly Temporary[]): Promise<void> {
  await Promise.allSettled(temporaries.map(({ handle }) => handle.close()))
}

/**
 * Makes a folder and those above it. The option `recursive` of Node's mkdir is not used: where a file system refuses a
 * folder with ENOENT although the folder above it exists, as /proc does, that call does not come to an end.
 */
async function makeFolder(folder: string, isParentMade = false): Promise<void> {
  try {
    await mkdir(folder)
  } catch (error) {
    const found = await stat(folder).catch(() => null)
    if (found?.isDirectory() === true) return
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' && !isParentMade && dirname(folder) !== folder) {
      await makeFolder(dirname(folder))
      await makeFolder(folder, true)
      return
    }
    if (code !== 'EEXIST') throw error
    throw checkpointError(
      folder,
      found === null
        ? 'expected a folder or nothing, got a link to one that does not exist; create that folder, or remove the link'
        : 'expected a folder or nothing, got a file; pass the path of a folder',
      error,
    )
  }
}

/**
 * Removes files of an own save, but not those that a journal names, and none if it cannot be read. A file that cannot be
 * removed does not change the result of a save: the next one tries again.
 */
async function removeAll(folder: string, names: readonly string[]): Promise<void> {
  const steps = await readJournal(folder).catch(() => names.map((from) => ({ from })))
  const others = names.filter((name) => steps?.some(({ from }) => from === name) !== true)
  await Promise.allSettled(others.map((name) => rm(join(folder, name), { force: true })))
}

/** null if there is no such file. */
async function statsOf(path: string): Promise<Stats | null> {
  return lstat(path).catch(ignoreMissing)
}

/** A rename cannot replace a folder or, on Windows, a file that is read-only, and must not replace a device or a socket. */
async function checkReplaceable(path: string): Promise<void> {
  const stats = await statsOf(path)
  if (process.platform === 'win32' && stats?.isFile() === true && (stats.mode & 0o200) === 0) {
    throw checkpointError(path, 'expected a file that can be replaced, got one that is read-only; clear that attribute')
  }
  if (stats === null || stats.isFile() || stats.isSymbolicLink()) return
  throw checkpointError(path, `expected a file or nothing, got ${stats.isDirectory() ? 'a folder' : 'something else'}`)
}

/** Writes all bytes. A single write may write fewer bytes than requested. */
async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength;) {
    const { bytesWritten } = await handle.write(bytes, done, Math.min(bytes.byteLength - done, BLOCK_BYTES))
    done += bytesWritten
  }
}

const synchronize = promisify(fsync)

/** Flushes a file or a folder to the disk. The file handles of Yarn's Plug'n'Play have no `sync`. */
async function flush(handle: FileHandle): Promise<void> {
  await synchronize(handle.fd).catch(ifForbidden(() => handle.sync()))
}

/** As far as this process may: only root gives files away. */
async function keepPermissions(path: string, folder: string, { temporary, handle }: Temporary): Promise<void> {
  const old = await statsOf(path)
  if (old?.isFile() !== true) return
  const mode = old.mode & 0o7777
  await handle.chown(old.uid, old.gid).catch(() => undefined)
  await handle.chmod(mode).catch(ifForbidden(() => chmod(join(folder, temporary), mode)))
}

/** Another way to do what Node's permission model forbids: it refuses functions of open files that it has others for. */
function ifForbidden(otherWay: () => Promise<void>): (error: unknown) => Promise<void> {
  return (error) => {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_ACCESS_DENIED') throw error
    return otherWay()
  }
}

/** Gives all files their names, or none. */
async function commit(folder: string, temporaries: readonly Temporary[], obsolete: readonly string[]): Promise<void> {
  if (temporaries.length + obsolete.length === 1) {
    await rename(join(folder, temporaries[0].temporary), join(folder, temporaries[0].name))
    await synchronizeFolder(folder)
    return
  }
  const backups: Omit<Step, 'old'>[] = []
  try {
    const steps = await describeSteps(folder, [
      ...temporaries.map(({ name, temporary }) => ({ to: name, from: temporary })),
      ...obsolete.map((to) => ({ to, from: null })),
    ])
    for (const { to, old } of steps) {
      const from = old === null ? null : temporaryName(to)
      backups.push({ to, from })
      if (from === null) continue
      const [path, backup] = [join(folder, to), join(folder, from)]
      // A second name for the old file; a copy on file systems that have one name per file.
      await link(path, backup).catch(() => copyFile(path, backup))
    }
    await publishJournal(folder, steps).catch(async (cause: unknown) => {
      // Nothing has been renamed yet. The journal is there if it could be written, but not flushed.
      await rm(join(folder, JOURNAL_FILE), { force: true })
      throw cause
    })
    try {
      await makeSteps(folder, steps, (error) => {
        throw error
      })
    } catch (cause) {
      // Windows replaces no file that is open.
      await closeAll(temporaries)
      // If it fails, loads read through its journal, and the next save completes it.
      await undo(folder, steps, backups).catch(() => undefined)
      throw cause
    }
  } finally {
    await removeAll(
      folder,
      backups.flatMap(({ from }) => from ?? []),
    )
  }
}

/** Takes steps back, by steps as well: if this process ends meanwhile, the next save completes them. */
async function undo(folder: string, steps: Journal, backups: readonly Omit<Step, 'old'>[]): Promise<void> {
  const undoing = await describeSteps(folder, backups)
  // Not for files that are still the old ones: one may be open elsewhere, which is why its step was refused.
  const made = undoing.filter(({ old }, i) => old !== steps[i].old)
  await publishJournal(folder, made)
  await completeSave(folder)
}

async function describeSteps(folder: string, steps: readonly Omit<Step, 'old'>[]): Promise<Step[]> {
  return Promise.all(steps.map(async (step) => ({ ...step, old: await identityOf(join(folder, step.to)) })))
}

async function identityOf(path: string): Promise<Step['old']> {
  const stats = await statsOf(path)
  return stats === null ? null : `${stats.ino} ${stats.size} ${stats.mtimeMs}`
}

/** Writes a journal under a name that no reader looks for, as a full disk has no room for it, and then renames it. */
async function publishJournal(folder: string, journal: Journal): Promise<void> {
  const temporary = temporaryName('journal')
  const handle = await open(join(folder, temporary), 'wx')
  try {
    await handle.writeFile(JSON.stringify(journal))
    await flush(handle)
  } catch (error) {
    await removeAll(folder, [temporary])
    throw error
  } finally {
    await handle.close()
  }
  // From here on the journal counts.
  await rename(join(folder, temporary), join(folder, JOURNAL_FILE))
  await synchronizeFolder(folder)
}

/** Completes the save that a journal describes, if there is one. Steps that were made before are skipped. */
async function completeSave(folder: string): Promise<void> {
  const journal = await readJournal(folder)
  if (journal === null) return
  await checkOwner(join(folder, JOURNAL_FILE))
  await makeSteps(folder, journal, ignoreMissing)
}

/** Makes the steps of the journal, which is removed once they are on the disk. */
async function makeSteps(folder: string, journal: Journal, ifMissing: (error: unknown) => null): Promise<void> {
  const begin = performance.now()
  for (const { to, from } of journal) {
    if (from === null) await rm(join(folder, to), { force: true })
    else await rename(join(folder, from), join(folder, to), begin).catch(ifMissing)
  }
  await synchronizeFolder(folder)
  await rm(join(folder, JOURNAL_FILE), { force: true })
  await synchronizeFolder(folder)
}

/** In a folder that several users write, the journal of one must not make another remove files. */
async function checkOwner(path: string): Promise<void> {
  const user = process.getuid?.()
  const { uid } = await lstat(path)
  if (user === undefined || uid === user || uid === 0) return
  throw checkpointError(
    path,
    'belongs to the interrupted save of another user; let that user save again, or save into another folder',
  )
}

/**
 * The journal of a save that has not been completed; null if there is none. The caller holds a lock of the folder.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT also if another program has replaced a file after the save was interrupted
 */
export async function readJournal(folder: string): Promise<Journal | null> {
  const path = join(folder, JOURNAL_FILE)
  const stats = await statsOf(path)
  if (stats === null) return null
  const journal = stats.isFile() && stats.size <= MAX_JOURNAL_BYTES ? parseJournal(await readFile(path, 'utf8')) : null
  if (journal === null) {
    throw checkpointError(
      path,
      'expected the journal of an interrupted save, got something else, such as the journal of another version; save again ' +
        'with that version, or into another folder: without this file, the others may be of different saves',
    )
  }
  await checkUnchanged(folder, journal)
  return journal
}

/** The steps that are left must find the files that the interrupted save has found. */
async function checkUnchanged(folder: string, journal: Journal): Promise<void> {
  for (const { to, from, old } of journal) {
    if (from !== null && (await statsOf(join(folder, from))) === null) continue
    const found = await identityOf(join(folder, to))
    if (found === old || (from === null && found === null)) continue
    throw checkpointError(
      join(folder, JOURNAL_FILE),
      `is of an interrupted save, and another program has since changed ${to}; remove this file to keep that change, ` +
        `or ${to} to complete the save`,
    )
  }
}

/** Only names of files of this folder, so that a folder of unknown origin cannot name others. */
function parseJournal(text: string): Journal | null {
  try {
    const value = JSON.parse(text) as unknown
    return Array.isArray(value) && value.every(isStep) ? value : null
  } catch {
    return null
  }
}

function isStep(value: unknown): value is Step {
  if (!isObject(value)) return false
  const { to, from, old } = value
  const isName = typeof to === 'string' && to !== '..' && to !== '.' && !/[/\\\0]/.test(to)
  const isOwn = from === null || (typeof from === 'string' && TEMPORARY.exec(from)?.[1] === to)
  return isName && isOwn && (old === null || typeof old === 'string')
}

/**
 * The path of a file of the folder as the journal's save leaves it; null if that save removes it. The caller holds a lock
 * of the folder.
 */
export async function committedPath(folder: string, journal: Journal | null, name: string): Promise<string | null> {
  const path = join(folder, name)
  const step = journal?.find(({ to }) => to === name)
  if (step === undefined) return path
  if (step.from === null) return null
  const temporary = join(folder, step.from)
  return (await statsOf(temporary)) === null ? path : temporary
}

/** Removes temporary files that no running save holds. On a file system without locks nothing says which those are. */
async function removeStale(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!TEMPORARY.test(name)) continue
    const path = join(folder, name)
    // A pipe would wait for a writer.
    if ((await lstat(path).catch(() => null))?.isFile() !== true) continue
    const handle = await open(path).catch(() => null)
    if (handle === null) continue
    try {
      if (native.fileLock(handle.fd, true) === true) await removeAll(folder, [name])
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
    await flush(handle)
  } catch (error) {
    // Some file systems cannot flush a folder.
    if (!['EINVAL', 'ENOTSUP'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
  } finally {
    await handle.close()
  }
}

function ignoreMissing(error: unknown): null {
  if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
  throw error
}
