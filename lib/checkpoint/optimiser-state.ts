/**
 * The state of AdamW as a safetensors file: the moments of each parameter under its name, the number of steps in the
 * metadata. Beside an adapter it also has a digest of the tensors of the adapter, and the state of its dropout.
 */
import { checkShape, checkType } from '../base/checks.js'
import { bytesOf } from '../base/dtype.js'
import { countOf, describe, fail, reading } from '../base/errors.js'
import { checkKeys, entriesOf, type Known, type Properties } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import { summarised } from '../base/summary.js'
import type { Operand } from '../memory/operand.js'
import { type AdapterModel, checkModel } from '../model/adapter-model.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import { type Tensor, tensorOf } from '../tensor/tensor.js'
import type { PretrainedFiles } from './adapter-files.js'
import { digestOf } from './digest.js'
import { readPath } from './disk/disk.js'
import { checkpointError, quote } from './errors.js'
import { type FileData, toFiles } from './file-data.js'
import { OPTIMISER_FILE } from './files.js'
import { PREFIX } from './layer-names.js'
import { readFrom } from './load.js'
import type { FileContent } from './open-file.js'
import { SafetensorsFile, type StoredTensor } from './safetensors-file.js'
import { replaceWithTensors, sourceOf, tensorsContent, type TensorSource } from './safetensors-write.js'

/** State of {@link AdamW}: {@link AdamW.state} returns it, {@link AdamW.load} restores it. */
export interface AdamWState<T extends TensorLike = Tensor> {
  /** Number of steps done. */
  readonly step: number
  /**
   * By parameter name: running means of the gradient (`expAvg`) and of its square (`expAvgSq`), float32, of the
   * parameter's shape.
   */
  readonly parameters: Readonly<Record<string, { readonly expAvg: T; readonly expAvgSq: T }>>
}

/** Creates a state, with a short form in the console. */
export function stateOf<T extends TensorLike>(
  step: number,
  parameters: Iterable<readonly [name: string, moments: { readonly expAvg: T; readonly expAvgSq: T }]>,
): AdamWState<T> {
  return summarised({ step, parameters: Object.fromEntries(parameters) }, ({ step, parameters }) => {
    return `AdamWState { step ${step}, moments of ${countOf(Object.keys(parameters).length, 'parameter')} }`
  })
}

export const MOMENTS = ['expAvg', 'expAvgSq'] as const
const KEYS: Known = new Set(MOMENTS)
const STATE: Known = new Set(['step', 'parameters'])

/** Running means of a parameter's gradient and of its square. */
export type Moments = Readonly<Record<(typeof MOMENTS)[number], Operand>>

const STEP = 'step'

/** The tensor with the digest of the adapter that the state belongs to. */
const DIGEST = 'adapter_sha256'

/** The tensor with the random state of dropout, int32 [4], of a model whose rate is not 0. */
const DROPOUT = 'dropout_state'

const keyOf = (name: string, moment: string): string => `${name}.${moment}`

/**
 * Saves the state of an optimiser to a safetensors file, whose folder is created if necessary. A failure, or a crash at any
 * time, leaves the file that was there before. Tensors of a device are copied to the host one at a time.
 *
 * This is for an optimiser of several adapters, or of other parameters. The state of one that trains an adapter is saved
 * with the adapter, as a whole, by `savePretrained(folder, { optimiser })`. This file does not have the random state of
 * dropout: keep the four words of `(await model.dropoutState.toHost()).data`; see docs/model.md#optimiser.
 *
 * @param state what {@link AdamW.state} returns
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DISPOSED; ERR_LILY_CHECKPOINT
 *   if the file cannot be written; ERR_LILY_CUDA. The old file is unchanged then
 * @example
 * await saveState('optimiser.safetensors', optimiser.state())
 */
export async function saveState(file: string | URL, state: AdamWState<TensorLike>): Promise<void> {
  const path = readPath('file', file)
  const { tensors, metadata } = contentsOf(readEntries(state))
  await replaceWithTensors(path, tensors, metadata)
}

/**
 * The file that {@link saveState} writes, where there is no file system: for {@link readState}, an upload or a
 * download. `pretrainedFiles({ optimiser })` has the state of an optimiser that trains one adapter.
 *
 * @param state what {@link AdamW.state} returns
 * @returns a file with the name 'optimiser.safetensors'
 * @throws LilyError (as a rejection) as saveState
 * @example
 * const file = await stateFile(optimiser.state())
 */
export async function stateFile(state: AdamWState<TensorLike>): Promise<File> {
  const { tensors, metadata } = contentsOf(readEntries(state))
  const [file] = await toFiles([{ name: OPTIMISER_FILE, ...tensorsContent(OPTIMISER_FILE, tensors, metadata) }])
  return file
}

/**
 * Reads a state that {@link saveState} or {@link stateFile} saved, for {@link AdamW.load}; see docs/model.md#optimiser.
 *
 * @param file a path, or the content of the file
 * @returns a state on the host
 * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT for a file that is no such state, with the name of the tensor, and
 *   for one that was saved with an adapter, which {@link readPretrainedState} reads; ERR_LILY_ARGUMENT,
 *   ERR_LILY_OUT_OF_MEMORY
 * @example
 * optimiser.load(await readState('optimiser.safetensors'))
 */
export async function readState(file: string | URL | FileData): Promise<AdamWState<StoredTensor>> {
  const stored = await SafetensorsFile.open(file)
  try {
    if (!stored.tensors.has(DIGEST)) return await readContents(stored)
    throw checkpointError(
      stored.path,
      'belongs to the adapter that it was saved with; read it with readPretrainedState(folder, model)',
    )
  } finally {
    await stored.close()
  }
}

/**
 * Reads the state that `savePretrained(folder, { optimiser })` saved with an adapter, for {@link AdamW.load}, and restores
 * the random state of the model's dropout. It must belong to the parameters of the model as they are: call this before the
 * first step.
 *
 * @param folder that the model was read from: its path, or the files in place of it
 * @param model that `fromPretrained` returned, without a conversion to another `dtype`
 * @returns a state on the host
 * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT if the folder has no state, or the state of other parameters
 *   than the model has, as when a process has saved in the meantime; ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED, ERR_LILY_CUDA,
 *   ERR_LILY_OUT_OF_MEMORY
 * @example
 * const model = await LilyModel.fromPretrained('checkpoint')
 * const optimiser = new AdamW(model.parameters(), options)
 * optimiser.load(await readPretrainedState('checkpoint', model))
 * model.train() // if it has dropout
 */
export async function readPretrainedState(
  folder: string | URL | PretrainedFiles,
  model: AdapterModel,
): Promise<AdamWState<StoredTensor>> {
  const use = readFrom(folder)
  checkModel(model)
  const stored = await use(async (files) => {
    if (await files.has(OPTIMISER_FILE)) return SafetensorsFile.from(await files.open(OPTIMISER_FILE))
    throw checkpointError(
      files.name,
      `expected ${OPTIMISER_FILE} beside the adapter, got none; save it with savePretrained(folder, { optimiser })`,
    )
  })
  try {
    const digest = await digestOf(stored.path, model.allParameters().values(), model.origin?.others)
    if (stored.tensors.has(DIGEST) && (await stored.hasBytes(DIGEST, digest))) {
      const state = await readContents(stored)
      const words = await readDropout(stored)
      if (words !== null) model.dropout.restore(words)
      return state
    }
    throw checkpointError(
      stored.path,
      'expected the state that was saved with the parameters of the model, got the state of other parameters; load ' +
        'the model from the same folder, in the type of its file, and read the state before the first step',
    )
  } finally {
    await stored.close()
  }
}

/**
 * The state of an optimiser as a file beside an adapter.
 *
 * @param others tensors of the adapter's files that are not parameters
 * @throws LilyError if the optimiser updates a tensor that is not in these files
 */
export function stateContent(
  path: string,
  optimiser: unknown,
  model: AdapterModel,
  others: ReadonlyMap<string, TensorSource>,
): FileContent {
  const parameters = model.allParameters()
  const isObject = typeof optimiser === 'object' && optimiser !== null
  const state = isObject ? (optimiser as Properties).state : undefined
  if (typeof state !== 'function') {
    const remedy = isObject && 'adamw' in optimiser ? 'pass its adamw' : 'pass the optimiser itself'
    fail('ERR_LILY_ARGUMENT', 'optimiser', `expected an AdamW, got ${describe(optimiser)}; ${remedy}`)
  }
  const { step, entries } = readEntries(reading('optimiser', (): unknown => Reflect.apply(state, optimiser, [])))
  for (const [name, value] of entries) {
    const shape = parameters.get(name)?.value.shape ?? others.get(PREFIX + name)?.shape
    if (shape === undefined) {
      fail(
        'ERR_LILY_ARGUMENT',
        'optimiser',
        `expected one of the parameters of the model and the tensors of modulesToSave, got one that updates ` +
          `${quote(name)}; pass it in modulesToSave under its name ('head.weight' as { head: { weight } }; name a ` +
          'tf.Variable so), or save the state alone with saveState',
      )
    }
    checkShape(`optimiser's ${quote(name)}`, readMoments(name, value).expAvg, shape)
  }
  const { tensors, metadata } = contentsOf({ step, entries })
  const digest = () => digestOf(path, parameters.values(), others)
  tensors.set(DIGEST, { dtype: 'U8', shape: [32], bytes: digest })
  if (model.dropout.rate > 0) {
    const words = model.dropout.copyState()
    tensors.set(DROPOUT, { dtype: 'I32', shape: [4], bytes: async () => bytesOf(await words) })
  }
  return { name: OPTIMISER_FILE, ...tensorsContent(path, tensors, metadata) }
}

function contentsOf({ step, entries }: ReturnType<typeof readEntries>): {
  tensors: Map<string, TensorSource>
  metadata: Map<string, string>
} {
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

/**
 * Reads a state that the caller passed: the number of steps, and what it has for each parameter, which {@link readMoments}
 * reads.
 */
export function readEntries(state: unknown): { step: number; entries: Map<string, unknown> } {
  checkKeys('state', state, STATE)
  // An optimiser: checkKeys does not see the methods of a class.
  if (typeof state.state === 'function') {
    fail('ERR_LILY_ARGUMENT', 'state', `expected what state() returns, got ${describe(state)}; pass optimiser.state()`)
  }
  const { step } = state
  if (!Number.isSafeInteger(step) || (step as number) < 0) {
    fail('ERR_LILY_ARGUMENT', 'state.step', `expected an integer from 0, got ${describe(step)}`)
  }
  const given = state.parameters as Readonly<Record<string, unknown>>
  return { step: step as number, entries: new Map(entriesOf('state.parameters', given)) }
}

/** Reads the moments of one parameter from a state that the caller passed. They are checked by {@link checkMoments}. */
export function readMoments(name: string, value: unknown): Moments {
  const argument = `state.parameters['${name}']`
  checkKeys(argument, value, KEYS)
  const read = (moment: string) => resolve(`${argument}.${moment}`, value[moment])
  return { expAvg: read('expAvg'), expAvgSq: read('expAvgSq') }
}

async function readContents(stored: SafetensorsFile): Promise<AdamWState<StoredTensor>> {
  const step = readStep(stored)
  const parameters = new Map<string, Record<string, StoredTensor>>()
  for (const key of stored.tensors.keys()) {
    if (key === DIGEST || key === DROPOUT) continue
    const { name, moment } = splitKey(stored, key)
    parameters.set(name, { ...parameters.get(name), [moment]: await readMoment(stored, key) })
  }
  return stateOf<StoredTensor>(step, parameters as Map<string, { expAvg: StoredTensor; expAvgSq: StoredTensor }>)
}

/** The state of dropout; null if the file has none. */
async function readDropout(stored: SafetensorsFile): Promise<Int32Array | null> {
  const entry = stored.tensors.get(DROPOUT)
  if (entry === undefined) return null
  const { dtype, shape } = entry
  if (dtype === 'I32' && shape.length === 1 && shape[0] === 4) {
    return new Int32Array((await stored.readBytes(DROPOUT)).slice().buffer)
  }
  throw checkpointError(
    stored.path,
    `tensor ${quote(DROPOUT)}: expected I32 [4], got ${dtype} ${shapeText(shape)}; save the state again`,
  )
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

/** The parameter and the moment of a tensor. The parameter's other moment must also exist. */
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
