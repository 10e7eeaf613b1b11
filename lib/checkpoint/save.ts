/** Writes a Lily adapter to a folder in PEFT's format, or in the compact format of this package. */
import { join } from 'node:path'
import { checkKeys, get, type Known, readChoice } from '../base/options.js'
import type { LilyModel } from '../model/lily-model.js'
import { writeAdapterConfig, writeLoraConfig } from './adapter-config.js'
import { compactMetadata, withoutCompact } from './compact.js'
import { checkpointError } from './errors.js'
import { COMPACT_FILE, CONFIG_FILE, FROZEN_FILE, PEFT_FILE } from './files.js'
import { FROZEN, frozenFile, frozenText } from './frozen.js'
import { keyOf, PREFIX } from './layer-names.js'
import type { Origin } from './load.js'
import { type ModulesToSave, withModules } from './modules-to-save.js'
import { readPath } from './paths.js'
import { readText } from './read-text.js'
import { type FileContent, replaceFiles } from './replace-files.js'
import { sourceOf, tensorsWriter } from './safetensors-write.js'

/** Options of {@link LilyModel.savePretrained}. */
export interface SaveOptions {
  /**
   * 'peft': a shared parameter is written once per layer, as PEFT requires. 'compact': it is written once, to a file
   * that only this package reads. Default 'peft'.
   */
  readonly format?: 'peft' | 'compact' | undefined
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

/** Writes an adapter's folder; see {@link LilyModel.savePretrained}. */
export async function savePretrained(
  model: LilyModel,
  origin: Origin | undefined,
  to: string | URL,
  options: SaveOptions,
): Promise<void> {
  const folder = readPath('folder', to)
  checkKeys('options', options, OPTIONS)
  const isCompact = readChoice(options, 'format', ['peft', 'compact'], 'peft') === 'compact'
  const given = get('options', options, 'modulesToSave') as ModulesToSave | undefined
  const { tensors, modules } = withModules(origin?.others, given)
  const metadata = withoutCompact(origin?.metadata ?? PYTORCH)
  const frozen = frozenText(model)
  if (isCompact) {
    metadata.set(...compactMetadata(model.layers.values()))
    if (frozen !== null) metadata.set(FROZEN, frozen)
  }
  for (const { name, kind, layers, value } of model.allParameters().values()) {
    const source = sourceOf(value, name)
    if (isCompact) tensors.set(PREFIX + name, source)
    else for (const layer of layers) tensors.set(keyOf(layer, kind), source)
  }
  const config = writeAdapterConfig(model, origin, modules)
  const name = isCompact ? COMPACT_FILE : PEFT_FILE
  const files: FileContent[] = [
    { name, write: tensorsWriter(join(folder, name), tensors, metadata) },
    { name: CONFIG_FILE, write: (handle) => handle.writeFile(config) },
  ]
  if (frozen !== null && !isCompact) {
    const write: FileContent['write'] = async (handle) =>
      handle.writeFile(await frozenFile(frozen, model.allParameters().values()))
    files.push({ name: FROZEN_FILE, write })
  }
  await replaceFiles(folder, files, otherFiles(files))
}

/** Writes a folder with a LoRA adapter in PEFT's format; see {@link LilyModel.saveLora}. */
export async function saveLora(model: LilyModel, origin: Origin | undefined, to: string | URL): Promise<void> {
  const folder = readPath('folder', to)
  const lora = await model.exportLora()
  const tensors = new Map(origin?.others)
  for (const [layer, { a, b }] of lora.layers) {
    tensors.set(`${PREFIX}${layer}.lora_A.weight`, sourceOf(a, layer))
    tensors.set(`${PREFIX}${layer}.lora_B.weight`, sourceOf(b, layer))
  }
  const config = writeLoraConfig(model)
  const files: FileContent[] = [
    { name: PEFT_FILE, write: tensorsWriter(join(folder, PEFT_FILE), tensors, PYTORCH) },
    { name: CONFIG_FILE, write: (handle) => handle.writeFile(config) },
  ]
  await replaceFiles(folder, files, otherFiles(files), () => checkNoLilyAdapter(folder))
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
