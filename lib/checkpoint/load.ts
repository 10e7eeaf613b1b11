/** Reading of a Lily adapter as PEFT saves it, or in the compact form of this package. */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, fail, LilyError } from '../base/errors.js'
import { checkKeys, get, type Known } from '../base/options.js'
import type { LilyConfig } from '../model/config.js'
import { type LayerShape, shareLayers, type Sharing } from '../model/sharing.js'
import type { Tensor } from '../tensor/tensor.js'
import { type AdapterConfig, CONFIG_FILE, readAdapterConfig } from './adapter-config.js'
import { compactLayers } from './compact.js'
import { checkpointError, quote } from './errors.js'
import { keyOf, type Kind, KINDS, parseKey, PREFIX, sortByNumbers } from './layer-names.js'
import { readPath } from './paths.js'
import { missing, readParameters, wrongShape } from './parameters.js'
import { SafetensorsFile } from './safetensors-file.js'
import type { TensorSource } from './safetensors-write.js'

/** Tensors as PEFT stores them: shared ones once per layer. */
export const PEFT_FILE = 'adapter_model.safetensors'

/** Shared tensors once. PEFT looks for no such name, and so says that it finds no weights, not that some are missing. */
export const COMPACT_FILE = 'adapter_model.compact.safetensors'

/** What a folder had beside the parameters; written again as it was. */
export interface Origin extends Pick<AdapterConfig, 'text' | 'fields'> {
  /** Of the tensors' file. */
  readonly metadata: ReadonlyMap<string, string>
  /** Tensors that are not Lily's: those of modules_to_save, resized embeddings. */
  readonly others: ReadonlyMap<string, TensorSource>
}

/** The parts of a model. */
export interface Pretrained {
  readonly config: LilyConfig
  /** In the order in which they share A. */
  readonly layers: readonly LayerShape[]
  /** By the names of the parameters. */
  readonly values: ReadonlyMap<string, Tensor>
  readonly origin: Origin
}

/** Options of {@link LilyModel.fromPretrained}. */
export interface LoadOptions {
  /**
   * All layers of the adapter in the order in which the model has them, which decides who shares A, and which PEFT's file
   * does not say. Default: by the numbers in their names, layers.2 before layers.10.
   */
  readonly layers?: readonly string[] | undefined
}

const OPTIONS: Known = new Set<keyof LoadOptions>(['layers'])

/** Reads an adapter's folder. */
export async function loadPretrained(from: string | URL, options: LoadOptions): Promise<Pretrained> {
  const folder = readPath('folder', from)
  checkKeys('options', options, OPTIONS)
  const order = get('options', options, 'layers')
  const { config, text, fields } = await readAdapterConfig(join(folder, CONFIG_FILE))
  const file = await SafetensorsFile.open(await findFile(folder))
  try {
    const compact = compactLayers(file)
    const layers = compact ?? findLayers(file, order, config)
    const sharing = shareStored(file, layers, config)
    const values = await readParameters(file, sharing, compact === null)
    const others = await readOthers(file, sharing, compact === null)
    return { config, layers, values, origin: { text, fields, metadata: file.metadata, others } }
  } finally {
    await file.close()
  }
}

async function findFile(folder: string): Promise<string> {
  const paths = [PEFT_FILE, COMPACT_FILE].map((name) => join(folder, name))
  const [peft, compact] = await Promise.all(paths.map((path) => stat(path).catch(() => null)))
  if (peft && compact) {
    throw checkpointError(
      folder,
      `expected ${PEFT_FILE} or ${COMPACT_FILE}, got both, as a crash between writing one and removing the other ` +
        `leaves them; remove the older`,
    )
  }
  return compact ? paths[1] : paths[0]
}

/** The layers that a file of PEFT's has tensors of. */
function findLayers(file: SafetensorsFile, order: unknown, config: LilyConfig): LayerShape[] {
  const names = new Set<string>()
  for (const key of file.tensors.keys()) {
    const parsed = parseKey(key)
    if (parsed !== null) names.add(parsed.layer)
  }
  if (names.size === 0) {
    throw checkpointError(file.path, `has no tensor ${PREFIX}<layer>.lily_A.weight; save the adapter with PEFT again`)
  }
  const ordered = order === undefined ? sortByNumbers(names) : readOrder(file, order, names)
  return ordered.map((name) => layerShape(file, name, config))
}

function readOrder({ path }: SafetensorsFile, value: unknown, names: ReadonlySet<string>): string[] {
  if (!Array.isArray(value)) fail('ERR_LILY_ARGUMENT', 'layers', `expected names of layers, got ${describe(value)}`)
  const order = new Set<unknown>()
  for (const name of value as unknown[]) {
    if (!names.has(name as string) || order.has(name)) {
      fail('ERR_LILY_ARGUMENT', 'layers', `expected each layer of ${path} once, got ${describe(name)}`)
    }
    order.add(name)
  }
  const left = [...names].find((name) => !order.has(name))
  if (left !== undefined) fail('ERR_LILY_ARGUMENT', 'layers', `expected all layers of ${path}, got no ${quote(left)}`)
  return [...order] as string[]
}

function layerShape(file: SafetensorsFile, name: string, { r, numB }: LilyConfig): LayerShape {
  const columns = (kind: Kind, rows: number) => {
    const key = keyOf(name, kind)
    const shape = file.tensors.get(key)?.shape
    if (shape === undefined) throw missing(file, key)
    if (shape.length === 2 && shape[0] === rows) return shape[1]
    throw wrongShape(file, key, `[${rows}, ${kind === 'a' ? 'd_in' : 'd_out'}]`, shape)
  }
  return { name, inFeatures: columns('a', r), outFeatures: columns('b', numB * r) }
}

/** What is wrong with the layers is wrong with the folder. */
function shareStored(file: SafetensorsFile, layers: readonly LayerShape[], config: LilyConfig): Sharing {
  let sharing: Sharing
  try {
    sharing = shareLayers(layers, config)
  } catch (cause) {
    if (!(cause instanceof LilyError)) throw cause
    throw checkpointError(file.path, `its layers do not fit ${CONFIG_FILE}: ${cause.message}`, cause)
  }
  const left = layers.find(({ name }) => !sharing.layers.has(name))
  if (left === undefined) return sharing
  throw checkpointError(
    file.path,
    `has tensors of layer ${quote(left.name)}, which target_modules and the other fields of ${CONFIG_FILE} leave out; ` +
      `make them name it`,
  )
}

/** Kept as bytes: they may be of any type. */
async function readOthers(file: SafetensorsFile, sharing: Sharing, withCopies: boolean): Promise<Origin['others']> {
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
