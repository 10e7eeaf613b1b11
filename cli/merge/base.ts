/** The files of a base model: one safetensors file, or several with an index. */
import { statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { openFile } from '../../lib/checkpoint/disk/disk.js'
import { checkpointError, quote, quoteAny, quoteSome } from '../../lib/checkpoint/errors.js'
import { isObject, parseJson } from '../../lib/checkpoint/json.js'
import type { OpenFile } from '../../lib/checkpoint/open-file.js'
import { readText } from '../../lib/checkpoint/read-text.js'
import { SafetensorsFile } from '../../lib/index.js'
import { CommandError } from '../../report/failure.js'

/** One of the files. */
export interface Shard {
  /** Its name in its folder. */
  readonly name: string
  readonly path: string
  readonly tensors: SafetensorsFile
  /** Its bytes. */
  readonly file: OpenFile
}

export interface Base {
  readonly shards: readonly Shard[]
  /** The index of several files, and its text. */
  readonly index: { readonly name: string; readonly path: string; readonly text: string } | null
  /** Whether the output is a folder, as the input is. */
  readonly isFolder: boolean
}

/** The names that Transformers gives to the file of a model, and to the index of several files. */
const [MODEL_FILE, INDEX_FILE] = ['model.safetensors', 'model.safetensors.index.json']

/**
 * Opens the files of a base model.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT for a file that cannot be read, or that does not fit the index
 * @throws CommandError for a folder without a model
 */
export async function openBase(path: string): Promise<Base> {
  if (!isFolder(path)) {
    return path.endsWith('.json') ? openIndexed(path) : { shards: await openAll([path]), index: null, isFolder: false }
  }
  const [file, index] = [join(path, MODEL_FILE), join(path, INDEX_FILE)]
  const [hasFile, hasIndex] = [file, index].map((each) => statSync(each, { throwIfNoEntry: false }) !== undefined)
  if (hasFile !== hasIndex) {
    return hasIndex ? openIndexed(index) : { shards: await openAll([file]), index: null, isFolder: true }
  }
  throw new CommandError(
    `${path}: expected ${MODEL_FILE} or ${INDEX_FILE} in this folder, got ${hasFile ? 'both' : 'neither'}; name the file`,
  )
}

export async function closeBase({ shards }: Pick<Base, 'shards'>): Promise<void> {
  for (const { tensors } of shards) await tensors.close()
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
}

async function openIndexed(path: string): Promise<Base> {
  const text = await readText(await openFile(path), 'the index')
  const files = readWeightMap(path, text)
  const shards = await openAll([...files.keys()].map((name) => join(dirname(path), name)))
  try {
    const owners = new Map<string, string>()
    for (const { name: file, tensors } of shards) {
      const listed = files.get(file) as readonly string[]
      const missing = listed.filter((name) => !tensors.tensors.has(name))
      if (missing.length > 0) {
        throw checkpointError(path, `expected the tensor ${quoteSome(missing)} in ${quote(file)}, got none`)
      }
      for (const name of tensors.tensors.keys()) {
        const other = owners.get(name)
        if (other === undefined) owners.set(name, file)
        else throw checkpointError(path, `expected tensor ${quote(name)} once, got it in ${quoteSome([other, file])}`)
      }
    }
    return { shards, index: { name: basename(path), path, text }, isFolder: true }
  } catch (error) {
    await closeBase({ shards })
    throw error
  }
}

/** The tensors of each file, by its name, which must name a file beside the index: the output has the same name. */
function readWeightMap(path: string, text: string): ReadonlyMap<string, readonly string[]> {
  const index = parseJson(path, 'the index', text)
  const weightMap = isObject(index) ? index.weight_map : undefined
  if (!isObject(weightMap)) {
    throw checkpointError(
      path,
      `expected an object weight_map, got ${quoteAny(weightMap)}; name a file of Transformers`,
    )
  }
  const files = new Map<string, string[]>()
  for (const [tensor, file] of Object.entries(weightMap)) {
    if (typeof file !== 'string' || !/^[^/\\\0]+\.safetensors$/.test(file)) {
      const got = quoteAny(file)
      throw checkpointError(path, `expected the name of a .safetensors file beside it for ${quote(tensor)}, got ${got}`)
    }
    const listed = files.get(file) ?? []
    listed.push(tensor)
    files.set(file, listed)
  }
  if (files.size === 0) throw checkpointError(path, 'expected tensors in weight_map, got none')
  return files
}

async function openAll(paths: readonly string[]): Promise<Shard[]> {
  const shards: Shard[] = []
  try {
    for (const path of paths) {
      const file = await openFile(path)
      shards.push({ name: basename(path), path, file, tensors: await SafetensorsFile.from(file) })
    }
    return shards
  } catch (error) {
    await closeBase({ shards })
    throw error
  }
}
