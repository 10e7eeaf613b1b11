/** The files of an adapter: of a folder, or those that a program gives in place of one. */
import { describe, fail } from '../base/errors.js'
import { entriesOf, isMap, isPlain, type Named } from '../base/options.js'
import { checkpointError, quote, quoteSome } from './errors.js'
import { classOfData, type FileData, openData } from './file-data.js'
import { PICKLE_FILE } from './files.js'
import type { OpenFile } from './open-file.js'

/**
 * The files of an adapter, where there is no folder: `File` objects, such as the FileList of an
 * `<input type="file" webkitdirectory>`; or the contents by the names of the files. Files that do not belong
 * to an adapter are ignored.
 */
export type PretrainedFiles = Iterable<File> | Named<FileData>

/** In messages. */
export const FOLDER =
  'a path as a string, a file: URL object, File objects, or an object or a Map from the names of files to Blobs, ' +
  'ArrayBuffers or Uint8Arrays'

export interface AdapterFiles {
  /** In messages. */
  readonly name: string
  readonly has: (name: string) => Promise<boolean>
  /**
   * Opens a file.
   *
   * @throws LilyError ERR_LILY_CHECKPOINT if there is no such file
   */
  readonly open: (name: string) => Promise<OpenFile>
}

interface GivenFile {
  /** In messages. */
  readonly path: string
  readonly data: FileData
}

/**
 * Reads files that are given in place of a folder.
 *
 * @returns null for anything that is neither files nor contents by name, such as a path
 * @throws LilyError ERR_LILY_ARGUMENT for files among other things, none, or two of one name
 */
export function readFiles(argument: string, value: unknown): AdapterFiles | null {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value) || classOfData(value) !== null)
    return null
  const files = isNamed(value) ? readNamed(argument, value) : readList(argument, value)
  if (files === null) return null
  if (files.size === 0) fail('ERR_LILY_ARGUMENT', argument, `expected ${FOLDER}, got ${describe(value)} without files`)
  return {
    name: "the adapter's files",
    has: (name) => Promise.resolve(files.has(name)),
    open: (name) => {
      const file = files.get(name)
      if (file !== undefined) return Promise.resolve(openData(file.path, file.data))
      const advice = files.has(PICKLE_FILE) ? 'save the adapter as safetensors with PEFT' : 'add it'
      return Promise.reject(
        checkpointError(name, `expected it among the files, got ${quoteSome([...files.keys()])}; ${advice}`),
      )
    },
  }
}

function readNamed(argument: string, value: Named<FileData>): Map<string, GivenFile> {
  const files = new Map<string, GivenFile>()
  for (const [name, data] of entriesOf(argument, value)) {
    if (classOfData(data) === null) failMember(argument, value, data)
    files.set(name, { path: name, data })
  }
  return files
}

/** Files that know their names. */
function readList(argument: string, value: object): Map<string, GivenFile> | null {
  if (!isIterable(value)) return null
  const picked: { readonly name: string; readonly path: string; readonly data: File }[] = []
  for (const each of value) {
    if (classOfData(each) !== 'File') failMember(argument, value, each)
    const data = each as File
    // Node.js has no such property.
    const path = (data as { readonly webkitRelativePath?: string }).webkitRelativePath
    picked.push({ name: data.name, path: path === undefined || path === '' ? data.name : path, data })
  }
  const folder = commonFolder(picked.map(({ path }) => path))
  const files = new Map<string, GivenFile>()
  for (const { name, path, data } of picked) {
    if (folderOf(path) !== folder) continue
    if (files.has(name)) {
      fail('ERR_LILY_ARGUMENT', argument, `expected the files of one folder, got ${quote(name)} twice`)
    }
    files.set(name, { path, data })
  }
  if (files.size > 0 || picked.length === 0) return files
  const folders = [...new Set(picked.map(({ path }) => folderOf(path)))]
  return fail('ERR_LILY_ARGUMENT', argument, `expected the files of one folder, got files of ${quoteSome(folders)}`)
}

function failMember(argument: string, value: object, member: unknown): never {
  fail('ERR_LILY_ARGUMENT', argument, `expected ${FOLDER}, got ${describe(value)} with ${describe(member)} in it`)
}

/**
 * The folder that contains all of these files: a browser also gives the files of subfolders, such as the checkpoints of a
 * training.
 */
function commonFolder(paths: readonly string[]): string {
  let [common = ''] = paths.map(folderOf)
  for (const path of paths) while (!path.startsWith(common)) common = folderOf(common.slice(0, -1))
  return common
}

/** With the slash behind it. */
function folderOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/') + 1)
}

function isNamed(value: object): value is Named<FileData> {
  return isMap(value) || (isPlain(value) && !isIterable(value))
}

function isIterable(value: object): value is Iterable<unknown> {
  return typeof (value as Partial<Iterable<unknown>>)[Symbol.iterator] === 'function'
}
