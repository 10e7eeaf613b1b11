/** Saves an adapter as a GGUF file, which llama.cpp, and so node-llama-cpp, loads as a LoRA adapter. */
import { bytesOf } from '../base/dtype.js'
import { type Known, readChoice, readProperties } from '../base/options.js'
import { readPath, replaceFile } from '../checkpoint/disk/disk.js'
import { checkpointError, quote } from '../checkpoint/errors.js'
import { toFiles } from '../checkpoint/file-data.js'
import { checkFinite } from '../checkpoint/finite.js'
import type { FileContent } from '../checkpoint/open-file.js'
import { type AdapterModel, checkModel } from '../model/adapter-model.js'
import { LilyModel } from '../model/lily-model.js'
import { exportLora } from '../model/lora-export.js'
import type { Parameter } from '../model/parameter.js'
import { copyFloat32, fromFloat32 } from '../tensor/numbers.js'
import type { Tensor } from '../tensor/tensor.js'
import { type Base, type GgufBase, permutedHeads, permuteRows, tensorNameOf } from './architectures.js'
import { readBase } from './config.js'
import { headKeys, KEYS, SUFFIX } from './format.js'
import { contentOf, type MatrixSource, type MetadataValue } from './write.js'

/** Options of {@link saveGguf} and {@link ggufFile}. */
export interface GgufOptions {
  /**
   * The base model: the path of its config.json, or the fields of that file. llama.cpp names the layers by the
   * architecture, and for some it permutes the rows of q and k by the number of heads.
   */
  readonly base: string | URL | GgufBase
  /** Type of the numbers in the file. Default 'float32'. */
  readonly dtype?: 'float32' | 'float16' | undefined
}

const OPTIONS: Known = new Set<keyof GgufOptions>(['base', 'dtype'])
const TYPES = ['float32', 'float16'] as const
type FileType = (typeof TYPES)[number]

/** One layer of LoRA: y += scaling (x A^T) B^T. */
interface LoraLayerSource {
  readonly name: string
  readonly r: number
  readonly scaling: number
  readonly inFeatures: number
  readonly outFeatures: number
  /** [r, d_in] and [d_out, r], when they are written. */
  readonly a: () => Promise<Float32Array>
  readonly b: () => Promise<Float32Array>
}

/**
 * Saves an adapter as a GGUF file for llama.cpp and node-llama-cpp. LoRA as it is, and Lily whose mixtures are constant, with
 * routing 'uniform' or 'learned' or frozen, exactly: A, and C^T with C = sum_e w_e B_e (docs/serving.md). A failure, or a
 * crash at any time, leaves the file that was there before.
 *
 * @param path of the file
 * @param model a LoraModel or a LilyModel; do not change its parameters until the promise resolves
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT for a base model whose architecture this package does not know, a layer
 *   that llama.cpp adapts in no such model, or a Lily model whose mixtures depend on the input: freeze it first;
 *   ERR_LILY_CHECKPOINT if the file cannot be written, or a number is not finite in its type; ERR_LILY_DISPOSED,
 *   ERR_LILY_CUDA. The old file is unchanged then
 * @example
 * await saveGguf('adapter.gguf', model, { base: 'Llama-3.2-1B/config.json', dtype: 'float16' })
 */
export async function saveGguf(path: string | URL, model: AdapterModel, options: GgufOptions): Promise<void> {
  const file = readPath('path', path)
  await replaceFile(file, await ggufContent(file, model, options))
}

/**
 * The file that {@link saveGguf} writes, where there is no file system: for a download.
 *
 * @param model a LoraModel or a LilyModel; do not change its parameters until the promise resolves
 * @returns a file with the name 'adapter.gguf'
 * @throws LilyError (as a rejection) as saveGguf
 * @example
 * const file = await ggufFile(model, { base: { model_type: 'qwen3' } })
 */
export async function ggufFile(model: AdapterModel, options: GgufOptions): Promise<File> {
  const name = 'adapter.gguf'
  const [file] = await toFiles([{ name, ...(await ggufContent(name, model, options)) }])
  return file
}

async function ggufContent(path: string, model: unknown, options: GgufOptions): Promise<Omit<FileContent, 'name'>> {
  checkModel(model)
  const read = readProperties('options', options, OPTIONS, ({ base, dtype }) => ({
    base,
    dtype: readChoice('dtype', dtype, TYPES, 'float32' as const),
  }))
  const base = await readBase(read.base)
  const layers = model instanceof LilyModel ? await lilyLayers(model) : loraLayers(model)
  const alpha = alphaOf(layers)
  return {
    blocks: contentOf(
      metadataOf(base, alpha),
      layers.flatMap((layer) => matricesOf(path, layer, base, alpha, read.dtype)),
    ),
  }
}

async function lilyLayers(model: LilyModel): Promise<LoraLayerSource[]> {
  const { r, scaling, layers } = await exportLora(model)
  return Array.from(layers, ([name, { a, b }]) => ({
    ...{ name, r, scaling, inFeatures: a.shape[1], outFeatures: b.shape[0] },
    a: () => valuesOf(a),
    b: () => valuesOf(b),
  }))
}

function loraLayers(model: AdapterModel): LoraLayerSource[] {
  model.allParameters() // fails if it is disposed of
  const ofParameter = (parameter: Parameter) => () => valuesOf(parameter.value)
  return Array.from(model.layers.values(), ({ name, scaling, inFeatures, outFeatures, a, b }) => ({
    ...{ name, r: a.value.shape[0], scaling, inFeatures, outFeatures },
    a: ofParameter(a),
    b: ofParameter(b),
  }))
}

async function valuesOf(tensor: Tensor): Promise<Float32Array> {
  const { dtype, data } = await tensor.toHost()
  return copyFloat32(dtype, data)
}

/**
 * The one alpha of a file: llama.cpp multiplies by alpha / r of each layer. It is s r of most layers, whose B is then written
 * as it is. llama.cpp ignores an alpha of 0, so that one is in B.
 */
function alphaOf(layers: readonly LoraLayerSource[]): number {
  const counts = new Map<number, number>()
  for (const { scaling, r } of layers) {
    const alpha = Math.fround(scaling * r)
    if (alpha !== 0 && Number.isFinite(alpha)) counts.set(alpha, (counts.get(alpha) ?? 0) + 1)
  }
  const [[alpha] = [layers[0].r]] = [...counts].sort(([, left], [, right]) => right - left)
  return alpha
}

function metadataOf({ architecture, heads }: Base, alpha: number): Map<string, MetadataValue> {
  const { name, permutes } = architecture
  const metadata = new Map<string, MetadataValue>([
    [KEYS.architecture, name],
    [KEYS.type, 'adapter'],
    [KEYS.adapterType, 'lora'],
    [KEYS.alpha, { float32: alpha }],
  ])
  // So that loadGguf can put the rows back.
  if (permutes && heads !== null) {
    metadata.set(headKeys(name).query, { uint32: heads.query })
    metadata.set(headKeys(name).key, { uint32: heads.key })
  }
  return metadata
}

/** A and B of a layer. B has the part of the scaling that alpha does not have. */
function matricesOf(
  path: string,
  { name, r, scaling, inFeatures, outFeatures, a, b }: LoraLayerSource,
  base: Base,
  alpha: number,
  type: FileType,
): MatrixSource[] {
  const tensor = tensorNameOf(base, name)
  const permuted = permutedHeads(base.architecture, base.heads, name, outFeatures)
  const factor = Math.fround(scaling * r) === alpha ? 1 : (scaling * r) / alpha
  const matrix = (suffix: string, rows: number, columns: number, values: () => Promise<Float32Array>): MatrixSource => {
    const key = tensor + suffix
    const bytes = async () => bytesIn(path, key, type, [rows, columns], await values())
    return { name: key, type, rows, columns, bytes }
  }
  const scaledB = async () => {
    const values = await b()
    if (factor !== 1) for (let i = 0; i < values.length; i++) values[i] *= factor
    return permuted === null ? values : permuteRows(values, r, permuted, 'to')
  }
  return [matrix(SUFFIX.a, r, inFeatures, a), matrix(SUFFIX.b, outFeatures, r, scaledB)]
}

/** The bytes of a matrix in the type of the file. */
function bytesIn(
  path: string,
  key: string,
  dtype: FileType,
  shape: [number, number],
  values: Float32Array,
): Uint8Array {
  checkFinite(path, key, { dtype: 'float32', shape, data: values })
  const data = fromFloat32(dtype, values) as Float32Array | Uint16Array
  if (dtype === 'float16' && data.some((bits) => (bits & 0x7c00) === 0x7c00)) {
    throw checkpointError(
      path,
      `tensor ${quote(key)}: expected numbers up to 65504, the largest float16, got larger ones; save as 'float32'`,
    )
  }
  return bytesOf(data)
}
