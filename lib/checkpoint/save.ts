/** Writing of a Lily adapter as PEFT saves it, or in the compact form of this package. */
import { type FileHandle, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { checkKeys, type Known, readChoice } from '../base/options.js'
import type { LilyModel } from '../model/model.js'
import { CONFIG_FILE, writeAdapterConfig, writeLoraConfig } from './adapter-config.js'
import { compactMetadata, withoutCompact } from './compact.js'
import { checkpointError } from './errors.js'
import { keyOf, PREFIX } from './layer-names.js'
import { COMPACT_FILE, type Origin, PEFT_FILE } from './load.js'
import { readPath } from './paths.js'
import { replaceFiles } from './replace-files.js'
import { sourceOf, type TensorSource, writeTensors } from './safetensors-write.js'

/** Options of {@link LilyModel.savePretrained}. */
export interface SaveOptions {
  /**
   * 'peft': shared parameters once per layer, as PEFT writes and reads them. 'compact': once, in a file that only this
   * package reads. Default 'peft'.
   */
  readonly format?: 'peft' | 'compact' | undefined
}

const OPTIONS: Known = new Set<keyof SaveOptions>(['format'])

/** What PyTorch's files say. */
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

/** Writes an adapter's folder of PEFT's LoRA; see {@link LilyModel.saveLora}. */
export async function saveLora(model: LilyModel, origin: Origin | undefined, to: string | URL): Promise<void> {
  const folder = readPath('folder', to)
  const lora = await model.exportLora()
  await refuseLily(folder)
  const tensors = new Map(origin?.others)
  for (const [layer, { a, b }] of lora.layers) {
    tensors.set(`${PREFIX}${layer}.lora_A.weight`, sourceOf(a))
    tensors.set(`${PREFIX}${layer}.lora_B.weight`, sourceOf(b))
  }
  await writeFolder(folder, PEFT_FILE, tensors, PYTORCH, writeLoraConfig(model))
}

async function refuseLily(folder: string): Promise<void> {
  const path = join(folder, CONFIG_FILE)
  const text = await readFile(path, 'utf8').catch(() => '')
  if (!/"peft_type"\s*:\s*"LILY"/.test(text)) return
  throw checkpointError(path, 'is of a Lily adapter, of which LoRA would hold less; choose another folder')
}

/** The tensors take their name before the configuration does; then the file of the other format goes. */
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
