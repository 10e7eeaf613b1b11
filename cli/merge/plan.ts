/** Which tensors of the base model an adapter changes: the weights of its layers, and the tensors of modules_to_save. */
import { nameDistance } from '../../lib/base/nearest.js'
import { shapeText } from '../../lib/base/shape.js'
import { checkpointError, quote, quoteSome } from '../../lib/checkpoint/errors.js'
import { PREFIX } from '../../lib/checkpoint/layer-names.js'
import { NAMES } from '../../lib/checkpoint/safetensors-file.js'
import type { TensorSource } from '../../lib/checkpoint/safetensors-write.js'
import type { AdapterLayer, AdapterModel, TensorEntry } from '../../lib/index.js'
import { commonEnd } from '../../lib/onnx/names.js'
import { CommandError } from '../../report/failure.js'
import type { Base } from './base.js'

/** What takes the place of a tensor: its sum with the update of a layer, or a tensor of the adapter. */
export type Change =
  | { readonly kind: 'merge'; readonly layer: AdapterLayer }
  | { readonly kind: 'replace'; readonly key: string; readonly source: TensorSource }

/** By the name of the tensor in the base model. */
export type Plan = ReadonlyMap<string, Change>

/** A tensor and the file that has it. */
interface Found extends TensorEntry {
  readonly path: string
}

const WEIGHT = '.weight'

/** The names that a message lists. */
const MAX_LISTED = 4
/** The end of a name tells more than its beginning. */
const COMPARED = 48

/**
 * Finds the tensors, and checks their shapes and types.
 *
 * @param path the base model in messages
 * @throws CommandError, LilyError ERR_LILY_CHECKPOINT
 */
export function planOf(path: string, model: AdapterModel, { shards }: Pick<Base, 'shards'>): Plan {
  const tensors = new Map<string, Found>()
  for (const shard of shards) {
    for (const [name, entry] of shard.tensors.tensors) tensors.set(name, { ...entry, path: shard.path })
  }
  const nameOf = findNames(path, model, tensors)
  const plan = new Map<string, Change>()
  for (const layer of model.layers.values()) {
    const name = nameOf(layer.name) + WEIGHT
    checkWeight(name, tensors.get(name) as Found, layer)
    plan.set(name, { kind: 'merge', layer })
  }
  for (const [key, source] of model.origin?.others ?? []) {
    const given = key.startsWith(PREFIX) ? key.slice(PREFIX.length) : key
    const name = tensors.has(nameOf(given)) ? nameOf(given) : given
    checkReplaced(path, name, tensors.get(name), source)
    plan.set(name, { kind: 'replace', key, source })
  }
  return plan
}

/**
 * A function from the adapter's name of a layer to the base model's. They are equal, or all of one side have the same
 * names before them: an adapter of a model without a head has no 'model.', which the file of one with a head has.
 */
function findNames(path: string, model: AdapterModel, tensors: ReadonlyMap<string, Found>): (name: string) => string {
  const layers = [...model.layers.keys()]
  const isThere = (name: string) => tensors.has(name + WEIGHT)
  if (layers.every(isThere)) return (name) => name

  const [first] = layers
  const modules = [...tensors.keys()]
    .filter((name) => name.endsWith(WEIGHT))
    .map((name) => name.slice(0, -WEIGHT.length))
  const found = modules
    .filter((name) => commonEnd(name, first) > 0)
    .map((name) => renaming(first, name))
    .filter((rename) => layers.every((layer) => isThere(rename(layer))))
  if (found.length === 1) return found[0]
  if (found.length > 1) {
    const candidates = quoteSome(found.map((rename) => rename(first)))
    throw new CommandError(
      `${path}: expected one weight for the layer ${quote(first)}, got ${candidates}; merge into the model that was adapted`,
    )
  }
  const missing = layers.filter((layer) => !isThere(layer))
  const near = nearest(missing[0], modules).map(quote)
  const has = near.length === 0 ? 'It has no weights' : `The nearest names to the first are ${near.join(', ')}`
  throw new CommandError(
    `${path}: expected the weights of all layers of the adapter, got none for ${quoteSome(missing)}. ${has}; merge into the ` +
      'model that was adapted',
  )
}

/** What leads from one name to another, where one name is the end of the other. */
function renaming(from: string, to: string): (name: string) => string {
  const added = to.slice(0, Math.max(0, to.length - from.length))
  const removed = from.slice(0, Math.max(0, from.length - to.length))
  return (name) => (name.startsWith(removed) ? added + name.slice(removed.length) : name)
}

function nearest(name: string, modules: readonly string[]): string[] {
  return modules
    .map((module) => [module, nameDistance(module.slice(-COMPARED), name.slice(-COMPARED))] as const)
    .sort(([, left], [, right]) => left - right)
    .slice(0, MAX_LISTED)
    .map(([module]) => module)
}

function checkWeight(name: string, { path, dtype, shape }: Found, layer: AdapterLayer): void {
  const [rows, columns] = layer.weightShape
  if (shape.length !== 2 || shape[0] !== rows || shape[1] !== columns) {
    const isTransposed = shape.length === 2 && shape[0] === columns && shape[1] === rows
    const advice = isTransposed
      ? 'a base model that stores the transpose, as GPT-2 does, requires "fan_in_fan_out": true in adapter_config.json of LoRA'
      : 'merge into the model that was adapted'
    throw checkpointError(
      path,
      `tensor ${quote(name)}: expected ${shapeText([rows, columns])}, got ${shapeText(shape)}; ${advice}`,
    )
  }
  if (Object.hasOwn(NAMES, dtype)) return
  const advice = dtype === 'F64' ? 'convert the model to float32' : 'merge into the model before it was quantised'
  throw checkpointError(path, `tensor ${quote(name)}: expected data type F32, BF16 or F16, got ${dtype}; ${advice}`)
}

/** A trained module takes the place of the base model's, as in PEFT. */
function checkReplaced(path: string, name: string, found: Found | undefined, { dtype, shape }: TensorSource): void {
  const isSame = (other: Found) =>
    shapeText(other.shape) === shapeText(shape) &&
    (other.dtype === dtype || (Object.hasOwn(NAMES, other.dtype) && Object.hasOwn(NAMES, dtype)))
  if (found !== undefined && isSame(found)) return
  const got = found === undefined ? 'none' : `${found.dtype} ${shapeText(found.shape)}`
  throw checkpointError(
    path,
    `expected a tensor ${quote(name)} of ${dtype} ${shapeText(shape)}, which the adapter replaces (modules_to_save), got ` +
      `${got}; add it to the base model, or merge with PEFT`,
  )
}
