/** Reads and checks the parameters in a safetensors file. */
import { LilyError } from '../base/errors.js'
import { shapeText } from '../base/shape.js'
import type { Layout } from '../model/layout.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import { checkpointError, quote, quoteSome } from './errors.js'
import { CONFIG_FILE } from './files.js'
import { checkFinite } from './finite.js'
import { keysOf, PREFIX, suffixText } from './layer-names.js'
import type { PeftMethod } from './peft-method.js'
import type { SafetensorsFile, StoredTensor } from './safetensors-file.js'

/** A file of tensors, and the method that its adapter is of. */
export interface AdapterTensors {
  readonly method: Pick<PeftMethod, 'fields' | 'suffixes' | 'marker' | 'variantOf'>
  readonly file: SafetensorsFile
}

/**
 * Reads each parameter once.
 *
 * @param withCopies whether the file has a copy of a shared parameter for each layer. All copies are compared with the
 *   first
 * @param isOneType whether all tensors must have the same type
 * @returns the values by parameter name
 */
export async function readParameters(
  from: AdapterTensors,
  { parameters }: Layout,
  withCopies: boolean,
  isOneType: boolean,
): Promise<ReadonlyMap<string, Tensor>> {
  const { file } = from
  const values = new Map<string, Tensor>()
  const first = parameters.keys().next().value as string
  for (const parameter of parameters.values()) {
    const [key, ...copies] = keysOf(parameter)
    checkEntry(from, key, parameter.shape, isOneType ? PREFIX + first : key)
    const stored = await file.read(key)
    checkFinite(file.path, key, stored)
    if (withCopies) await checkCopies(from, key, stored, copies)
    values.set(parameter.name, tensor(stored.data, stored.shape, stored.dtype))
  }
  return values
}

export function missingTensor({ method, file }: AdapterTensors, key: string): LilyError {
  return checkpointError(
    file.path,
    `expected a tensor ${quote(key)}, got none; save the adapter with ${suffixText(method, 'and')} for each layer`,
  )
}

export function wrongShape(file: SafetensorsFile, key: string, expected: string, got: readonly number[]): LilyError {
  return tensorError(
    file,
    key,
    `expected shape ${expected}, from ${CONFIG_FILE} and the layer's sizes, got ${shapeText(got)}; ` +
      `use both files of one adapter`,
  )
}

/** Checks the shape and the type of a tensor. All tensors must have the type of the tensor `first`. */
function checkEntry(from: AdapterTensors, key: string, expected: readonly number[], first: string): void {
  const { file } = from
  const entry = file.tensors.get(key)
  if (entry === undefined) throw missingTensor(from, key)
  const { shape, dtype } = entry
  if (shape.length !== 2 || shape[0] !== expected[0] || shape[1] !== expected[1]) {
    throw wrongShape(file, key, shapeText(expected), shape)
  }
  const all = file.tensors.get(first)?.dtype
  if (dtype !== all) {
    throw tensorError(
      file,
      key,
      `expected ${String(all)}, as ${quote(first)} is, got ${dtype}; pass the type to load all of them in as { dtype }`,
    )
  }
}

/** Checks that the copies of a shared parameter are bit-identical. */
async function checkCopies(
  from: AdapterTensors,
  key: string,
  { data }: StoredTensor,
  copies: readonly string[],
): Promise<void> {
  const { file } = from
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  const differing: string[] = []
  for (const copy of copies) {
    if (!file.tensors.has(copy)) throw missingTensor(from, copy)
    if (!(await file.hasBytes(copy, bytes))) differing.push(copy)
  }
  if (differing.length === 0) return
  throw tensorError(
    file,
    key,
    `expected an equal copy in each of the ${copies.length} other layers that share it, got different ones in ` +
      `${quoteSome(differing)}; pass the names of all layers in the order of the model ` +
      `as { layers }, if it is not the order of the numbers in the names`,
  )
}

function tensorError(file: SafetensorsFile, key: string, message: string): LilyError {
  return checkpointError(file.path, `tensor ${quote(key)}: ${message}`)
}
