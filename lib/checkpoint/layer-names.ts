/** PEFT's names of the tensors of a Lily adapter, and the default order of layers. */
import type { ParameterShape } from '../model/layout.js'
import { LILY_SUFFIX } from '../model/sharing.js'

/** Prefix of every tensor's name: the path of the base model in PEFT's model. */
export const PREFIX = 'base_model.model.'

/** Kind of a parameter. */
export type Kind = ParameterShape['kind']

/** All kinds of parameters. */
export const KINDS: readonly Kind[] = ['a', 'router', 'b']

/** The name of a layer's tensor, which for a shared parameter is the layer's copy. */
export function keyOf(layer: string, kind: Kind): string {
  return `${PREFIX}${layer}.${LILY_SUFFIX[kind]}`
}

/** The layer and the kind of a tensor, from its name; null if the name is not that of a Lily parameter. */
export function parseKey(key: string): { layer: string; kind: Kind } | null {
  if (!key.startsWith(PREFIX)) return null
  for (const kind of KINDS) {
    const suffix = `.${LILY_SUFFIX[kind]}`
    if (key.endsWith(suffix) && key.length > PREFIX.length + suffix.length) {
      return { layer: key.slice(PREFIX.length, -suffix.length), kind }
    }
  }
  return null
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
