/** Runs a merge: reads, changes and writes one tensor after the other. */
import { lstatSync, readdirSync, statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { bytesOf, plainView } from '../../lib/base/dtype.js'
import { countOf } from '../../lib/base/errors.js'
import { replaceFiles } from '../../lib/checkpoint/disk/disk.js'
import { checkpointError, quote, quoteSome } from '../../lib/checkpoint/errors.js'
import { BLOCK_BYTES, fill, type FileContent, type OpenFile } from '../../lib/checkpoint/open-file.js'
import { NAMES } from '../../lib/checkpoint/safetensors-file.js'
import type { TensorSource } from '../../lib/checkpoint/safetensors-write.js'
import { AdapterModel, type TensorEntry } from '../../lib/index.js'
import { firstNotFinite, fromFloat32, toFloat32 } from '../../lib/tensor/numbers.js'
import { adapterInputs } from '../../report/adapter-inputs.js'
import { CommandError } from '../../report/failure.js'
import { interruptSignal, SIGNALS } from '../../report/interrupt.js'
import { checkWritable } from '../../report/output-file.js'
import { note } from '../../report/print.js'
import { printable } from '../../report/printable.js'
import { startProgress } from '../../report/progress.js'
import { type Base, closeBase, openBase, type Shard } from './base.js'
import type { MergeArguments } from './command.js'
import { type Plan, planOf } from './plan.js'

/** The numbers of a weight in the type of its file. */
type Numbers = Float32Array | Uint16Array

export async function mergeAdapter({ adapter, base: path, out, force }: MergeArguments): Promise<void> {
  const base = await openBase(path)
  const interrupt = interruptSignal()
  try {
    const target = targetOf(base, out)
    checkTarget(target, base, adapter, force)
    const model = await AdapterModel.fromPretrained(adapter)
    for (const layer of model.layers.values()) layer.checkUpdate('adapter')
    const plan = planOf(path, model, base)
    await write(target, base, model, plan, interrupt, force)
    const replaced = plan.size - model.layers.size
    const others = replaced === 0 ? '' : `, ${countOf(replaced, 'tensor')} of modules_to_save replaced`
    note(`${countOf(model.layers.size, 'layer')} merged${others}: ${printable(out)}`)
  } catch (error) {
    if (!interrupt.aborted) throw error
    note('interrupted: nothing was written')
    process.exitCode = SIGNALS[interrupt.reason as keyof typeof SIGNALS]
  } finally {
    await closeBase(base)
  }
}

/** Where the output goes. */
interface Target {
  /** As the caller names it. */
  readonly out: string
  readonly folder: string
  /** The names of the files. */
  readonly names: readonly string[]
  /** Whether all of the folder is the output, or one file. */
  readonly isFolder: boolean
}

function targetOf({ shards, index, isFolder }: Base, out: string): Target {
  if (!isFolder) return { out, folder: dirname(resolve(out)), names: [basename(out)], isFolder }
  const names = shards.map(({ name }) => name)
  return { out, folder: resolve(out), names: index === null ? names : [...names, index.name], isFolder }
}

/** Refuses an output that exists, unless it may be replaced, and one that is a file of the input in any case. */
function checkTarget(target: Target, { shards, index }: Base, adapter: string, force: boolean): void {
  const { out, folder, names, isFolder } = target
  const inputs = [...adapterInputs(adapter), ...shards.map(({ path }) => path), ...(index === null ? [] : [index.path])]
  const isThere = statSync(folder, { throwIfNoEntry: false })
  if (!isFolder) checkWritable({ '<out>': out }, inputs)
  else if (isThere !== undefined) {
    if (!isThere.isDirectory())
      throw new CommandError(`<out>: ${out} is a file; name a folder, as <base> is in a folder`)
    checkWritable(Object.fromEntries(names.map((name) => [`<out> (${name})`, join(folder, name)])), inputs)
  }
  if (!force) refuseExisting(target)
  else if (isFolder && isThere !== undefined) refuseOthers(target)
}

/** Beside this model another one would be read in its place, or with it: Transformers prefers a single file to an index. */
function refuseOthers({ out, folder, names }: Target): void {
  const others = readdirSync(folder).filter(
    (name) => !name.startsWith('.') && /\.safetensors(\.index\.json)?$/.test(name) && !names.includes(name),
  )
  if (others.length === 0) return
  throw new CommandError(
    `<out>: ${out} has files of another model, ${quoteSome(others)}, which --force does not replace; remove them, or name ` +
      'another folder',
  )
}

/** A folder is refused unless it is empty: other files of a model in it would be taken for its own. */
function refuseExisting({ out, folder, names, isFolder }: Target): void {
  const isThere = (path: string) => lstatSync(path, { throwIfNoEntry: false }) !== undefined
  // What begins with a dot are the temporary files of this and other runs, among others.
  const found = isFolder
    ? isThere(folder) && readdirSync(folder).some((name) => !name.startsWith('.'))
    : isThere(join(folder, names[0]))
  if (!found) return
  const what = isFolder ? 'is a folder with files' : 'exists'
  throw new CommandError(`<out>: ${out} ${what}; name another one, or pass --force to replace it`)
}

async function write(
  target: Target,
  { shards, index }: Base,
  model: AdapterModel,
  plan: Plan,
  interrupt: AbortSignal,
  force: boolean,
): Promise<void> {
  const total = shards.reduce((sum, { file }) => sum + file.size, 0)
  // A log does not need one line per tensor.
  const progress = startProgress(() => undefined)
  let done = 0
  const onTensor = (name: string, bytes: number) => {
    interrupt.throwIfAborted()
    progress.update(name, done / total)
    done += bytes
  }
  const files: FileContent[] = shards.map((shard, i) => ({
    name: target.isFolder ? shard.name : target.names[i],
    blocks: () => blocksOf(shard, model, plan, onTensor),
  }))
  if (index !== null) files.push({ name: index.name, blocks: () => [new TextEncoder().encode(index.text)] })
  // Again, as it may have come while this one was written.
  const check = (): Promise<void> => {
    if (!force) refuseExisting(target)
    return Promise.resolve()
  }
  try {
    await replaceFiles(target.folder, files, [], check)
  } finally {
    progress.stop()
  }
}

/** The bytes of a file: the header and unchanged tensors as they are. */
async function* blocksOf(
  { path, file, tensors: { tensors } }: Shard,
  model: AdapterModel,
  plan: Plan,
  onTensor: (name: string, bytes: number) => void,
): AsyncIterable<Uint8Array> {
  const buffer = new Uint8Array(Math.min(BLOCK_BYTES, file.size))
  const entries = [...tensors]
  const dataStart = entries.length === 0 ? file.size : entries[0][1].begin
  yield* copied(file, 0, dataStart, buffer)
  for (const [name, entry] of entries) {
    onTensor(name, entry.end - entry.begin)
    const change = plan.get(name)
    if (change === undefined) yield* copied(file, entry.begin, entry.end, buffer)
    else if (change.kind === 'replace') yield await replacement(path, name, entry, change.source)
    else yield await merged(file, name, entry, model, change.layer.name)
  }
}

async function* copied(file: OpenFile, begin: number, end: number, buffer: Uint8Array): AsyncIterable<Uint8Array> {
  for (let start = begin; start < end; start += buffer.length) {
    const block = buffer.subarray(0, Math.min(buffer.length, end - start))
    await fill(file, block, start)
    yield block
  }
}

async function merged(
  file: OpenFile,
  name: string,
  { dtype: stored, shape, begin, end }: TensorEntry,
  model: AdapterModel,
  layer: string,
): Promise<Uint8Array> {
  const dtype = NAMES[stored]
  const bytes = new Uint8Array(end - begin)
  await fill(file, bytes, begin)
  const data = plainView(dtype, bytes) as Numbers
  model.merge(layer, { data, shape, dtype })
  checkFinite(file.path, name, dtype, data)
  return bytes
}

/** A tensor of the adapter, in the type of the base model. */
async function replacement(
  path: string,
  name: string,
  { dtype }: Pick<TensorEntry, 'dtype'>,
  source: TensorSource,
): Promise<Uint8Array> {
  const bytes = await source.bytes()
  if (source.dtype === dtype) return bytes
  const values = toFloat32(NAMES[source.dtype], plainView(NAMES[source.dtype], bytes))
  const data = fromFloat32(NAMES[dtype], values) as Numbers
  checkFinite(path, name, NAMES[dtype], data)
  return bytesOf(data)
}

function checkFinite(path: string, name: string, dtype: (typeof NAMES)[string], data: Numbers): void {
  if (firstNotFinite(dtype, data) === -1) return
  throw checkpointError(
    path,
    `tensor ${quote(name)}: expected finite numbers, got an infinity or NaN in the base model or in the sum; a larger ` +
      `number than ${dtype} has requires a base model in float32`,
  )
}
