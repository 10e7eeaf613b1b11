/** Reads a Lily adapter from a folder in PEFT's format, or in the compact format of this package. */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, fail, LilyError } from '../base/errors.js'
import { checkKeys, copyArray, get, type Known } from '../base/options.js'
import type { LilyConfig } from '../model/lily-config.js'
import type { LayerShape } from '../model/layer-shape.js'
import type { Layout } from '../model/layout.js'
import { shareLayers } from '../model/sharing.js'
import type { Tensor } from '../tensor/tensor.js'
import { type AdapterConfig, readAdapterConfig } from './adapter-config.js'
import { compactLayers } from './compact.js'
import { checkpointError, fileSystemError, quote } from './errors.js'
import { COMPACT_FILE, CONFIG_FILE, FROZEN_FILE, PEFT_FILE } from './files.js'
import { withFolderLock } from './folder-lock.js'
import { type Frozen, FROZEN, readFrozenFile, readFrozenMetadata } from './frozen.js'
import { keyOf, type Kind, KINDS, parseKey, PREFIX, sortByNumbers } from './layer-names.js'
import { missingTensor, readParameters, wrongShape } from './parameters.js'
import { readText } from './read-text.js'
import { committedPath, readJournal } from './replace-files.js'
import { readPath } from './paths.js'
import { SafetensorsFile } from './safetensors-file.js'
import type { TensorSource } from './safetensors-write.js'

/** The contents of a folder other than parameters, which saving the model writes again unchanged. */
export interface Origin extends Pick<AdapterConfig, 'text' | 'fields'> {
  /** Metadata of the tensor file. */
  readonly metadata: ReadonlyMap<string, string>
  /** Tensors that are not parameters of Lily, such as those of modules_to_save and resized embeddings. */
  readonly others: ReadonlyMap<string, TensorSource>
}

/** The contents of an adapter's folder. */
export interface Pretrained {
  readonly config: LilyConfig
  /** In the order in which they share A. */
  readonly layers: readonly LayerShape[]
  /** By parameter name. */
  readonly values: ReadonlyMap<string, Tensor>
  /** The layers that are frozen. */
  readonly frozen: Frozen
  readonly origin: Origin
}

/** Options of {@link LilyModel.fromPretrained}. */
export interface LoadOptions {
  /**
   * Names of all layers of the adapter, in the order in which the base model calls them. The order determines which
   * layers share an A; PEFT's file does not contain it. Default: sorted by the numbers in their names, layers.2 before
   * layers.10.
   */
  readonly layers?: readonly string[] | undefined
}

const OPTIONS: Known = new Set<keyof LoadOptions>(['layers'])

/** Reads an adapter's folder; see {@link LilyModel.fromPretrained}. */
export async function loadPretrained(from: string | URL, options: LoadOptions): Promise<Pretrained> {
  const folder = readPath('folder', from)
  checkKeys('options', options, OPTIONS)
  const order = get('options', options, 'layers')
  const { config, text, fields, file, frozenFile } = await openFolder(folder)
  try {
    const compact = compactLayers(file)
    const layers = compact ?? findLayers(file, order, config)
    const sharing = shareLayersOf(file, layers, config)
    const values = await readParameters(file, sharing, compact === null)
    const others = await readOthers(file, sharing, compact === null)
    const frozen = await readFrozen(file, frozenFile, sharing, values, config.numB)
    return { config, layers, values, frozen, origin: { text, fields, metadata: file.metadata, others } }
  } finally {
    await file.close()
  }
}

interface OpenFolder extends AdapterConfig {
  readonly file: SafetensorsFile
  /** The text of the file of frozen weights and its path. */
  readonly frozenFile: { readonly path: string; readonly text: string } | null
}

/**
 * Opens the files of one save: no save completes while they are opened, and a save that was interrupted is read as it will
 * be completed. The files stay those of that save after another one has replaced them.
 */
async function openFolder(folder: string): Promise<OpenFolder> {
  try {
    return await withFolderLock(folder, 'shared', async () => {
      const journal = await readJournal(folder)
      const find = async (name: string) => {
        const path = await committedPath(folder, journal, name)
        return path !== null && (await stat(path).catch(() => null)) !== null ? path : null
      }
      const config = await readAdapterConfig((await find(CONFIG_FILE)) ?? join(folder, CONFIG_FILE))
      const [peft, compact, frozen] = await Promise.all([PEFT_FILE, COMPACT_FILE, FROZEN_FILE].map(find))
      if (peft !== null && compact !== null) {
        throw checkpointError(folder, `expected ${PEFT_FILE} or ${COMPACT_FILE}, got both; remove the older one`)
      }
      const frozenFile = frozen === null ? null : { path: frozen, text: await readText(frozen, 'the file') }
      const file = await SafetensorsFile.open(compact ?? peft ?? join(folder, PEFT_FILE))
      return { ...config, file, frozenFile }
    })
  } catch (cause) {
    throw fileSystemError(folder, 'cannot be read', cause)
  }
}

async function readFrozen(
  { path, metadata }: SafetensorsFile,
  frozenFile: OpenFolder['frozenFile'],
  { parameters, layers }: Layout,
  values: ReadonlyMap<string, Tensor>,
  experts: number,
): Promise<Frozen> {
  const text = metadata.get(FROZEN)
  if (text !== undefined) return readFrozenMetadata(path, text, new Set(layers.keys()), experts)
  if (frozenFile === null) return new Map()
  const valued = [...parameters.values()].map((each) => ({ ...each, value: values.get(each.name) as Tensor }))
  return readFrozenFile(frozenFile.path, frozenFile.text, valued, experts)
}

/** The layers that have tensors in a file of PEFT's format. */
function findLayers(file: SafetensorsFile, order: unknown, config: LilyConfig): LayerShape[] {
  const names = new Set<string>()
  for (const key of file.tensors.keys()) {
    const parsed = parseKey(key)
    if (parsed !== null) names.add(parsed.layer)
  }
  if (names.size === 0) {
    throw checkpointError(
      file.path,
      `expected tensors ${PREFIX}<layer>.lily_A.weight, got none; save the adapter with PEFT again`,
    )
  }
  const ordered = order === undefined ? sortByNumbers(names) : readOrder(file, order, names)
  return ordered.map((name) => layerShape(file, name, config))
}

/** Reads the option `layers`, which must name each layer of the file once. */
function readOrder({ path }: SafetensorsFile, value: unknown, names: ReadonlySet<string>): string[] {
  const given = copyArray('layers', value)
  if (given === null) fail('ERR_LILY_ARGUMENT', 'layers', `expected names of layers, got ${describe(value)}`)
  const order = new Set<unknown>()
  for (const name of given) {
    if (!names.has(name as string) || order.has(name)) {
      fail('ERR_LILY_ARGUMENT', 'layers', `expected each layer of ${path} once, got ${describe(name)}`)
    }
    order.add(name)
  }
  const omitted = [...names].find((name) => !order.has(name))
  if (omitted !== undefined) {
    fail('ERR_LILY_ARGUMENT', 'layers', `expected all layers of ${path}, got none named ${quote(omitted)}`)
  }
  return [...order] as string[]
}

/** The sizes of a layer, from the shapes of its tensors. */
function layerShape(file: SafetensorsFile, name: string, { r, numB }: LilyConfig): LayerShape {
  const columns = (kind: Kind, rows: number) => {
    const key = keyOf(name, kind)
    const shape = file.tensors.get(key)?.shape
    if (shape === undefined) throw missingTensor(file, key)
    if (shape.length === 2 && shape[0] === rows) return shape[1]
    throw wrongShape(file, key, `[${rows}, ${kind === 'a' ? 'd_in' : 'd_out'}]`, shape)
  }
  return { name, inFeatures: columns('a', r), outFeatures: columns('b', numB * r) }
}

/** Assigns parameters to the layers of the file. Errors of shareLayers become errors about the file. */
function shareLayersOf(file: SafetensorsFile, layers: readonly LayerShape[], config: LilyConfig): Layout {
  let sharing: Layout
  try {
    sharing = shareLayers(layers, config)
  } catch (cause) {
    if (!(cause instanceof LilyError)) throw cause
    throw checkpointError(file.path, `its layers do not fit ${CONFIG_FILE}: ${cause.message}`, cause)
  }
  const excluded = layers.find(({ name }) => !sharing.layers.has(name))
  if (excluded === undefined) return sharing
  throw checkpointError(
    file.path,
    `expected tensors of adapted layers only, got layer ${quote(excluded.name)}, which ${CONFIG_FILE} excludes; ` +
      `add it to target_modules`,
  )
}

/** Reads the tensors that are not parameters of Lily, as bytes, since they may have any type. */
async function readOthers(file: SafetensorsFile, sharing: Layout, withCopies: boolean): Promise<Origin['others']> {
  const known = new Set([...sharing.parameters.keys()].map((name) => PREFIX + name))
  if (withCopies) for (const layer of sharing.layers.keys()) for (const kind of KINDS) known.add(keyOf(layer, kind))

  const others = new Map<string, TensorSource>()
  for (const [key, { dtype, shape }] of file.tensors) {
    if (known.has(key)) continue
    if (key.includes('lily_')) {
      throw checkpointError(
        file.path,
        `tensor ${quote(key)}: expected ${PREFIX}<layer>.lily_A.weight, .lily_router.weight or .lily_B.weight; ` +
          `rename or remove it`,
      )
    }
    const bytes = await file.readBytes(key)
    others.set(key, { dtype, shape, bytes: () => bytes })
  }
  return others
}
