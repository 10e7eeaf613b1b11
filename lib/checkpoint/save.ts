/** Writes a Lily adapter to a folder in PEFT's format, or in the compact format of this package. */
import { type FileHandle, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { checkKeys, type Known, readChoice } from '../base/options.js'
import type { LilyModel } from '../model/model.js'
import { CONFIG_FILE, writeAdapterConfig, writeLoraConfig } from './adapter-config.js'
import { compactMetadata, withoutCompact } from './compact.js'
import { checkpointError } from './errors.js'
import { keyOf, PREFIX } from './layer-names.js'
import { COMPACT_FILE, type Origin, PEFT_FILE } from './load.js'
import { replaceFiles } from './replace-files.js'
import { sourceOf, type TensorSource, writeTensors } from './safetensors-write.js'

/** Options of {@link LilyModel.savePretrained}. */
export interface SaveOptions {
  /**
   * 'peft': a shared parameter is written once per layer, as PEFT requires. 'compact': it is written once, to a file
   * that only this package reads. Default 'peft'.
   */
  readonly format?: 'peft' | 'compact' | undefined
}

const OPTIONS: Known = new Set<keyof SaveOptions>(['format'])

/** Metadata of files that PyTorch writes. */
const PYTORCH: ReadonlyMap<string, string> = new Map([['format', 'pt']])

/** Writes an adapter's folder; see {@link LilyModel.savePretrained}. */
export async function savePretrained(
  model: LilyModel,
  origin: Origin | undefined,
  folder: string,
  options: SaveOptions,
): Promise<void> {
  checkKeys('options', options, OPTIONS)
  const isCompact = readChoice(options, 'format', ['peft', 'compact'], 'peft') === 'compact'
  const tensors = new Map(origin?.others)
  const metadata = withoutCompact(origin?.metadata ?? PYTORCH)
  if (isCompact) metadata.set(...compactMetadata(model.layers.values()))
  for (const { name, kind, layers, value } of model.parameters().values()) {
    const source = sourceOf(value)
    if (isCompact) tensors.set(PREFIX + name, source)
    else for (const layer of layers) tensors.set(keyOf(layer, kind), source)
  }
  const text = origin?.text ?? writeAdapterConfig(model)
  await writeFolder(folder, isCompact ? COMPACT_FILE : PEFT_FILE, tensors, metadata, text)
}

/** Writes a folder with a LoRA adapter in PEFT's format; see {@link LilyModel.saveLora}. */
export async function saveLora(model: LilyModel, origin: Origin | undefined, folder: string): Promise<void> {
  const lora = await model.exportLora()
  await checkNoLilyAdapter(folder)
  const tensors = new Map(origin?.others)
  for (const [layer, { a, b }] of lora.layers) {
    tensors.set(`${PREFIX}${layer}.lora_A.weight`, sourceOf(a))
    tensors.set(`${PREFIX}${layer}.lora_B.weight`, sourceOf(b))
  }
  await writeFolder(folder, PEFT_FILE, tensors, PYTORCH, writeLoraConfig(model))
}

/** Rejects a folder that contains a Lily adapter. */
async function checkNoLilyAdapter(folder: string): Promise<void> {
  const path = join(folder, CONFIG_FILE)
  const text = await readFile(path, 'utf8').catch(() => '')
  if (!/"peft_type"\s*:\s*"LILY"/.test(text)) return
  throw checkpointError(
    path,
    'expected no Lily adapter in the folder: LoRA would replace it and cannot restore it; choose another folder',
  )
}

/** Replaces the tensor file, then the configuration, and removes the tensor file of the other format. */
async function writeFolder(
  folder: string,
  name: string,
  tensors: ReadonlyMap<string, TensorSource>,
  metadata: ReadonlyMap<string, string>,
  config: string,
): Promise<void> {
  const files = [
    { name, write: (handle: FileHandle) => writeTensors(join(folder, name), handle, tensors, metadata) },
    { name: CONFIG_FILE, write: (handle: FileHandle) => handle.writeFile(config) },
  ]
  await replaceFiles(folder, files, [name === PEFT_FILE ? COMPACT_FILE : PEFT_FILE])
}
