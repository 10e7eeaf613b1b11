/** Writes an adapter in PEFT's format, or Lily's in the compact format of this package. */
import { plainView } from '../base/dtype.js'
import { type Known, readChoice, readFlag, readProperties } from '../base/options.js'
import { checkAttached } from '../memory/operand.js'
import type { AdapterModel } from '../model/adapter-model.js'
import type { LilyModel } from '../model/lily-model.js'
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
import { type ModulesToSave, withModules } from './modules-to-save.js'
import type { FileContent } from './open-file.js'
import { type AdamWState, stateContent } from './optimiser-state.js'
import { LORA } from './peft-lora.js'
import type { PeftMethod } from './peft-method.js'
import { type PeftTargets, targetsForPeft } from './peft-targets.js'
import { readText } from './read-text.js'
import type { StoredTensor } from './safetensors-file.js'
import { sourceOf, tensorsContent, type TensorSource } from './safetensors-write.js'

/**
 * Options of {@link LilyModel.savePretrained} and {@link LilyModel.pretrainedFiles}. The same methods of {@link LoraModel}
 * accept them with the format 'peft'.
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

/** Writes the folder of an adapter; see {@link LilyModel.savePretrained}. */
export async function saveAdapter<C extends Targets>(
  method: PeftMethod<C>,
  model: Adapter<C>,
  to: string | URL,
  options: SaveOptions,
): Promise<void> {
  const folder = readPath('folder', to)
  const files = adapterContents(method, model, options, inFolder(folder))
  const replaces = readFlag('replaceOtherMethod', options.replaceOtherMethod, false)
  const check = () => checkMethod(method, folder, ', or set replaceOtherMethod to replace that adapter')
  await replaceFiles(folder, files, otherFiles(files), replaces ? undefined : check)
}

/** The files of an adapter; see {@link LilyModel.pretrainedFiles}. */
export async function adapterFiles<C extends Targets>(
  method: PeftMethod<C>,
  model: Adapter<C>,
  options: SaveOptions,
): Promise<File[]> {
  return toFiles(adapterContents(method, model, options, inNoFolder))
}

/** Writes a frozen Lily adapter as a LoRA adapter; see {@link LilyModel.saveLora}. */
export async function saveAsLora(model: LilyModel, to: string | URL): Promise<void> {
  const folder = readPath('folder', to)
  const files = await asLoraContents(model, inFolder(folder))
  await replaceFiles(folder, files, otherFiles(files), () => checkMethod(LORA, folder, ''))
}

/** The files of a frozen Lily adapter as a LoRA adapter; see {@link LilyModel.loraFiles}. */
export async function asLoraFiles(model: LilyModel): Promise<File[]> {
  return toFiles(await asLoraContents(model, inNoFolder))
}

type Adapter<C extends Targets> = AdapterModel & { readonly config: C }

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

function adapterContents<C extends Targets>(
  method: PeftMethod<C>,
  model: Adapter<C>,
  options: SaveOptions,
  pathOf: PathOf,
): FileContent[] {
  const { origin } = model
  const { format, given, optimiser } = readProperties('options', options, OPTIONS, (properties) => ({
    format: readChoice('format', properties.format, method.isShared ? ['peft', 'compact'] : ['peft'], 'peft'),
    given: properties.modulesToSave as ModulesToSave | undefined,
    optimiser: properties.optimiser,
  }))
  const { tensors, modules } = withModules(method, [...model.layers.keys()], origin?.others, given)
  const { config } = model
  const { targets, difference } = targetsOf(method, config, model)
  if (format === 'peft') {
    const reason = method.notForPeft(config)
    if (reason !== null) throw checkpointError(pathOf(CONFIG_FILE), reason)
    checkForPeft(method, difference, pathOf)
  }
  const others = new Map(tensors)
  const state = optimiser === undefined ? [] : [stateContent(pathOf(OPTIMISER_FILE), optimiser, model, others)]
  const metadata = withoutCompact(origin?.metadata ?? PYTORCH)
  if (difference !== null) metadata.set(NOT_FOR_PEFT, difference)
  const text = writeAdapterConfig(method, { config, targets }, origin, modules)
  const frozen = frozenText(model.layers.values())
  const parameters = [...model.allParameters().values()]
  const file = format === 'compact' ? COMPACT_FILE : PEFT_FILE
  const path = pathOf(file)
  if (format === 'compact') {
    metadata.set(...compactMetadata(Array.from(model.layers.values(), ({ shape }) => shape)))
    if (frozen !== null) metadata.set(FROZEN, frozen)
  }
  for (const parameter of parameters) {
    const { name, value } = parameter
    // PEFT's files have a shared parameter once for each of its layers.
    const [first, ...copies] = format === 'compact' ? [PREFIX + name] : keysOf(parameter)
    tensors.set(first, finiteSource(path, name, value))
    for (const copy of copies) tensors.set(copy, sourceOf(value, name))
  }
  const files = [...contentsOf(file, path, tensors, metadata, text), ...state]
  if (frozen === null || format === 'compact') return files
  return [...files, textContent(FROZEN_FILE, () => frozenFile(frozen, parameters))]
}

async function asLoraContents(model: LilyModel, pathOf: PathOf): Promise<FileContent[]> {
  const { origin } = model
  const path = pathOf(PEFT_FILE)
  const { r, scaling, layers } = await model.exportLora()
  const tensors = new Map(origin?.others)
  for (const [layer, matrices] of layers) {
    for (const kind of ['a', 'b'] as const) {
      const name = `${layer}.${LORA_SUFFIX[kind]}`
      tensors.set(PREFIX + name, finiteSource(path, name, matrices[kind]))
    }
  }
  const fields = TARGETS.map((field) => [field, model.config[field]])
  // PEFT scales by alpha / r.
  const config = readLoraConfig({ ...(Object.fromEntries(fields) as Targets), r, loraAlpha: scaling * r }, true)
  const { targets, difference } = targetsOf(LORA, config, model)
  // A file states the difference for Lily. LoRA shares no parameters, so PEFT can only leave out other layers.
  if (origin === undefined || config.layersToTransform !== null) checkForPeft(LORA, difference, pathOf)
  const text = configText(LORA, { config, targets }, model.adapterConfig)
  return contentsOf(PEFT_FILE, path, tensors, PYTORCH, text)
}

/** The targets to save, and how PEFT would read the model differently. */
function targetsOf<C extends Targets>(
  method: PeftMethod<C>,
  config: C,
  { baseLayers, origin }: Pick<AdapterModel, 'baseLayers' | 'origin'>,
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
function contentsOf(
  name: string,
  path: string,
  tensors: ReadonlyMap<string, TensorSource>,
  metadata: ReadonlyMap<string, string>,
  config: string,
): FileContent[] {
  return [{ name, ...tensorsContent(path, tensors, metadata) }, textContent(CONFIG_FILE, () => Promise.resolve(config))]
}

function textContent(name: string, text: () => Promise<string>): FileContent {
  return {
    name,
    blocks: async function* () {
      yield new TextEncoder().encode(await text())
    },
  }
}

/** Rejects a folder that contains an adapter of another method, which saving would overwrite. */
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
