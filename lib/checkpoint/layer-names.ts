/** PEFT's names of the tensors of a Lily adapter, and the order of layers. */
import { PEFT_SUFFIX, type SharedParameter } from '../model/sharing.js'

/** Before every name: the base model in PEFT's model. */
export const PREFIX = 'base_model.model.'

export type Kind = SharedParameter['kind']

export const KINDS: readonly Kind[] = ['a', 'router', 'b']

/** The name of a layer's own tensor, or of its copy of a shared one. */
export function keyOf(layer: string, kind: Kind): string {
  return `${PREFIX}${layer}.${PEFT_SUFFIX[kind]}`
}

/** The layer and the kind of a tensor; null for one that is not Lily's. */
export function parseKey(key: string): { layer: string; kind: Kind } | null {
  if (!key.startsWith(PREFIX)) return null
  for (const kind of KINDS) {
    const suffix = `.${PEFT_SUFFIX[kind]}`
    if (key.endsWith(suffix) && key.length > PREFIX.length + suffix.length) {
      return { layer: key.slice(PREFIX.length, -suffix.length), kind }
    }
  }
  return null
}

/**
 * Layers by the numbers in their names: files have them in the order of characters, layers.10 before layers.2, and the
 * order in which PEFT went through the model is not in the file.
 */
export function sortByNumbers(names: Iterable<string>): string[] {
  const parts = Array.from(names, (name) => [name, name.split(/(\d+)/)] as const)
  return parts.sort(([, left], [, right]) => byNumbers(left, right)).map(([name]) => name)
}

function byNumbers(lefts: readonly string[], rights: readonly string[]): number {
  for (let i = 0; i < Math.min(lefts.length, rights.length); i++) {
    // Every second part is a number.
    const difference = i % 2 === 1 ? Number(lefts[i]) - Number(rights[i]) : 0
    if (difference !== 0) return difference
    if (lefts[i] !== rights[i]) return lefts[i] < rights[i] ? -1 : 1
  }
  return lefts.length - rights.length
}
