/** Adapter folders of the tests. */
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { replaceWithTensors, type TensorSource } from '../../lib/checkpoint/safetensors-write.js'
import { SafetensorsFile } from '../../lib/index.js'
import { runs } from './runs.js'
import { temporaryFolder } from './temporary.js'

/** The output of PEFT's save_pretrained. */
export const GOLDEN = fileURLToPath(new URL('../fixtures/golden/peft_checkpoint', import.meta.url))

/** Random problems of a suite. */
export const RUNS = runs(60, 500)

export const CONFIG = 'adapter_config.json'
export const TENSORS = 'adapter_model.safetensors'

let parent: string | undefined

/** A new empty folder. */
export function newFolder(): string {
  return mkdtempSync(join((parent ??= temporaryFolder()), 'adapter-'))
}

/** A writable copy of PEFT's folder. */
export function goldenCopy(): string {
  return copyOf(GOLDEN)
}

function copyOf(source: string): string {
  const folder = newFolder()
  // The files may be read-only, so do not copy their modes.
  for (const name of [CONFIG, TENSORS]) writeFileSync(join(folder, name), readFileSync(join(source, name)))
  return folder
}

export function readFields(folder: string): Record<string, unknown> {
  return JSON.parse(readFileSync(join(folder, CONFIG), 'utf8')) as Record<string, unknown>
}

/** A copy of a folder, with modified fields of the configuration. */
export function withFields(fields: object, of = GOLDEN): string {
  const folder = copyOf(of)
  writeFileSync(join(folder, CONFIG), JSON.stringify({ ...readFields(folder), ...fields }))
  return folder
}

/** A copy of a folder, with tensors modified by `change`. */
export async function withTensors(change: (tensors: Map<string, TensorSource>) => void, of = GOLDEN): Promise<string> {
  const folder = copyOf(of)
  const { tensors, metadata } = await contentsOf(join(of, TENSORS))
  change(tensors)
  await replaceWithTensors(join(folder, TENSORS), tensors, metadata)
  return folder
}

/** The contents of a safetensors file, to write it again. */
export async function contentsOf(path: string) {
  const file = await SafetensorsFile.open(path)
  const tensors = new Map<string, TensorSource>()
  for (const [name, { dtype, shape }] of file.tensors) {
    const bytes = await file.readBytes(name)
    tensors.set(name, { dtype, shape, bytes: () => bytes })
  }
  await file.close()
  return { tensors, metadata: file.metadata }
}

/** A tensor with these bytes. */
export function bytesOf(dtype: string, shape: readonly number[], data: ArrayBufferView): TensorSource {
  return { dtype, shape, bytes: () => new Uint8Array(data.buffer, data.byteOffset, data.byteLength) }
}
