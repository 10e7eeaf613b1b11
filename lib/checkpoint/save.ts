/** Writing of a Lily adapter as PEFT saves it, or in the compact form of this package. */
import { rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, fail } from '../errors.js'
import type { LilyConfig } from '../model/config.js'
import type { LayerShape, Sharing } from '../model/sharing.js'
import type { Tensor } from '../tensor.js'
import { CONFIG_FILE, writeAdapterConfig, writeLoraConfig } from './adapter-config.js'
import { compactMetadata, withoutCompact } from './compact.js'
import { fileSystemError } from './errors.js'
import { keyOf, PREFIX } from './layer-names.js'
import { COMPACT_FILE, PEFT_FILE, type Origin } from './load.js'
import { replaceFiles, synchronizeFolder } from './replace-files.js'
import type { StoredDType } from './safetensors-file.js'
import { writeTensors, type TensorSource } from './safetensors-write.js'

/** How savePretrained writes shared tensors: as PEFT does, once per layer, or once. */
export type CheckpointFormat = 'peft' | 'compact'

/** The parts of a model that a folder holds. */
export interface Saved {
  readonly config: LilyConfig
  readonly sharing: Sharing
  readonly layers: readonly LayerShape[]
  readonly values: ReadonlyMap<string, Tensor>
  /** Of the folder that it was read from. */
  readonly origin?: Origin | undefined
}

const STORED: Readonly<Record<StoredDType, string>> = { float32: 'F32', bfloat16: 'BF16', float16: 'F16' }

/** What PyTorch's files say. */
const PYTORCH: ReadonlyMap<string, string> = new Map([['format', 'pt']])

/**
 * Writes an adapter's folder. The tensors' file takes its name before the configuration does, and the file of the other
 * format, if there is one, is removed last.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT where the file system refuses; then the old files are still there
 */
export async function savePretrained(model: Saved, folder: string, format: CheckpointFormat): Promise<void> {
  const { config, sharing, layers, origin } = model
  const tensors = new Map(origin?.others)
  const metadata = withoutCompact(origin?.metadata ?? PYTORCH)
  if (format === 'compact') metadata.set(...compactMetadata(layers))
  for (const { name, kind, layers: users } of sharing.parameters.values()) {
    const source = sourceOf(model.values.get(name) as Tensor)
    if (format === 'compact') tensors.set(PREFIX + name, source)
    else for (const layer of users) tensors.set(keyOf(layer, kind), source)
  }
  const text = origin?.text ?? writeAdapterConfig(config, sharing)
  await writeFolder(folder, format === 'compact' ? COMPACT_FILE : PEFT_FILE, tensors, metadata, text)
}

/** A LoRA adapter of a layer: a [r, d_in], b [d_out, r]. */
export interface LoraLayer {
  readonly a: Tensor
  readonly b: Tensor
}

/** Writes a folder that PEFT, and what else serves LoRA adapters, can load. */
export async function saveLora(model: Saved, lora: ReadonlyMap<string, LoraLayer>, folder: string): Promise<void> {
  const { config, sharing, origin } = model
  const tensors = new Map(origin?.others)
  for (const [layer, { a, b }] of lora) {
    tensors.set(`${PREFIX}${layer}.lora_A.weight`, sourceOf(a))
    tensors.set(`${PREFIX}${layer}.lora_B.weight`, sourceOf(b))
  }
  await writeFolder(folder, PEFT_FILE, tensors, PYTORCH, writeLoraConfig(config, sharing, origin?.fields))
}

export function readFormat(value: unknown): CheckpointFormat {
  if (value === undefined || value === 'peft') return 'peft'
  if (value === 'compact') return value
  return fail('ERR_LILY_ARGUMENT', 'format', `expected 'peft' or 'compact', got ${describe(value)}`)
}

/** A copy of device memory is made when it is written, a tensor at a time. */
function sourceOf(value: Tensor): TensorSource {
  const { dtype, shape } = value
  const bytes = async () => {
    const { data } = await value.toHost()
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  }
  return { dtype: STORED[dtype as StoredDType], shape, bytes }
}

async function writeFolder(
  folder: string,
  name: string,
  tensors: ReadonlyMap<string, TensorSource>,
  metadata: ReadonlyMap<string, string>,
  config: string,
): Promise<void> {
  await replaceFiles(folder, [
    { name, write: (handle) => writeTensors(join(folder, name), handle, tensors, metadata) },
    { name: CONFIG_FILE, write: (handle) => handle.writeFile(config) },
  ])
  const other = join(folder, name === PEFT_FILE ? COMPACT_FILE : PEFT_FILE)
  if (!(await exists(other))) return
  try {
    await rm(other)
    await synchronizeFolder(folder)
  } catch (cause) {
    throw fileSystemError(other, 'cannot be removed', cause)
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}
