/** Reads an adapter in PEFT's format, or in the compact format of this package. */
import { type DType, readFloatDType } from '../base/dtype.js'
import { describe, fail, LilyError } from '../base/errors.js'
import { checkKeys, elementsOf, type Known, type Properties } from '../base/options.js'
import { readSeed } from '../model/dropout.js'
import type { LayerShape } from '../model/layer-shape.js'
import type { Layout } from '../model/layout.js'
import type { Targets } from '../model/targets.js'
import { cast } from '../tensor/cast.js'
import { type FloatDType, firstNotFinite } from '../tensor/numbers.js'
import type { Tensor } from '../tensor/tensor.js'
import { type AdapterConfig, readAdapterConfig, withFieldName } from './adapter-config.js'
import { type AdapterFiles, FOLDER, type PretrainedFiles, readFiles } from './adapter-files.js'
import { compactLayers } from './compact.js'
import { readPath, withFolder } from './disk/disk.js'
import { checkpointError, quote } from './errors.js'
import { COMPACT_FILE, CONFIG_FILE, FROZEN_FILE, PEFT_FILE } from './files.js'
import { type Frozen, FROZEN, readFrozenFile, readFrozenMetadata } from './frozen.js'
import { hasMarker, isInner, layerOfKey, PREFIX, sortByNumbers, suffixesOf, suffixText } from './layer-names.js'
import { withinListed } from './modules-to-save.js'
import { type AdapterTensors, missingTensor, readParameters, wrongShape } from './parameters.js'
import type { PeftMethod, StoredShape } from './peft-method.js'
import { readText } from './read-text.js'
import { SafetensorsFile } from './safetensors-file.js'
import type { TensorSource } from './safetensors-write.js'

/** The contents of an adapter's files other than parameters, which saving the model writes again unchanged. */
export interface Origin extends Pick<AdapterConfig, 'text' | 'fields'> {
  /** Metadata of the tensor file. */
  readonly metadata: ReadonlyMap<string, string>
  /** Tensors that are not parameters of the adapter, such as modules_to_save and resized embeddings. */
  readonly others: ReadonlyMap<string, TensorSource>
}

export interface Pretrained<C extends Targets> {
  /** The method of the adapter. */
  readonly method: PeftMethod<C>
  readonly config: C
  /** In the order in which they share A. */
  readonly layers: readonly LayerShape[]
  /** By parameter name. */
  readonly values: ReadonlyMap<string, Tensor>
  /** Seed of dropout. */
  readonly seed: number
  /** The layers that are frozen. */
  readonly frozen: Frozen
  readonly origin: Origin
}

/** Options of {@link AdapterModel.fromPretrained}, {@link LilyModel.fromPretrained} and {@link LoraModel.fromPretrained}. */
export interface LoadOptions {
  /**
   * Names of all layers of the adapter, in the order in which the base model calls them. The order determines which
   * layers of Lily share an A; PEFT's file does not contain it. Default: sorted by the numbers in their names, layers.2 before
   * layers.10. The compact format contains the order; an order with another sharing is then refused.
   */
  readonly layers?: readonly string[] | undefined
  /**
   * Type of the parameters: 'float32', 'bfloat16' or 'float16'. A file of another type, or of several, is converted as by
   * {@link cast}. Default: the type of the file, which must then be one.
   */
  readonly dtype?: DType | undefined
  /**
   * Seed of dropout, from 0 to 2^32 - 1, for a training that goes on from the file; see {@link readPretrainedState}. Default:
   * random.
   */
  readonly seed?: number | undefined
}

const OPTIONS: Known = new Set<keyof LoadOptions>(['layers', 'dtype', 'seed'])

/**
 * Reads an adapter of one of these methods; see {@link LilyModel.fromPretrained}.
 *
 * @param methods the methods among which the configuration chooses
 */
export async function loadPretrained<C extends Targets>(
  methods: readonly PeftMethod<C>[],
  from: string | URL | PretrainedFiles,
  options: LoadOptions,
): Promise<Pretrained<C>> {
  const use = readFrom(from)
  checkKeys('options', options, OPTIONS)
  const { layers: order, dtype, seed: givenSeed }: Properties = options
  const seed = readSeed(givenSeed)
  const type = dtype === undefined ? null : readFloatDType('dtype', dtype)
  const { method, config, text, fields, file, frozenFile } = await use((files) => openAdapter(methods, files))
  try {
    const adapter = { method, file, config }
    const compact = method.isShared ? compactLayers(file) : null
    const shapes = compact ?? findLayers(adapter, order)
    const layout = layOut(adapter, shapes, fields.modules_to_save)
    if (compact !== null && order !== undefined) checkOrder(adapter, order, layout)
    const stored = await readParameters(adapter, layout, compact === null, type === null)
    const others = await readOthers(adapter, layout, compact === null)
    // Frozen weights belong to the parameters as they are in the file.
    const frozen = await readFrozen(file, frozenFile, layout, stored)
    const values = type === null ? stored : converted(file, stored, type)
    const origin = { text, fields, metadata: file.metadata, others }
    return { method, config, layers: shapes, values, seed, frozen, origin }
  } finally {
    await file.close()
  }
}

/** An adapter whose layers are not known yet. */
interface Unread<C extends Targets> extends AdapterTensors {
  readonly method: PeftMethod<C>
  readonly config: C
}

/** Reads where the files are. Returns what calls a function with them. */
export function readFrom(
  from: string | URL | PretrainedFiles,
): <T>(use: (files: AdapterFiles) => Promise<T>) => Promise<T> {
  const files = readFiles('folder', from)
  if (files !== null) return (use) => use(files)
  const folder = readPath('folder', from, FOLDER)
  return (use) => withFolder(folder, use)
}

interface OpenAdapter<C extends Targets> extends AdapterConfig<C> {
  readonly method: PeftMethod<C>
  readonly file: SafetensorsFile
  /** The text of the file of frozen weights and its path. */
  readonly frozenFile: { readonly path: string; readonly text: string } | null
}

/** Reads the small files and opens the tensors. */
async function openAdapter<C extends Targets>(
  methods: readonly PeftMethod<C>[],
  files: AdapterFiles,
): Promise<OpenAdapter<C>> {
  const config = await readAdapterConfig(methods, await files.open(CONFIG_FILE))
  const { method } = config
  const isCompact = method.isShared && (await files.has(COMPACT_FILE))
  if (isCompact && (await files.has(PEFT_FILE))) {
    throw checkpointError(files.name, `expected ${PEFT_FILE} or ${COMPACT_FILE}, got both; remove the older one`)
  }
  const frozen = method.isShared && (await files.has(FROZEN_FILE)) ? await files.open(FROZEN_FILE) : null
  const frozenFile = frozen === null ? null : { path: frozen.path, text: await readText(frozen, 'the file') }
  const file = await SafetensorsFile.from(await files.open(isCompact ? COMPACT_FILE : PEFT_FILE))
  return { ...config, file, frozenFile }
}

async function readFrozen(
  { path, metadata }: SafetensorsFile,
  frozenFile: OpenAdapter<Targets>['frozenFile'],
  { parameters, layers }: Layout,
  values: ReadonlyMap<string, Tensor>,
): Promise<Frozen> {
  const text = metadata.get(FROZEN)
  const valued = [...parameters.values()].map((each) => ({ ...each, value: values.get(each.name) as Tensor }))
  const experts = valued.find(({ kind }) => kind === 'router')?.shape[0]
  if (experts === undefined) return new Map()
  if (text !== undefined) return readFrozenMetadata(path, text, new Set(layers.keys()), experts)
  return frozenFile === null ? new Map() : readFrozenFile(frozenFile.path, frozenFile.text, valued, experts)
}

/** The layers that have tensors in a file of PEFT's format. */
function findLayers<C extends Targets>(adapter: Unread<C>, order: unknown): LayerShape[] {
  const { method, file, config } = adapter
  const names = new Set<string>()
  for (const key of file.tensors.keys()) {
    const layer = layerOfKey(method, key)
    if (layer !== null) names.add(layer)
  }
  if (names.size === 0) {
    const other = [...file.tensors.keys()].find((key) => hasMarker(method, key))
    if (other !== undefined) throw strangeTensor(adapter, other)
    throw checkpointError(
      file.path,
      `expected tensors ${PREFIX}<layer>.${String(method.suffixes.a)}, got none; save the adapter with PEFT again`,
    )
  }
  const inner = [...names].find((name) => isInner(name, names))
  if (inner !== undefined) {
    throw checkpointError(
      file.path,
      `expected adapters of linear layers, got layer ${quote(inner)} inside of another one; adapters of ` +
        'torch.nn.MultiheadAttention and of parameters are not supported',
    )
  }
  const ordered = order === undefined ? sortByNumbers(names) : readOrder(file, order, names)
  const shapesOf = method.shapes(config)
  return ordered.map((name) => {
    const { a, b } = fitting(adapter, () => shapesOf(name))
    return { name, inFeatures: sizeOf(adapter, name, 'a', a), outFeatures: sizeOf(adapter, name, 'b', b) }
  })
}

/** Reads the option `layers`, which must name each layer of the file once. */
function readOrder({ path }: SafetensorsFile, value: unknown, names: ReadonlySet<string>): string[] {
  const given = elementsOf(value)
  if (given === null) fail('ERR_LILY_ARGUMENT', 'layers', `expected names of layers, got ${describe(value)}`)
  const order = new Set<unknown>()
  for (const name of given) {
    if (!names.has(name as string) || order.has(name)) {
      fail('ERR_LILY_ARGUMENT', 'layers', `expected the name of each layer of ${path} once, got ${describe(name)}`)
    }
    order.add(name)
  }
  const omitted = [...names].find((name) => !order.has(name))
  if (omitted !== undefined) {
    fail('ERR_LILY_ARGUMENT', 'layers', `expected all layers of ${path}, got none named ${quote(omitted)}`)
  }
  return [...order] as string[]
}

/** Checks the option `layers` against a file that contains the order: the same layers share parameters in both. */
function checkOrder<C extends Targets>({ method, file, config }: Unread<C>, value: unknown, { layers }: Layout): void {
  const order = readOrder(file, value, new Set(layers.keys()))
  const shapes = order.flatMap((name) => layers.get(name) ?? [])
  const given = method.layOut(
    shapes.map(({ name, inFeatures, outFeatures }) => ({ name, inFeatures, outFeatures })),
    config,
  )
  const other = shapes.find(({ name, a, b }) => a !== given.layers.get(name)?.a || b !== given.layers.get(name)?.b)
  if (other === undefined) return
  fail(
    'ERR_LILY_ARGUMENT',
    'layers',
    `expected the order that ${file.path} contains, got one in which ${quote(other.name)} has other parameters; leave it out`,
  )
}

/** A size of a layer, from the shape of one of its tensors. */
function sizeOf(adapter: AdapterTensors, layer: string, kind: 'a' | 'b', { axis, other }: StoredShape): number {
  const { method, file } = adapter
  const key = `${PREFIX}${layer}.${String(method.suffixes[kind])}`
  const shape = file.tensors.get(key)?.shape
  if (shape === undefined) throw missingTensor(adapter, key)
  if (shape.length === 2 && shape[1 - axis] === other) return shape[axis]
  const size = kind === 'a' ? 'd_in' : 'd_out'
  throw wrongShape(file, key, axis === 1 ? `[${other}, ${size}]` : `[${size}, ${other}]`, shape)
}

/** What a function of the configuration returns for the layers of the file. Its errors become errors about the file. */
function fitting<T>({ method, file }: AdapterTensors, call: () => T): T {
  try {
    return call()
  } catch (cause) {
    if (!(cause instanceof LilyError)) throw cause
    const message = withFieldName(method.fields, cause)
    throw checkpointError(file.path, `its layers do not fit ${CONFIG_FILE}: ${message}`, cause)
  }
}

/** Assigns parameters to the layers of the file. */
function layOut<C extends Targets>(adapter: Unread<C>, layers: readonly LayerShape[], modulesToSave: unknown): Layout {
  const { method, file, config } = adapter
  const isSaved = withinListed(modulesToSave)
  const { layout, saved } = fitting(adapter, () => ({
    layout: method.layOut(layers, config),
    saved: layers.find(({ name }) => isSaved(name)),
  }))
  if (saved !== undefined) {
    throw checkpointError(
      file.path,
      `expected no adapter where PEFT has none, got layer ${quote(saved.name)} in a module that modules_to_save of ` +
        `${CONFIG_FILE} lists; correct that field, or remove the tensors of the layer`,
    )
  }
  const excluded = layers.find(({ name }) => !layout.layers.has(name))
  if (excluded === undefined) return layout
  throw checkpointError(
    file.path,
    `expected tensors of adapted layers only, got layer ${quote(excluded.name)}, which ${CONFIG_FILE} excludes; ` +
      'correct its target_modules, exclude_modules or layers_to_transform',
  )
}

/** The parameters in another type, whose range must hold them: a model of infinities could not be saved. */
function converted(
  { path }: SafetensorsFile,
  stored: ReadonlyMap<string, Tensor>,
  dtype: DType,
): ReadonlyMap<string, Tensor> {
  const values = new Map<string, Tensor>()
  for (const [name, value] of stored) {
    const result = value.dtype === dtype ? value : cast(value, dtype as FloatDType)
    if (firstNotFinite(dtype as FloatDType, result.data as Float32Array | Uint16Array) !== -1) {
      fail(
        'ERR_LILY_ARGUMENT',
        'dtype',
        `expected a type whose range holds the numbers of ${quote(name)} in ${path}, got '${dtype}'; leave it out or ` +
          `load 'float32'`,
      )
    }
    values.set(name, result)
  }
  return values
}

/** Reads the tensors that are not parameters of the adapter, as bytes, since they may have any type. */
async function readOthers(
  adapter: AdapterTensors,
  { parameters, layers }: Layout,
  withCopies: boolean,
): Promise<Origin['others']> {
  const { method, file } = adapter
  const known = new Set([...parameters.keys()].map((name) => PREFIX + name))
  const suffixes = suffixesOf(method)
  if (withCopies)
    for (const layer of layers.keys()) for (const [, end] of suffixes) known.add(`${PREFIX}${layer}.${end}`)

  const others = new Map<string, TensorSource>()
  for (const [key, { dtype, shape }] of file.tensors) {
    if (known.has(key)) continue
    if (hasMarker(method, key)) throw strangeTensor(adapter, key)
    const bytes = await file.readBytes(key)
    others.set(key, { dtype, shape, bytes: () => bytes })
  }
  return others
}

/** The error about a tensor of the method that is no parameter. */
function strangeTensor({ method, file }: AdapterTensors, key: string): LilyError {
  const variant = method.variantOf(key)
  const advice = variant === null ? 'rename or remove it' : `${variant} is not supported`
  const names = `${PREFIX}<layer>${suffixText(method, 'or')}`
  return checkpointError(file.path, `tensor ${quote(key)}: expected ${names}; ${advice}`)
}
