/**
 * Several files of a folder replaced as one: after a crash, a failure, or saves by several processes at once, a reader
 * sees all files of one save.
 *
 * A save writes temporary files beside the old ones and flushes them. If there is more than one, it then writes a
 * journal that lists the renames. From then on the save is valid: the next save completes the renames of a journal that it
 * finds, and a load reads through it. Renames happen under an exclusive lock of the folder.
 */
import type { FileHandle } from 'node:fs/promises'
import { native } from '../../binding/native.js'
import { checkpointError, fileSystemError } from '../errors.js'
import { isObject } from '../json.js'
import { BLOCK_BYTES, type FileContent } from '../open-file.js'
import { inTurn, withFolderLock } from './folder-lock.js'
import { openHandle } from './open-file.js'
import { absolute, endsLikeFolder } from './paths.js'

const { randomBytes } = process.getBuiltinModule('node:crypto')
const { fsync } = process.getBuiltinModule('node:fs')
const { chmod, copyFile, link, lstat, mkdir, open, readdir, readFile, rename, rm, stat } =
  process.getBuiltinModule('node:fs/promises')
const { basename, dirname, join } = process.getBuiltinModule('node:path')
const { promisify } = process.getBuiltinModule('node:util')

/** The steps of a save: its renames, in order, and then the files that it removes. */
export interface Journal {
  readonly renames: readonly { readonly from: string; readonly to: string; readonly old: Identity }[]
  readonly removals: readonly { readonly name: string; readonly old: Identity }[]
}

/** Tells a file from others that take its name later: inode, size and time; null if there was no file. */
type Identity = string | null

const JOURNAL_FILE = '.lily-save.json'

/** A file that a save writes, locked until the save ends: nobody else removes it as stale. */
interface Temporary {
  readonly name: string
  readonly temporary: string
  readonly handle: FileHandle
}

const temporaryName = (name: string): string => `.${name}.lily-${randomBytes(6).toString('hex')}.tmp`
const TEMPORARY = /^\.(.+)\.lily-[0-9a-f]{12}\.tmp$/

/** A journal takes some hundred bytes. */
const MAX_JOURNAL_BYTES = 1 << 16

/** The last save of each folder: saves of one folder run one after the other, in the order of the calls. */
const saves = new Map<string, Promise<unknown>>()

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
  // Before the first await: the order of the saves is that of the calls.
  const path = absolute(folder)
  await inTurn(saves, path, () => replaceNow(path, files, obsolete, check))
}

/** Replaces one file, as {@link replaceFiles} does. */
export async function replaceFile(path: string, content: Omit<FileContent, 'name'>): Promise<void> {
  // `dirname` and `basename` take 'folder/' for the file 'folder'.
  if (endsLikeFolder(path)) {
    throw checkpointError(path, 'expected the path of a file, got one that ends like that of a folder; add a name')
  }
  await replaceFiles(dirname(path), [{ ...content, name: basename(path) }])
}

/** Whether a journal on the disk may name the temporary files and backups of a save: they must stay then. */
interface Progress {
  isJournalled: boolean
}

async function replaceNow(
  folder: string,
  files: readonly FileContent[],
  obsolete: readonly string[],
  check: () => Promise<void>,
): Promise<void> {
  const temporaries: Temporary[] = []
  const progress: Progress = { isJournalled: false }
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
        temporaries.push(await createTemporary(folder, name))
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
      await commit(folder, temporaries, obsolete, progress)
    })
  } catch (cause) {
    if (!progress.isJournalled) await removeAll(temporaries.map(({ temporary }) => join(folder, temporary)))
    throw fileSystemError(path, 'cannot be written', cause)
  } finally {
    await Promise.allSettled(temporaries.map(({ handle }) => handle.close()))
  }
}

/**
 * Makes a folder and those above it. The option `recursive` of Node's mkdir is not used: where a file system refuses a
 * folder with ENOENT although the folder above it exists, as /proc does, that call does not come to an end.
 */
async function makeFolder(folder: string): Promise<void> {
  const make = async () => {
    await mkdir(folder).catch(async (error: unknown) => {
      const found = await stat(folder).catch(() => null)
      if (found?.isDirectory() === true) return
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      throw checkpointError(
        folder,
        found === null
          ? 'expected a folder or nothing, got a link to one that does not exist; create that folder, or remove the link'
          : 'expected a folder or nothing, got a file; pass the path of a folder',
        error,
      )
    })
  }
  try {
    await make()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || dirname(folder) === folder) throw error
    await makeFolder(dirname(folder))
    await make()
  }
}

/** A file that cannot be removed does not change the result of a save: the next one tries again. */
async function removeAll(paths: readonly string[]): Promise<void> {
  await Promise.allSettled(paths.map((path) => rm(path, { force: true })))
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
  const old = await lstat(path).catch(ignoreMissing)
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
async function commit(
  folder: string,
  temporaries: readonly Temporary[],
  obsolete: readonly string[],
  progress: Progress,
): Promise<void> {
  if (temporaries.length + obsolete.length === 1) {
    await rename(join(folder, temporaries[0].temporary), join(folder, temporaries[0].name))
    await synchronizeFolder(folder)
    return
  }
  const backups = new Map<string, string>()
  try {
    const names = [...temporaries.map(({ name }) => name), ...obsolete]
    for (const name of names) await backUp(folder, name, backups)
    const journal = await describeSteps(
      folder,
      temporaries.map(({ name, temporary }) => ({ from: temporary, to: name })),
      obsolete,
    )
    const prepared = await prepareJournal(folder, journal)
    progress.isJournalled = true
    try {
      await publishJournal(folder, prepared)
      for (const { from, to } of journal.renames) await rename(join(folder, from), join(folder, to))
      await finish(folder, journal)
    } catch (cause) {
      await undo(folder, names, backups)
      progress.isJournalled = false
      throw cause
    }
    progress.isJournalled = false
  } finally {
    if (!progress.isJournalled) await removeAll([...backups.values()].map((backup) => join(folder, backup)))
  }
}

async function describeSteps(
  folder: string,
  renames: readonly { readonly from: string; readonly to: string }[],
  removals: readonly string[],
): Promise<Journal> {
  const identify = (name: string) => identityOf(join(folder, name))
  return {
    renames: await Promise.all(renames.map(async ({ from, to }) => ({ from, to, old: await identify(to) }))),
    removals: await Promise.all(removals.map(async (name) => ({ name, old: await identify(name) }))),
  }
}

async function identityOf(path: string): Promise<Identity> {
  const stats = await lstat(path).catch(ignoreMissing)
  return stats === null ? null : `${stats.ino} ${stats.size} ${stats.mtimeMs}`
}

/** A second name for the old file; a copy on file systems that have one name per file. */
async function backUp(folder: string, name: string, backups: Map<string, string>): Promise<void> {
  const path = join(folder, name)
  if ((await lstat(path).catch(ignoreMissing)) === null) return
  const backup = temporaryName(name)
  backups.set(name, backup)
  await link(path, join(folder, backup)).catch(() => copyFile(path, join(folder, backup)))
}

/** Restores the old files by the same steps: if this process ends meanwhile, the next save completes them. */
async function undo(folder: string, names: readonly string[], backups: ReadonlyMap<string, string>): Promise<void> {
  const renames = names.flatMap((to) => {
    const from = backups.get(to)
    return from === undefined ? [] : [{ from, to }]
  })
  const created = names.filter((name) => !backups.has(name))
  await publishJournal(folder, await prepareJournal(folder, await describeSteps(folder, renames, created)))
  await completeSave(folder)
}

/** Writes a journal under a name that no reader looks for, and returns the name. A full disk has no room for it. */
async function prepareJournal(folder: string, journal: Journal): Promise<string> {
  const temporary = temporaryName('journal')
  const path = join(folder, temporary)
  const handle = await open(path, 'wx')
  try {
    await handle.writeFile(JSON.stringify(journal))
    await flush(handle)
  } catch (error) {
    await removeAll([path])
    throw error
  } finally {
    await handle.close()
  }
  return temporary
}

/** From here on the journal counts. */
async function publishJournal(folder: string, temporary: string): Promise<void> {
  await rename(join(folder, temporary), join(folder, JOURNAL_FILE))
  await synchronizeFolder(folder)
}

/** Completes the save that a journal describes, if there is one. Steps that were made before are skipped. */
async function completeSave(folder: string): Promise<void> {
  const journal = await readJournal(folder)
  if (journal === null) return
  await checkOwner(join(folder, JOURNAL_FILE))
  for (const { from, to } of journal.renames) await rename(join(folder, from), join(folder, to)).catch(ignoreMissing)
  await finish(folder, journal)
}

/** In a folder that several users write, the journal of one must not make another remove files. */
async function checkOwner(path: string): Promise<void> {
  const user = process.getuid?.()
  const { uid } = await lstat(path)
  if (user === undefined || uid === user || uid === 0) return
  throw checkpointError(path, 'belongs to the interrupted save of another user; let that user save again, or remove it')
}

/** The steps after the renames. The renames are on the disk before the journal is removed. */
async function finish(folder: string, { removals }: Journal): Promise<void> {
  for (const { name } of removals) await rm(join(folder, name), { force: true })
  await synchronizeFolder(folder)
  await rm(join(folder, JOURNAL_FILE), { force: true })
  await synchronizeFolder(folder)
}

/**
 * The journal of a save that has not been completed; null if there is none. The caller holds a lock of the folder.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT also if another program has replaced a file after the save was interrupted
 */
export async function readJournal(folder: string): Promise<Journal | null> {
  const path = join(folder, JOURNAL_FILE)
  const stats = await lstat(path).catch(ignoreMissing)
  if (stats === null) return null
  const journal = stats.isFile() && stats.size <= MAX_JOURNAL_BYTES ? parseJournal(await readFile(path, 'utf8')) : null
  if (journal === null) {
    throw checkpointError(path, 'expected the journal of an interrupted save, got something else; remove the file')
  }
  await checkUnchanged(folder, journal)
  return journal
}

/** The steps that are left must find the files that the interrupted save has found. */
async function checkUnchanged(folder: string, { renames, removals }: Journal): Promise<void> {
  const open = await Promise.all(renames.map(({ from }) => identityOf(join(folder, from))))
  const steps = [
    ...renames.filter((_, i) => open[i] !== null).map(({ to, old }) => ({ name: to, old, isRemoval: false })),
    ...removals.map(({ name, old }) => ({ name, old, isRemoval: true })),
  ]
  for (const { name, old, isRemoval } of steps) {
    const found = await identityOf(join(folder, name))
    if (found === old || (isRemoval && found === null)) continue
    throw checkpointError(
      join(folder, JOURNAL_FILE),
      `is of an interrupted save, and another program has since changed ${name}; remove this file to keep that change, ` +
        `or ${name} to complete the save`,
    )
  }
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
      isObject(step) &&
      isName(step.to) &&
      isName(step.from) &&
      isIdentity(step.old) &&
      TEMPORARY.exec(step.from)?.[1] === step.to,
  )
  const areRemovals = removals.every((step: unknown) => isObject(step) && isName(step.name) && isIdentity(step.old))
  return areRenames && areRemovals ? (value as unknown as Journal) : null
}

function isIdentity(value: unknown): value is Identity {
  return value === null || typeof value === 'string'
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
  if (journal?.removals.some((step) => step.name === name) === true) return null
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
    // A pipe would wait for a writer.
    if ((await lstat(path).catch(() => null))?.isFile() !== true) continue
    const handle = await open(path).catch(() => null)
    if (handle === null) continue
    try {
      if (native.fileLock(handle.fd, true) === true) await removeAll([path])
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
