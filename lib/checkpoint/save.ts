/** Writes an adapter in PEFT's format, or Lily's in the compact format of this package. */
import { plainView } from '../base/dtype.js'
import { get, type Known, readChoice, readFlag, readProperties } from '../base/options.js'
import { checkAttached } from '../memory/operand.js'
import type { AdapterModel } from '../model/adapter-model.js'
import type { LilyModel } from '../model/lily-model.js'
import type { LoraModel } from '../model/lora-model.js'
import { readLoraConfig } from '../model/lora-config.js'
import { LORA_SUFFIX } from '../model/lora-layout.js'
import { TARGETS, type Targets } from '../model/targets.js'
import type { Tensor } from '../tensor/tensor.js'
import { configText, writeAdapterConfig } from './adapter-config.js'
import { compactMetadata, NOT_FOR_PEFT, withoutCompact } from './compact.js'
import { openFile, pathIn, readPath, replaceFiles } from './disk/disk.js'
import { checkpointError, quote } from './errors.js'
import { toFiles } from './file-data.js'
import { COMPACT_FILE, CONFIG_FILE, FROZEN_FILE, OPTIMISER_FILE, PEFT_FILE, PICKLE_FILE } from './files.js'
import { checkFinite } from './finite.js'
import { FROZEN, frozenFile, frozenText } from './frozen.js'
import { keysOf, PREFIX } from './layer-names.js'
import type { Origin } from './load.js'
import { type ModulesToSave, withModules } from './modules-to-save.js'
import type { FileContent } from './open-file.js'
import { type AdamWState, stateContent } from './optimiser-state.js'
import { LILY } from './peft-lily.js'
import { LORA } from './peft-lora.js'
import type { PeftMethod } from './peft-method.js'
import { type PeftTargets, targetsForPeft } from './peft-targets.js'
import { readText } from './read-text.js'
import type { StoredTensor } from './safetensors-file.js'
import { sourceOf, tensorsContent, type TensorSource } from './safetensors-write.js'

/**
 * Options of {@link LilyModel.savePretrained} and {@link LilyModel.pretrainedFiles} and, with the format 'peft', of those of
 * {@link LoraModel}.
 */
export interface SaveOptions<F extends 'peft' | 'compact' = 'peft' | 'compact'> {
  /**
   * 'peft': a shared parameter is written once per layer, as PEFT requires. 'compact': it is written once, to a file
   * that only this package reads. LoRA shares no parameters and has no compact format. Default 'peft'.
   */
  readonly format?: F | undefined
  /**
   * Tensors that travel with the adapter, such as a classifier's head: `{ classifier: { weight, bias } }`, by the name of
   * the module in the base model. PEFT loads them as its modules_to_save. Modules that the adapter was read with are
   * written again unless they are given here; their tensors of other types, such as integers, are written in any case.
   */
  readonly modulesToSave?: ModulesToSave | undefined
  /**
   * The {@link AdamW} that trains the adapter. Its state is saved with the adapter as one: training continues from both
   * with the same bits, see {@link readPretrainedState}. It may also update tensors of `modulesToSave`, by the names
   * '<module>.<tensor>'. Default: none, and the state of an earlier save is removed.
   */
  readonly optimiser?: { state(): AdamWState } | undefined
  /**
   * Replace an adapter of another method that the folder contains, such as LoRA where a Lily model is saved. An adapter of
   * the same method is replaced in any case. Has no effect where there is no folder. Default false.
   */
  readonly replaceOtherMethod?: boolean | undefined
}

const OPTIONS: Known = new Set<keyof SaveOptions>(['format', 'modulesToSave', 'optimiser', 'replaceOtherMethod'])

/** The metadata of files that PyTorch saves. */
const PYTORCH: ReadonlyMap<string, string> = new Map([['format', 'pt']])

/** Writes the folder of a Lily adapter; see {@link LilyModel.savePretrained}. */
export async function saveLily(
  model: LilyModel,
  origin: Origin | undefined,
  to: string | URL,
  options: SaveOptions,
): Promise<void> {
  const folder = readPath('folder', to)
  const files = lilyContents(model, origin, options, inFolder(folder))
  await replaceFolder(folder, files, checkOf(LILY, folder, options))
}

/** The files of a Lily adapter; see {@link LilyModel.pretrainedFiles}. */
export async function lilyFiles(model: LilyModel, origin: Origin | undefined, options: SaveOptions): Promise<File[]> {
  return toFiles(lilyContents(model, origin, options, inNoFolder))
}

/** Writes the folder of a LoRA adapter; see {@link LoraModel.savePretrained}. */
export async function saveLora(
  model: LoraModel,
  origin: Origin | undefined,
  to: string | URL,
  options: SaveOptions<'peft'>,
): Promise<void> {
  const folder = readPath('folder', to)
  const files = loraContents(model, origin, options, inFolder(folder))
  await replaceFolder(folder, files, checkOf(LORA, folder, options))
}

/** The files of a LoRA adapter; see {@link LoraModel.pretrainedFiles}. */
export async function loraFiles(
  model: LoraModel,
  origin: Origin | undefined,
  options: SaveOptions<'peft'>,
): Promise<File[]> {
  return toFiles(loraContents(model, origin, options, inNoFolder))
}

/** Writes a frozen Lily adapter as a LoRA adapter; see {@link LilyModel.saveLora}. */
export async function saveAsLora(model: LilyModel, origin: Origin | undefined, to: string | URL): Promise<void> {
  const folder = readPath('folder', to)
  const files = await asLoraContents(model, origin, inFolder(folder))
  await replaceFolder(folder, files, () => checkMethod(LORA, folder, ''))
}

/** The files of a frozen Lily adapter as a LoRA adapter; see {@link LilyModel.loraFiles}. */
export async function asLoraFiles(model: LilyModel, origin: Origin | undefined): Promise<File[]> {
  return toFiles(await asLoraContents(model, origin, inNoFolder))
}

type Method = Pick<PeftMethod, 'type' | 'name'>

/** What to do where PEFT would read other targets. */
const ADVICE = {
  LILY: "pass create all layers of the base model, and suffixes such as 'q_proj' that end no other one, or save in the format 'compact'",
  LORA: "pass create all layers of the base model, and suffixes such as 'q_proj' or a regular expression",
} as const

/** From the name of a file to what errors call it. */
type PathOf = (name: string) => string

function inFolder(folder: string): PathOf {
  return (name) => pathIn(folder, name)
}

const inNoFolder: PathOf = (name) => name

function lilyContents(
  model: LilyModel,
  origin: Origin | undefined,
  options: SaveOptions,
  pathOf: PathOf,
): FileContent[] {
  const { format, tensors, metadata, config, state } = prepare(
    LILY,
    model,
    origin,
    options,
    ['peft', 'compact'],
    pathOf,
  )
  const frozen = frozenText(model)
  const parameters = [...model.allParameters().values()]
  if (format === 'compact') {
    metadata.set(...compactMetadata(model.layers.values()))
    if (frozen !== null) metadata.set(FROZEN, frozen)
    const path = pathOf(COMPACT_FILE)
    for (const { name, value } of parameters) tensors.set(PREFIX + name, finiteSource(path, name, value))
    return [...adapterContents(COMPACT_FILE, pathOf, tensors, metadata, config), ...state]
  }
  addParameters(pathOf(PEFT_FILE), tensors, model)
  const files = [...adapterContents(PEFT_FILE, pathOf, tensors, metadata, config), ...state]
  return frozen === null ? files : [...files, textContent(FROZEN_FILE, () => frozenFile(frozen, parameters))]
}

function loraContents(
  model: LoraModel,
  origin: Origin | undefined,
  options: SaveOptions<'peft'>,
  pathOf: PathOf,
): FileContent[] {
  const { tensors, metadata, config, state } = prepare(LORA, model, origin, options, ['peft'], pathOf)
  addParameters(pathOf(PEFT_FILE), tensors, model)
  return [...adapterContents(PEFT_FILE, pathOf, tensors, metadata, config), ...state]
}

async function asLoraContents(model: LilyModel, origin: Origin | undefined, pathOf: PathOf): Promise<FileContent[]> {
  const { r, scaling, layers } = await model.exportLora()
  const tensors = new Map(origin?.others)
  for (const [layer, matrices] of layers) {
    for (const kind of ['a', 'b'] as const) {
      const name = `${layer}.${LORA_SUFFIX[kind]}`
      tensors.set(PREFIX + name, finiteSource(pathOf(PEFT_FILE), name, matrices[kind]))
    }
  }
  const fields = TARGETS.map((field) => [field, model.config[field]])
  // PEFT scales by alpha / r.
  const config = readLoraConfig({ ...(Object.fromEntries(fields) as Targets), r, loraAlpha: scaling * r }, true)
  const { targets, difference } = targetsOf(LORA, config, model, origin)
  // The difference that a file has is that of Lily. LoRA shares no parameters: of it PEFT can only leave out other layers.
  if (origin === undefined || config.layersToTransform !== null) checkForPeft(LORA, difference, pathOf)
  const text = configText(LORA, { config, targets }, model.adapterConfig)
  return adapterContents(PEFT_FILE, pathOf, tensors, PYTORCH, text)
}

/** Reads the options of a save, and collects what both kinds of adapters write. */
function prepare<C extends Targets, F extends 'peft' | 'compact'>(
  method: PeftMethod<C>,
  model: AdapterModel & { readonly config: C },
  origin: Origin | undefined,
  options: SaveOptions<F>,
  formats: readonly F[],
  pathOf: PathOf,
) {
  const { format, given, optimiser } = readProperties('options', options, OPTIONS, (properties) => ({
    format: readChoice('format', properties.format, formats, 'peft'),
    given: properties.modulesToSave as ModulesToSave | undefined,
    optimiser: properties.optimiser,
  }))
  const { tensors, modules } = withModules(method, [...model.layers.keys()], origin?.others, given)
  const { config } = model
  const { targets, difference } = targetsOf(method, config, model, origin)
  if (format === 'peft') checkForPeft(method, difference, pathOf)
  const state =
    optimiser === undefined ? [] : [stateContent(pathOf(OPTIMISER_FILE), optimiser, model, new Map(tensors))]
  const metadata = withoutCompact(origin?.metadata ?? PYTORCH)
  if (difference !== null) metadata.set(NOT_FOR_PEFT, difference)
  return { format, tensors, metadata, config: writeAdapterConfig(method, { config, targets }, origin, modules), state }
}

/** The targets to save, and how PEFT would read the model differently. */
function targetsOf<C extends Targets>(
  method: PeftMethod<C>,
  config: C,
  { baseLayers }: Pick<AdapterModel, 'baseLayers'>,
  origin: Origin | undefined,
): PeftTargets {
  const ofModel = targetsForPeft(method, { config, baseLayers })
  if (origin === undefined) return ofModel
  // A file has the difference only in its compact form: what PEFT reads differently is not saved for PEFT.
  const difference = origin.metadata.get(NOT_FOR_PEFT)?.replace(/\p{Cc}/gu, ' ') ?? null
  return { targets: ofModel.targets, difference }
}

function checkForPeft({ type }: Method, difference: string | null, pathOf: PathOf): void {
  if (difference !== null) throw checkpointError(pathOf(CONFIG_FILE), `${difference}; ${ADVICE[type]}`)
}

/** Adds the parameters by PEFT's names: a shared one once for each of its layers. */
function addParameters(path: string, tensors: Map<string, TensorSource>, model: AdapterModel): void {
  for (const parameter of model.allParameters().values()) {
    const { name, value } = parameter
    const [first, ...copies] = keysOf(parameter)
    tensors.set(first, finiteSource(path, name, value))
    for (const copy of copies) tensors.set(copy, sourceOf(value, name))
  }
}

/** A parameter to write. A load refuses infinities and NaN: such a parameter must not replace one that can be loaded. */
function finiteSource(path: string, name: string, value: Tensor): TensorSource {
  const { bytes: bytesOfValue, ...source } = sourceOf(value, name)
  const { dtype, shape } = value
  const bytes = async () => {
    const content = await bytesOfValue()
    checkAttached(name, content)
    const data = plainView(dtype, content) as StoredTensor['data']
    checkFinite(path, PREFIX + name, { dtype, shape, data } as StoredTensor)
    return content
  }
  return { ...source, bytes }
}

/** The tensors, in a file of this name, and the configuration. */
function adapterContents(
  name: string,
  pathOf: PathOf,
  tensors: ReadonlyMap<string, TensorSource>,
  metadata: ReadonlyMap<string, string>,
  config: string,
): FileContent[] {
  return [
    { name, ...tensorsContent(pathOf(name), tensors, metadata) },
    textContent(CONFIG_FILE, () => Promise.resolve(config)),
  ]
}

function textContent(name: string, text: () => Promise<string>): FileContent {
  return {
    name,
    blocks: async function* () {
      yield new TextEncoder().encode(await text())
    },
  }
}

/** Replaces all files of a folder as one. */
async function replaceFolder(
  folder: string,
  files: readonly FileContent[],
  check: (() => Promise<void>) | undefined,
): Promise<void> {
  await replaceFiles(folder, files, otherFiles(files), check)
}

/** The check of a folder before a save; undefined if the options leave it out. */
function checkOf(method: Method, folder: string, options: SaveOptions): (() => Promise<void>) | undefined {
  if (readFlag('replaceOtherMethod', get('options', options, 'replaceOtherMethod'), false)) return undefined
  return () => checkMethod(method, folder, ', or set replaceOtherMethod to replace that adapter')
}

/** Rejects a folder that contains an adapter of another method, of which a save would leave nothing. */
async function checkMethod({ type, name }: Method, folder: string, advice: string): Promise<void> {
  const path = pathIn(folder, CONFIG_FILE)
  const text = await openFile(path)
    .then((file) => readText(file, 'the configuration'))
    .catch(() => '')
  const other = /"peft_type"\s*:\s*"([^"]*)"/.exec(text)?.[1] ?? type
  if (other === type) return
  throw checkpointError(
    path,
    `expected no adapter of another method than ${name} in the folder, got peft_type ${quote(other)}; choose another ` +
      `folder${advice}`,
  )
}

/** The files of an adapter's folder that a save does not write: they belong to the adapter that it replaces. */
function otherFiles(files: readonly FileContent[]): string[] {
  const all = [PEFT_FILE, COMPACT_FILE, FROZEN_FILE, OPTIMISER_FILE, PICKLE_FILE]
  return all.filter((other) => !files.some(({ name }) => name === other))
}
