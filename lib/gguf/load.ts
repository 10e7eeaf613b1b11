/** Loads a LoRA adapter from a GGUF file. */
import { MAX_RANK } from '../base/limits.js'
import { type Known, readProperties } from '../base/options.js'
import { openFile, readPath } from '../checkpoint/disk/disk.js'
import { checkpointError, quote, quoteAny } from '../checkpoint/errors.js'
import { classOfData, FILE_DATA, type FileData, openData } from '../checkpoint/file-data.js'
import { checkFinite } from '../checkpoint/finite.js'
import { sortByNumbers } from '../checkpoint/layer-names.js'
import { fill, type OpenFile } from '../checkpoint/open-file.js'
import { readSeed } from '../model/dropout.js'
import type { LayerShape } from '../model/layer-shape.js'
import { readLoraConfig } from '../model/lora-config.js'
import { LORA_SUFFIX } from '../model/lora-layout.js'
import { LoraModel } from '../model/lora-model.js'
import { allocateOnHost } from '../memory/allocate.js'
import { toFloat32 } from '../tensor/numbers.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import {
  type Architecture,
  architectureOf,
  type GgufBase,
  type Heads,
  layerNameOf,
  permutedHeads,
  permuteRows,
} from './architectures.js'
import { readBase } from './config.js'
import { headKeys, KEYS, SUFFIX } from './format.js'
import { type GgufHeader, type GgufTensor, readGgufHeader } from './read.js'

/** Options of {@link loadGguf}. */
export interface LoadGgufOptions {
  /**
   * The base model, as in {@link GgufOptions}: its heads, if the file does not name them. Only architectures whose rows of q
   * and k llama.cpp permutes require them. Files of {@link saveGguf} have them.
   */
  readonly base?: string | URL | GgufBase | undefined
}

const OPTIONS: Known = new Set<keyof LoadGgufOptions>(['base'])

/**
 * Loads a LoRA adapter from a GGUF file, such as one of llama.cpp's convert_lora_to_gguf.py or of {@link saveGguf}, to train it
 * further. A file that saveGguf wrote in float32 gives the same numbers. llama.cpp multiplies by alpha / r of each
 * layer, and so does the model. Layers have the names of Transformers, 'model.layers.0.self_attn.q_proj'.
 *
 * @param file its path, or its content, which must not change until the promise resolves
 * @returns a model on the host, in float32
 * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT for a file that is damaged, no adapter, of another architecture or
 *   with quantised or other tensors; ERR_LILY_ARGUMENT, ERR_LILY_OUT_OF_MEMORY
 * @example
 * const model = await loadGguf('adapter.gguf')
 */
export async function loadGguf(file: string | URL | FileData, options: LoadGgufOptions = {}): Promise<LoraModel> {
  const given = readProperties('options', options, OPTIONS, ({ base }) => base)
  const base = given === undefined ? null : await readBase(given)
  const open = await openGguf(file)
  try {
    const header = await readGgufHeader(open)
    const architecture = checkAdapter(open.path, header.metadata)
    if (base !== null && base.architecture !== architecture) {
      throw checkpointError(
        open.path,
        `expected an adapter of '${base.architecture.name}', as base says, got one of '${architecture.name}'; pass the ` +
          'config.json of its base model',
      )
    }
    const heads = base?.heads ?? headsOf(header, architecture)
    return await modelOf(
      open,
      pairsOf(open.path, header, architecture),
      alphaOf(open.path, header),
      architecture,
      heads,
    )
  } finally {
    await open.close()
  }
}

function openGguf(file: string | URL | FileData): Promise<OpenFile> {
  const type = classOfData(file)
  if (type !== null) {
    return Promise.resolve(openData(type === 'File' ? (file as File).name : type, file as FileData))
  }
  return openFile(readPath('file', file, `a path as a string, a file: URL object, ${FILE_DATA}`))
}

type Metadata = GgufHeader['metadata']

function checkAdapter(path: string, metadata: Metadata): Architecture {
  for (const [key, expected] of [
    [KEYS.type, 'adapter'],
    [KEYS.adapterType, 'lora'],
  ] as const) {
    const value = metadata.get(key)
    if (value === expected) continue
    throw checkpointError(
      path,
      `${key}: expected '${expected}', got ${quoteAny(value)}; pass the file of a LoRA adapter`,
    )
  }
  const name = metadata.get(KEYS.architecture)
  const architecture = typeof name === 'string' ? architectureOf(name) : undefined
  if (architecture !== undefined) return architecture
  throw checkpointError(
    path,
    `${KEYS.architecture}: ${quoteAny(name)} is none of those that this package knows (docs/serving.md)`,
  )
}

function alphaOf(path: string, { metadata }: GgufHeader): number {
  const alpha = metadata.get(KEYS.alpha) ?? 0
  if (typeof alpha === 'number' && Number.isFinite(Math.fround(alpha))) return alpha
  throw checkpointError(path, `${KEYS.alpha}: expected a finite number, got ${quoteAny(alpha)}`)
}

/** The heads that the file names. */
function headsOf({ metadata }: GgufHeader, { name }: Architecture): Heads | null {
  const keys = headKeys(name)
  const [query, key] = [metadata.get(keys.query), metadata.get(keys.key)]
  const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) > 0
  return isCount(query) && isCount(key) ? { query, key } : null
}

/** The matrices of a layer, with the names of their tensors. */
interface Pair {
  readonly shape: LayerShape
  readonly r: number
  readonly a: readonly [string, GgufTensor]
  readonly b: readonly [string, GgufTensor]
}

/** Vectors of norms, which llama.cpp also skips. */
const isNorm = (name: string) => name.endsWith('_norm.weight')

function pairsOf(path: string, { tensors }: GgufHeader, architecture: Architecture): Pair[] {
  const pairs = new Map<string, Partial<Record<'a' | 'b', readonly [string, GgufTensor]>>>()
  for (const [name, found] of tensors) {
    if (isNorm(name)) continue
    const kind = name.endsWith(SUFFIX.a) ? 'a' : name.endsWith(SUFFIX.b) ? 'b' : null
    const layer = kind === null ? null : layerNameOf(architecture, name.slice(0, -SUFFIX[kind].length))
    if (kind === null || layer === null) {
      throw checkpointError(
        path,
        `tensor ${quote(name)}: expected matrices of linear layers of '${architecture.name}', such as ` +
          "'blk.0.attn_q.weight.lora_a'; leave the layer out when you train or convert",
      )
    }
    pairs.set(layer, { ...pairs.get(layer), [kind]: [name, found] as const })
  }
  if (pairs.size === 0) throw checkpointError(path, 'expected tensors of an adapter, got none')
  return sortByNumbers(pairs.keys()).map((layer) => pairOf(path, layer, pairs.get(layer) ?? {}))
}

function pairOf(path: string, layer: string, { a, b }: Partial<Pick<Pair, 'a' | 'b'>>): Pair {
  const [key] = a ?? b ?? ['']
  const wrong = (expected: string, got: string) =>
    checkpointError(path, `tensor ${quote(key)}: expected ${expected}, got ${got}`)
  if (a === undefined || b === undefined) throw wrong(`both ${SUFFIX.a} and ${SUFFIX.b}`, 'one of them')
  const [aShape, bShape] = [a[1].shape, b[1].shape]
  if (aShape.length !== 2 || bShape.length !== 2 || aShape[0] !== bShape[1]) {
    throw wrong('[r, d_in] beside [d_out, r]', `[${aShape.join(', ')}] beside [${bShape.join(', ')}]`)
  }
  if (aShape[0] > MAX_RANK) throw wrong(`a rank of at most ${MAX_RANK}`, String(aShape[0]))
  return { shape: { name: layer, inFeatures: aShape[1], outFeatures: bShape[0] }, r: aShape[0], a, b }
}

async function modelOf(
  file: OpenFile,
  pairs: readonly Pair[],
  alpha: number,
  architecture: Architecture,
  heads: Heads | null,
): Promise<LoraModel> {
  const [{ r }] = pairs
  const names = pairs.map(({ shape }) => shape.name)
  const other = pairs.filter((pair) => pair.r !== r)
  const perLayer = (values: readonly [Pair, number][]) =>
    values.length === 0 ? undefined : new Map(values.map(([{ shape }, value]) => [shape.name, value]))
  const config = readLoraConfig({
    r,
    // llama.cpp does not scale with an alpha of 0.
    loraAlpha: alpha === 0 ? r : alpha,
    rankPattern: perLayer(other.map((pair) => [pair, pair.r])),
    alphaPattern: alpha === 0 ? perLayer(other.map((pair) => [pair, pair.r])) : undefined,
    targetModules: names,
  })
  const values = new Map<string, Tensor>()
  for (const { shape, r: rank, a, b } of pairs) {
    const permuted = permutedHeads(architecture, heads, shape.name, shape.outFeatures)
    const rows = await readMatrix(file, ...b)
    values.set(`${shape.name}.${LORA_SUFFIX.a}`, tensor(await readMatrix(file, ...a), a[1].shape))
    const inOrder = permuted === null ? rows : permuteRows(rows, rank, permuted, 'from')
    values.set(`${shape.name}.${LORA_SUFFIX.b}`, tensor(inOrder, b[1].shape))
  }
  const layers = pairs.map(({ shape }) => shape)
  // A model that was read does not train until train(), as after fromPretrained.
  return LoraModel.fromParts({ config, layers, values, seed: readSeed(undefined) }).eval()
}

async function readMatrix(
  file: OpenFile,
  name: string,
  { type, shape, begin, end }: GgufTensor,
): Promise<Float32Array> {
  const data = allocateOnHost(quote(name), type, shape[0] * shape[1]) as Float32Array | Uint16Array
  await fill(file, new Uint8Array(data.buffer, data.byteOffset, end - begin), begin)
  checkFinite(file.path, name, { dtype: type, shape, data })
  return toFloat32(type, data)
}
