/** PEFT's names of the tensors of an adapter, and the default order of layers. */
import type { ParameterShape } from '../model/layout.js'
import type { Kind, PeftMethod } from './peft-method.js'

/** Prefix of every tensor's name: the path of the base model in PEFT's model. */
export const PREFIX = 'base_model.model.'

/** The names of a parameter's tensors: one copy for each layer that uses it. */
export function keysOf({ name, layers }: Pick<ParameterShape, 'name' | 'layers'>): string[] {
  const suffix = name.slice(layers[0].length)
  return layers.map((layer) => `${PREFIX}${layer}${suffix}`)
}

/** The kinds of parameters of a method, with the ends of the names of their tensors. */
export function suffixesOf({ suffixes }: Pick<PeftMethod, 'suffixes'>): [Kind, string][] {
  return Object.entries(suffixes) as [Kind, string][]
}

/** The layer of a tensor, from its name; null if the name is not a parameter's. */
export function layerOfKey(method: Pick<PeftMethod, 'suffixes'>, key: string): string | null {
  if (!key.startsWith(PREFIX)) return null
  for (const [, end] of suffixesOf(method)) {
    const suffix = `.${end}`
    if (key.endsWith(suffix) && key.length > PREFIX.length + suffix.length) {
      return key.slice(PREFIX.length, -suffix.length)
    }
  }
  return null
}

/** Whether a layer is inside of another one: PEFT puts what it adapts, as `attn`, into `attn.base_layer`. */
export function isInner(layer: string, layers: ReadonlySet<string>): boolean {
  const outer = /^(.+?)\.base_layer(?:\.|$)/.exec(layer)?.[1]
  return outer !== undefined && layers.has(outer)
}

/** Whether a tensor belongs to the method: a component of its name begins with the method's marker. */
export function hasMarker({ marker }: Pick<PeftMethod, 'marker'>, key: string): boolean {
  return key.startsWith(marker) || key.includes(`.${marker}`)
}

/** The names of the tensors of a layer, for a message: '.lily_A.weight, .lily_router.weight or .lily_B.weight'. */
export function suffixText(method: Pick<PeftMethod, 'suffixes'>, word: 'and' | 'or'): string {
  const ends = suffixesOf(method).map(([, end]) => `.${end}`)
  return `${ends.slice(0, -1).join(', ')} ${word} ${String(ends.at(-1))}`
}

/**
 * Compares names of layers, with numbers in them compared as numbers. A file sorts names by characters, layers.10
 * before layers.2, and does not store the order of the layers in the model.
 */
export function sortByNumbers(names: Iterable<string>): string[] {
  const parts = Array.from(names, (name) => [name, name.split(/(\d+)/)] as const)
  return parts.sort(([, left], [, right]) => byNumbers(left, right)).map(([name]) => name)
}

function byNumbers(lefts: readonly string[], rights: readonly string[]): number {
  for (let i = 0; i < Math.min(lefts.length, rights.length); i++) {
    // Every second component is a number.
    const difference = i % 2 === 1 ? Number(lefts[i]) - Number(rights[i]) : 0
    if (difference !== 0) return difference
    if (lefts[i] !== rights[i]) return lefts[i] < rights[i] ? -1 : 1
  }
  return lefts.length - rights.length
}
