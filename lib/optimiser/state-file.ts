/**
 * The state of AdamW as a safetensors file: the moments of each parameter under its name, the number of steps in the
 * metadata.
 */
import { checkType } from '../base/checks.js'
import { readPath } from '../checkpoint/disk/disk.js'
import { checkpointError, quote } from '../checkpoint/errors.js'
import type { FileData } from '../checkpoint/file-data.js'
import { SafetensorsFile, type StoredTensor } from '../checkpoint/safetensors-file.js'
import { replaceWithTensors, sourceOf, tensorsContent, type TensorSource } from '../checkpoint/safetensors-write.js'
import { toFiles } from '../checkpoint/save.js'
import type { TensorLike } from '../tensor/resolve.js'
import { tensorOf } from '../tensor/tensor.js'
import type { AdamWState } from './adamw.js'
import { MOMENTS, readEntries, readMoments } from './moments.js'

/** The key in the metadata. */
const STEP = 'step'

/** The name of the file that {@link stateFile} makes. */
const STATE_FILE = 'optimiser.safetensors'

/** The names of a parameter's tensors. */
const keyOf = (name: string, moment: string): string => `${name}.${moment}`

/**
 * Saves the state of an optimiser to a safetensors file, whose folder is created if necessary. A failure, or a crash at any
 * time, leaves the file that was there before. Tensors of a device are copied to the host one at a time.
 *
 * Save the adapter with `savePretrained`: training continues from both with the same bits (docs/model.md#optimiser).
 *
 * @param file a path; in the adapter's folder the file is no part of the adapter, and saves of it leave it there
 * @param state what {@link AdamW.state} returns
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DISPOSED; ERR_LILY_CHECKPOINT
 *   if the file cannot be written; ERR_LILY_CUDA. The old file is unchanged then
 * @example
 * await saveState('adapter/optimiser.safetensors', optimiser.state())
 */
export async function saveState(file: string | URL, state: AdamWState<TensorLike>): Promise<void> {
  const path = readPath('file', file)
  const { tensors, metadata } = contentsOf(state)
  await replaceWithTensors(path, tensors, metadata)
}

/**
 * The file that {@link saveState} writes, where there is no file system: for {@link readState}, an upload or a
 * download; see docs/checkpoints.md.
 *
 * @param state what {@link AdamW.state} returns
 * @returns a file with the name 'optimiser.safetensors'
 * @throws LilyError (as a rejection) as saveState
 * @example
 * const files = [...(await model.pretrainedFiles()), await stateFile(optimiser.state())]
 */
export async function stateFile(state: AdamWState<TensorLike>): Promise<File> {
  const { tensors, metadata } = contentsOf(state)
  const [file] = await toFiles([{ name: STATE_FILE, ...tensorsContent(STATE_FILE, tensors, metadata) }])
  return file
}

/**
 * Reads a state that {@link saveState} or {@link stateFile} saved, for {@link AdamW.load}; see docs/model.md#optimiser.
 *
 * @param file a path, or the content of the file
 * @returns a state on the host
 * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT for a file that is no such state, with the name of the tensor;
 *   ERR_LILY_ARGUMENT, ERR_LILY_OUT_OF_MEMORY
 * @example
 * optimiser.load(await readState('adapter/optimiser.safetensors'))
 */
export async function readState(file: string | URL | FileData): Promise<AdamWState<StoredTensor>> {
  const stored = await SafetensorsFile.open(file)
  try {
    const step = readStep(stored)
    const parameters = new Map<string, Record<string, StoredTensor>>()
    for (const key of stored.tensors.keys()) {
      const { name, moment } = splitKey(stored, key)
      parameters.set(name, { ...parameters.get(name), [moment]: await readMoment(stored, key) })
    }
    return { step, parameters: Object.fromEntries(parameters) as AdamWState<StoredTensor>['parameters'] }
  } finally {
    await stored.close()
  }
}

function contentsOf(state: unknown): { tensors: Map<string, TensorSource>; metadata: Map<string, string> } {
  const { step, entries } = readEntries(state)
  const tensors = new Map<string, TensorSource>()
  for (const [name, value] of entries) {
    const moments = readMoments(name, value)
    for (const moment of MOMENTS) {
      checkType(`state.parameters['${name}'].${moment}`, moments[moment], 'float32')
      const key = keyOf(name, moment)
      tensors.set(key, sourceOf(tensorOf(moments[moment]), key))
    }
  }
  return { tensors, metadata: new Map([[STEP, String(step)]]) }
}

function readStep({ path, metadata }: SafetensorsFile): number {
  const text = metadata.get(STEP)
  const step = text !== undefined && /^\d+$/.test(text) ? Number(text) : NaN
  if (Number.isSafeInteger(step)) return step
  throw checkpointError(
    path,
    `expected the number of steps in its metadata as '${STEP}', got ${text === undefined ? 'none' : quote(text)}; pass a ` +
      'file that saveState has written',
  )
}

/** The parameter and the moment of a tensor, whose other moment must be there, too. */
function splitKey({ path, tensors }: SafetensorsFile, key: string): { name: string; moment: string } {
  const dot = key.lastIndexOf('.')
  const [name, moment] = [key.slice(0, dot), key.slice(dot + 1)]
  const expected = MOMENTS.map((each) => keyOf('<parameter>', each)).join(' and ')
  if (dot < 0 || !MOMENTS.some((each) => each === moment)) {
    throw checkpointError(path, `tensor ${quote(key)}: expected ${expected}; pass a file that saveState has written`)
  }
  const missing = MOMENTS.map((each) => keyOf(name, each)).find((each) => !tensors.has(each))
  if (missing === undefined) return { name, moment }
  throw checkpointError(path, `expected ${quote(missing)} beside ${quote(key)}, got none; save the state again`)
}

async function readMoment(file: SafetensorsFile, key: string): Promise<StoredTensor> {
  const stored = file.tensors.get(key)?.dtype
  if (stored === 'F32') return file.read(key)
  throw checkpointError(
    file.path,
    `tensor ${quote(key)}: expected data type F32, got ${String(stored)}; save the state again`,
  )
}
