/**
 * The layers of a base model that an adapter targets, as in PEFT.
 *
 * If several suffixes match a name, the longest one applies, so that the result does not depend on their order. PEFT
 * takes the last one of a Python set, whose order changes from run to run.
 */
import { countOf, describe, fail } from '../base/errors.js'
import { nameDistance } from '../base/nearest.js'
import { type LayerShape, readLayers } from './layer-shape.js'
import { compilePattern, needsBacktracking, remembered } from './pattern.js'
import { compileLayersPatterns, type Targets } from './targets.js'

/** A layer that is adapted. */
export interface TargetedLayer extends LayerShape {
  /** The suffix or regular expression that the name matches. */
  readonly target: string
}

/**
 * Reads the layers of a base model. Returns those that the configuration targets, in the order given. Only the
 * configuration of a file has patterns that need backtracking, and the layers are those that it adapts: such a pattern
 * targets all of them, or excludes none.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for an invalid or repeated layer, or if no layer is targeted
 */
export function targetedLayers(shapes: readonly LayerShape[], config: Targets): TargetedLayer[] {
  const { targetModules } = config
  const { excluded, targetOf, isTransformed } = known.get(config) ?? matchers(config)
  known.set(config, { excluded, targetOf, isTransformed })
  const layers = readLayers(shapes)
  if (layers.length === 0) fail('ERR_LILY_ARGUMENT', 'layers', 'expected at least one layer, got none')

  const matched = layers.flatMap((layer) => {
    const target = targetOf(layer.name)
    return target === null ? [] : [{ ...layer, target }]
  })
  if (matched.length === 0) {
    const isWhole = typeof targetModules === 'string' ? ' of a regular expression for whole names' : ''
    const targets = targetModules ?? []
    const given = typeof targets === 'string' ? describe(targets) : listOf(targets)
    failWithoutMatch(
      'targetModules',
      `a match${isWhole} among ${countOf(layers.length, 'layer')}, got none for ${given}`,
      `the nearest names of layers are ${listOf(nearestLayers(targets, layers))}`,
    )
  }
  const included = matched.filter(({ name }) => excluded(name) === null)
  if (included.length === 0) failWithoutMatch('excludeModules', 'a layer without a match, got none')
  // A whole name among targetModules counts whatever its index is.
  const isNamed = ({ name, target }: TargetedLayer) => targetModules !== null && target === name
  const targeted = included.filter((layer) => isNamed(layer) || isTransformed(layer.name))
  if (targeted.length > 0) return targeted
  const after = config.layersPattern === null ? '' : ' after a match of layersPattern'
  const first = included.find(({ name }) => FIRST_LIST.test(name))?.name
  const remedy =
    first === undefined
      ? undefined
      : `as in PEFT, a list that begins the name, as in ${describe(first)}, has no index; pass whole names as targetModules`
  return failWithoutMatch(
    'layersToTransform',
    `an index among those of ${countOf(included.length, 'layer')}${after}, got none`,
    remedy,
  )
}

/** Most names in a message. */
const MAX_LISTED = 3

/** The first names of a list, quoted. */
function listOf(names: readonly string[]): string {
  return names.slice(0, MAX_LISTED).map(describe).join(', ') + (names.length > MAX_LISTED ? ', ...' : '')
}

/** Limits of the time that the search for the nearest names takes. */
const [MAX_SOUGHT, MAX_SEARCHED] = [8, 1000]

/** The layers whose names end most like one of the targets, one for each end; a pattern is sought by its words. */
function nearestLayers(targets: readonly string[] | string, layers: readonly LayerShape[]): string[] {
  const sought = (typeof targets === 'string' ? (targets.match(/\w+/g) ?? []) : targets)
    .slice(0, MAX_SOUGHT)
    .map((target) => ({ target, components: target.split('.').length }))
  const nearest = new Map<string, { readonly name: string; readonly distance: number }>()
  for (const { name } of layers.slice(0, MAX_SEARCHED)) {
    for (const { target, components } of sought) {
      const end = name.split('.').slice(-components).join('.')
      const distance = nameDistance(target, end)
      if (distance < (nearest.get(end)?.distance ?? Infinity)) nearest.set(end, { name, distance })
    }
  }
  const ends = [...nearest.values()].sort((a, b) => a.distance - b.distance)
  // The same layer may be the nearest by ends of two lengths; a pattern may have no words.
  const names = [...new Set(ends.map(({ name }) => name))].slice(0, MAX_LISTED)
  return names.length > 0 ? names : [layers[0].name]
}

/** The functions of configurations. A load uses each for the same names several times. */
const known = new WeakMap<Targets, ReturnType<typeof matchers>>()

function matchers(config: Targets) {
  const { targetModules, excludeModules } = config
  return {
    excluded: excludeModules === null ? () => null : matcher(excludeModules, 'excludeModules', false),
    targetOf: targetModules === null ? lastComponent : matcher(targetModules, 'targetModules', true),
    isTransformed: transforms(config),
  }
}

function failWithoutMatch(
  argument: keyof Targets,
  expected: string,
  remedy = 'compare it with the names of layers',
): never {
  fail('ERR_LILY_ARGUMENT', argument, `expected ${expected}; ${remedy}`)
}

/**
 * A function from a name to the longest suffix that matches it, by whole components, or to the regular expression if it
 * matches.
 *
 * @param otherwise whether a regular expression that needs backtracking matches
 */
function matcher(
  targets: readonly string[] | string,
  argument: string,
  otherwise: boolean,
): (name: string) => string | null {
  if (typeof targets !== 'string') return suffixMatcher(targets, argument)
  if (needsBacktracking(targets)) return () => (otherwise ? targets : null)
  const pattern = compilePattern(targets, argument)
  return remembered((name) => (pattern.fullMatch(name) ? targets : null))
}

/** Suffixes by their components, the last component first. */
interface SuffixNode {
  readonly parts: Map<string, SuffixNode>
  /** The suffix that ends at this node. */
  suffix: string | null
}

/** Limit of the memory of one list of suffixes. The names of all modules of the largest models have fewer components. */
const MAX_SUFFIX_NODES = 1 << 19

/** The time per name depends on the length of the name, not on the number of suffixes. */
function suffixMatcher(suffixes: readonly string[], argument: string): (name: string) => string | null {
  const root: SuffixNode = { parts: new Map(), suffix: null }
  let nodes = 0
  for (const suffix of suffixes) {
    let node = root
    for (const part of suffix.split('.').reverse()) {
      let next = node.parts.get(part)
      if (next === undefined) {
        if (++nodes > MAX_SUFFIX_NODES) {
          fail(
            'ERR_LILY_ARGUMENT',
            argument,
            `expected at most ${MAX_SUFFIX_NODES} components of names; pass shorter suffixes`,
          )
        }
        next = { parts: new Map(), suffix: null }
        node.parts.set(part, next)
      }
      node = next
    }
    node.suffix = suffix
  }
  return (name) => {
    let longest: string | null = null
    let node: SuffixNode | undefined = root
    for (let end = name.length; end >= 0 && node !== undefined;) {
      const dot: number = end === 0 ? -1 : name.lastIndexOf('.', end - 1)
      node = node.parts.get(name.slice(dot + 1, end))
      if (node !== undefined && node.suffix !== null) longest = node.suffix
      end = dot
    }
    return longest
  }
}

/** The part of a name after its last dot. */
function lastComponent(name: string): string {
  return name.slice(name.lastIndexOf('.') + 1)
}

/**
 * A predicate on names: whether the index of the layer, the first number after a module list's name, is in
 * `layersToTransform`.
 */
function transforms({ layersToTransform, layersPattern }: Targets): (name: string) => boolean {
  if (layersToTransform === null) return () => true
  const transformed = new Set(layersToTransform)
  const patterns = layersPattern === null ? null : compileLayersPatterns(layersPattern)
  return remembered((name) => {
    let number: string | null = null
    if (patterns === null) number = ANY_LAYER.exec(name)?.[1] ?? null
    else for (let i = 0; number === null && i < patterns.length; i++) number = patterns[i].firstGroup(name)
    return number !== null && transformed.has(Number(number))
  })
}

/** The first component of a name that is a number, with components before and after it. Takes linear time. */
const ANY_LAYER = /^.*?\.[^.]*\.(\d+)\./

/** A name that begins with a list of modules and the index in it. */
const FIRST_LIST = /^[^.]+\.\d+\./
