/** The note in an ONNX model with an adapter, which says what was injected. */
import { create } from '@bufbuild/protobuf'
import {
  type GraphProto,
  type ModelProto,
  StringStringEntryProtoSchema,
  TensorProto_DataType as DataType,
} from 'onnx-buf'
import { checkpointError, quote } from '../checkpoint/errors.js'
import { isObject, parseJson } from '../checkpoint/json.js'
import { MAX_BYTES } from '../checkpoint/read-text.js'
import { ACTIVATIONS, POOLS } from '../operations/read.js'
import type { OnnxInput } from './injected.js'
import { type InjectedLayer, type Injection, type Slot, slotsOf, symbolsOf } from './layout.js'
import type { OnnxModel } from './read.js'

/** Its key in metadata_props. */
export const KEY = 'lily_kernels'

const VERSION = 1
/** Layers have fewer inputs, and vocabularies fewer words. The inputs that are fed take memory of this size. */
const MAX_SIZE = 2 ** 22
const ROUTINGS = ['constant', 'batch', 'sequence', 'token'] as const

/** Whether a model has an adapter already. */
export function isInjected({ metadataProps }: ModelProto): boolean {
  return metadataProps.some(({ key }) => key === KEY)
}

/** Writes the note. */
export function note(model: ModelProto, { routing, pool, activation, isBaked, layers }: Injection): void {
  const list = Array.from(layers, ([name, layer]) => ({ name, ...layer }))
  const value = JSON.stringify({ version: VERSION, routing, pool, activation, isBaked, layers: list })
  model.metadataProps.push(create(StringStringEntryProtoSchema, { key: KEY, value }))
}

/**
 * Reads the note, and compares it with the inputs of the model.
 *
 * @param path of the model in messages
 * @throws LilyError ERR_LILY_CHECKPOINT
 */
export function readNote(path: string, model: OnnxModel): { injection: Injection; slots: Map<string, Slot> } {
  const notes = model.metadataProps.filter(({ key }) => key === KEY)
  if (notes.length !== 1) {
    throw checkpointError(
      path,
      `expected a model with an adapter, which has metadata ${KEY}, got ${notes.length === 0 ? 'none' : 'several'}; ` +
        'pass what inject or injectFile has made',
    )
  }
  const [{ value }] = notes
  if (value.length > MAX_BYTES) throw wrong(path, 'is too long')
  const injection = injectionOf(parseJson(path, `metadata ${KEY}`, value))
  if (injection === null) throw wrong(path, 'has other fields')
  const slots = slotsOf(injection, (name) => {
    throw wrong(path, `has two meanings for the matrix ${quote(name)}`)
  })
  if (!injection.isBaked) for (const [name, slot] of slots) checkInput(path, model.graph, name, symbolsOf(slot))
  return { injection, slots }
}

const wrong = (path: string, what: string) =>
  checkpointError(path, `metadata ${KEY}: expected what inject has written, but it ${what}; inject the adapter anew`)

function injectionOf(value: unknown): Injection | null {
  if (!isObject(value) || !Array.isArray(value.layers)) return null
  const { version, routing, pool, activation, isBaked } = value
  const isKnown =
    version === VERSION &&
    isOneOf(ROUTINGS, routing) &&
    isOneOf(POOLS, pool) &&
    isOneOf(ACTIVATIONS, activation) &&
    typeof isBaked === 'boolean'
  if (!isKnown) return null
  const layers = new Map<string, InjectedLayer>()
  for (const layer of value.layers as readonly unknown[]) {
    if (!isLayer(layer) || layers.has(layer.name)) return null
    // Without a router nothing says how experts would mix.
    if (layer.router !== null && routing === 'constant') return null
    const { name, inFeatures, outFeatures, a, router, b } = layer
    layers.set(name, { inFeatures, outFeatures, a, router, b })
  }
  return layers.size === 0 ? null : { routing, pool, activation, isBaked, layers }
}

const isOneOf = <T extends string>(choices: readonly T[], value: unknown): value is T => choices.includes(value as T)

function isLayer(value: unknown): value is InjectedLayer & { readonly name: string } {
  if (!isObject(value)) return false
  const { name, inFeatures, outFeatures, a, router, b } = value
  const isCount = (size: unknown) => Number.isSafeInteger(size) && (size as number) > 0 && (size as number) <= MAX_SIZE
  const areNames = [name, a, b].every((each) => typeof each === 'string')
  return areNames && (router === null || typeof router === 'string') && isCount(inFeatures) && isCount(outFeatures)
}

function checkInput(path: string, { input }: GraphProto, name: string, dims: OnnxInput['dims']): void {
  const type = input.find((each) => each.name === name)?.type?.value
  const isTensor = type?.case === 'tensorType' && type.value.elemType === (DataType.FLOAT as number)
  const found = isTensor ? type.value.shape?.dim.map(({ value }) => value.value) : undefined
  const isSame =
    found?.length === 2 && dims.every((size, i) => (typeof size === 'number' ? BigInt(size) : size) === found[i])
  if (!isSame)
    throw wrong(path, `names an input ${quote(name)} of float32 [${dims.join(', ')}], which the graph does not have`)
}
