/** Files that a command writes at its end, checked at its beginning. */
import { randomBytes } from 'node:crypto'
import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  existsSync,
  lstatSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { CommandError } from './failure.js'

/** The value of an option `--json [file]`: true is stdout, which other programs call -. */
export const jsonTarget = (file: string): string | true => (file === '-' ? true : file)

function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return 'code' in error && error.code === 'ENOENT' ? 'its folder does not exist; create it first' : error.message
}

/**
 * Checks that files can be written, by opening them. Existing files are not changed, and no new ones remain.
 *
 * @param files by option
 * @param inputs files that the command reads, which it must not replace. They need not exist
 * @throws CommandError
 */
export function checkWritable(
  files: Readonly<Record<string, string | undefined>>,
  inputs: readonly string[] = [],
): void {
  const read = new Set(inputs.map(withoutLinks))
  const seen = new Map<string, string>()
  for (const [option, path] of Object.entries(files)) {
    if (path === undefined) continue
    try {
      const target = tryToOpen(path)
      if (read.has(target)) throw new Error('it is a file of the input; name another file')
      const other = seen.get(target)
      if (other !== undefined) throw new Error(`${other} names the same file`)
      seen.set(target, option)
    } catch (error) {
      throw new CommandError(`${option}: ${path} cannot be written: ${messageOf(error)}`, { cause: error })
    }
  }
}

/** The path without symbolic links; for a missing file, the path of its folder. */
function withoutLinks(path: string): string {
  if (existsSync(path)) return realpathSync(path)
  const folder = dirname(path)
  return existsSync(folder) ? join(realpathSync(folder), basename(path)) : path
}

/** Returns the path without symbolic links. */
function tryToOpen(path: string): string {
  if (path === '') throw new Error('its name is empty')
  const stats = statSync(path, { throwIfNoEntry: false })
  if (stats === undefined) {
    if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) {
      throw new Error('it is a link to a file that does not exist; create that file first')
    }
    closeSync(openSync(path, 'wx'))
    const target = realpathSync(path)
    rmSync(path)
    return target
  }
  if (stats.isDirectory()) throw new Error('it is a folder')
  // Opening a pipe would wait for its reader.
  if (stats.isFile()) closeSync(openSync(path, 'r+'))
  else accessSync(path, constants.W_OK)
  return stats.isFile() ? realpathSync(path) : path
}

/** Errors of a folder in which no file can be created or renamed, although the file itself can be written. */
const IN_PLACE = new Set(['EACCES', 'EPERM', 'EROFS', 'EBUSY', 'ENAMETOOLONG'])

/**
 * Writes a file. An existing file is replaced as a whole, so that it survives a failure; its permissions remain.
 *
 * @throws CommandError
 */
export function writeOutput(option: string, path: string, text: string): void {
  try {
    const stats = statSync(path, { throwIfNoEntry: false })
    if (stats !== undefined && !stats.isFile()) writeFileSync(path, text)
    else replaceFile(stats === undefined ? path : realpathSync(path), text, stats?.mode)
  } catch (error) {
    throw new CommandError(`${option}: ${path} cannot be written: ${messageOf(error)}`, { cause: error })
  }
}

function replaceFile(path: string, text: string, mode: number | undefined): void {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`
  try {
    writeFileSync(temporary, text, { flag: 'wx' })
    if (mode !== undefined) chmodSync(temporary, mode)
    renameSync(temporary, path)
  } catch (error) {
    try {
      rmSync(temporary, { force: true })
    } catch {
      // If a name is too long, not even its absence can be determined.
    }
    if (!IN_PLACE.has((error as NodeJS.ErrnoException).code ?? '')) throw error
    writeFileSync(path, text)
  }
}
