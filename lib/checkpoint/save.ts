/** Writes an adapter to a folder in PEFT's format, or Lily's in the compact format of this package. */
import { join } from 'node:path'
import { checkKeys, get, type Known, readChoice } from '../base/options.js'
import type { AdapterModel } from '../model/adapter-model.js'
import type { LilyModel } from '../model/lily-model.js'
import type { LoraModel } from '../model/lora-model.js'
import { readLoraConfig } from '../model/lora-config.js'
import { LORA_SUFFIX } from '../model/lora-layout.js'
import { TARGETS, type Targets } from '../model/targets.js'
import { configText, writeAdapterConfig } from './adapter-config.js'
import { compactMetadata, withoutCompact } from './compact.js'
import { checkpointError } from './errors.js'
import { COMPACT_FILE, CONFIG_FILE, FROZEN_FILE, PEFT_FILE } from './files.js'
import { FROZEN, frozenFile, frozenText } from './frozen.js'
import { keysOf, PREFIX } from './layer-names.js'
import type { Origin } from './load.js'
import { type ModulesToSave, withModules } from './modules-to-save.js'
import { readPath } from './paths.js'
import { LILY } from './peft-lily.js'
import { LORA } from './peft-lora.js'
import type { PeftMethod } from './peft-method.js'
import { readText } from './read-text.js'
import { type FileContent, replaceFiles } from './replace-files.js'
import { sourceOf, tensorsWriter, type TensorSource } from './safetensors-write.js'

/** Options of {@link LilyModel.savePretrained} and, with the format 'peft', of {@link LoraModel.savePretrained}. */
export interface SaveOptions<F extends 'peft' | 'compact' = 'peft' | 'compact'> {
  /**
   * 'peft': a shared parameter is written once per layer, as PEFT requires. 'compact': it is written once, to a file
   * that only this package reads. LoRA shares no parameters and has no compact format. Default 'peft'.
   */
  readonly format?: F | undefined
  /**
   * Tensors that travel with the adapter, such as a classifier's head: `{ classifier: { weight, bias } }`, by the name of
   * the module in the base model. PEFT loads them as its modules_to_save. Modules that the adapter was read with are
   * written again unless they are given here.
   */
  readonly modulesToSave?: ModulesToSave | undefined
}

const OPTIONS: Known = new Set<keyof SaveOptions>(['format', 'modulesToSave'])

/** The metadata of files that PyTorch saves. */
const PYTORCH: ReadonlyMap<string, string> = new Map([['format', 'pt']])

/** Writes the folder of a Lily adapter; see {@link LilyModel.savePretrained}. */
export async function saveLily(
  model: LilyModel,
  origin: Origin | undefined,
  to: string | URL,
  options: SaveOptions,
): Promise<void> {
  const { folder, format, tensors, metadata, config } = prepare(LILY, model, origin, to, options, ['peft', 'compact'])
  const frozen = frozenText(model)
  const parameters = [...model.allParameters().values()]
  if (format === 'compact') {
    metadata.set(...compactMetadata(model.layers.values()))
    if (frozen !== null) metadata.set(FROZEN, frozen)
    for (const { name, value } of parameters) tensors.set(PREFIX + name, sourceOf(value, name))
    await replaceFolder(folder, COMPACT_FILE, tensors, metadata, config)
    return
  }
  addParameters(tensors, model)
  const frozenFiles: FileContent[] =
    frozen === null
      ? []
      : [
          {
            name: FROZEN_FILE,
            write: async (handle) => handle.writeFile(await frozenFile(frozen, parameters)),
          },
        ]
  await replaceFolder(folder, PEFT_FILE, tensors, metadata, config, frozenFiles)
}

/** Writes the folder of a LoRA adapter; see {@link LoraModel.savePretrained}. */
export async function saveLora(
  model: LoraModel,
  origin: Origin | undefined,
  to: string | URL,
  options: SaveOptions<'peft'>,
): Promise<void> {
  const { folder, tensors, metadata, config } = prepare(LORA, model, origin, to, options, ['peft'])
  addParameters(tensors, model)
  await replaceFolder(folder, PEFT_FILE, tensors, metadata, config, [], () => checkNoLilyAdapter(folder))
}

/** Writes a frozen Lily adapter as a LoRA adapter; see {@link LilyModel.saveLora}. */
export async function saveAsLora(model: LilyModel, origin: Origin | undefined, to: string | URL): Promise<void> {
  const folder = readPath('folder', to)
  const { r, scaling, layers } = await model.exportLora()
  const tensors = new Map(origin?.others)
  for (const [layer, matrices] of layers) {
    for (const kind of ['a', 'b'] as const) {
      tensors.set(`${PREFIX}${layer}.${LORA_SUFFIX[kind]}`, sourceOf(matrices[kind], layer))
    }
  }
  const targets = TARGETS.map((field) => [field, model.config[field]])
  // PEFT scales by alpha / r.
  const config = readLoraConfig({ ...(Object.fromEntries(targets) as Targets), r, loraAlpha: scaling * r })
  const text = configText(LORA, { config, layers: model.layers }, model.adapterConfig)
  await replaceFolder(folder, PEFT_FILE, tensors, PYTORCH, text, [], () => checkNoLilyAdapter(folder))
}

/** Reads the arguments of a save, and collects what both kinds of adapters write. */
function prepare<C extends Targets, F extends 'peft' | 'compact'>(
  method: PeftMethod<C>,
  model: AdapterModel & { readonly config: C },
  origin: Origin | undefined,
  to: string | URL,
  options: SaveOptions<F>,
  formats: readonly F[],
) {
  const folder = readPath('folder', to)
  checkKeys('options', options, OPTIONS)
  const format = readChoice(options, 'format', formats, 'peft')
  const given = get('options', options, 'modulesToSave') as ModulesToSave | undefined
  const { tensors, modules } = withModules(method, origin?.others, given)
  const metadata = withoutCompact(origin?.metadata ?? PYTORCH)
  return { folder, format, tensors, metadata, config: writeAdapterConfig(method, model, origin, modules) }
}

/** Adds the parameters by PEFT's names: a shared one once for each of its layers. */
function addParameters(tensors: Map<string, TensorSource>, model: AdapterModel): void {
  for (const parameter of model.allParameters().values()) {
    const source = sourceOf(parameter.value, parameter.name)
    for (const key of keysOf(parameter)) tensors.set(key, source)
  }
}

/** Replaces all files of a folder as one. */
async function replaceFolder(
  folder: string,
  name: string,
  tensors: ReadonlyMap<string, TensorSource>,
  metadata: ReadonlyMap<string, string>,
  config: string,
  more: readonly FileContent[] = [],
  check?: () => Promise<void>,
): Promise<void> {
  const files: FileContent[] = [
    { name, write: tensorsWriter(join(folder, name), tensors, metadata) },
    { name: CONFIG_FILE, write: (handle) => handle.writeFile(config) },
    ...more,
  ]
  await replaceFiles(folder, files, otherFiles(files), check)
}

/** Rejects a folder that contains a Lily adapter. */
async function checkNoLilyAdapter(folder: string): Promise<void> {
  const path = join(folder, CONFIG_FILE)
  const text = await readText(path, 'the configuration').catch(() => '')
  if (!/"peft_type"\s*:\s*"LILY"/.test(text)) return
  throw checkpointError(
    path,
    'expected no Lily adapter in the folder: LoRA would replace it and cannot restore it; choose another folder',
  )
}

/** The files of an adapter's folder that a save does not write: they belong to the adapter that it replaces. */
function otherFiles(files: readonly FileContent[]): string[] {
  return [PEFT_FILE, COMPACT_FILE, FROZEN_FILE].filter((other) => !files.some(({ name }) => name === other))
}
