/**
 * Sharing of parameters between layers (arXiv 2407.09946, as implemented in PEFT). Layers with the same target suffix
 * and the same sizes form a target. All layers of a target share one B. In the order given, each block of `strideA`
 * consecutive layers shares one A; the last block may be shorter. Every layer has its own router.
 *
 * If several suffixes match a name, the longest one applies, so that the result does not depend on their order. PEFT
 * takes the last one of a Python set, whose order changes from run to run.
 */
import { describe, fail } from '../base/errors.js'
import { checkKeys, copyArray, get, type Known } from '../base/options.js'
import { compileLayersPatterns, type LilyConfig } from './lily-config.js'
import { compilePattern } from './pattern.js'

/** A linear layer of the base model. Its weight is [outFeatures, inFeatures], as in torch.nn.Linear. */
export interface LayerShape {
  /** Name as in PyTorch's named_modules(), such as 'model.layers.0.self_attn.q_proj'. */
  readonly name: string
  /** d_in */
  readonly inFeatures: number
  /** d_out */
  readonly outFeatures: number
}

/** An adapted layer and the names of its parameters. */
export interface SharedLayer extends LayerShape {
  /** The suffix or regular expression that the name matches; layers with the same target and sizes share B. */
  readonly target: string
  readonly a: string
  readonly router: string
  readonly b: string
}

/** A parameter and the layers that use it. */
export interface SharedParameter {
  /**
   * PEFT's name in the first layer that uses it: '<layer>.lily_A.weight', '.lily_router.weight' or '.lily_B.weight'.
   */
  readonly name: string
  readonly kind: 'a' | 'router' | 'b'
  /** a [r, d_in], router [E, r], b [E*r, d_out], as in PEFT. */
  readonly shape: readonly [number, number]
  /** Names of the layers, in the order given. */
  readonly layers: readonly string[]
}

/** Result of {@link shareLayers}. */
export interface Sharing {
  /** The adapted layers by name, in the order given. */
  readonly layers: ReadonlyMap<string, SharedLayer>
  /** The parameters by name, in order of first use: layer by layer, and a, router, b within a layer. */
  readonly parameters: ReadonlyMap<string, SharedParameter>
}

const LAYER: Known = new Set<keyof LayerShape>(['name', 'inFeatures', 'outFeatures'])

/** Suffix of PEFT's name of each kind of parameter, after the layer's name and a dot. */
export const PEFT_SUFFIX = { a: 'lily_A.weight', router: 'lily_router.weight', b: 'lily_B.weight' } as const

/**
 * Assigns parameters to the layers that the configuration targets. Other layers are omitted from the result.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for an invalid or repeated layer, or if no layer is targeted
 */
export function shareLayers(shapes: readonly LayerShape[], config: LilyConfig): Sharing {
  const layers = new Map<string, SharedLayer>()
  const parameters = new Map<string, SharedParameter & { layers: string[] }>()
  const groups = new Map<string, SharedLayer[]>()
  const { r, numB, strideA } = config
  const targetOf = targets(config)

  const use = (kind: SharedParameter['kind'], first: string, shape: [number, number], layer: string) => {
    const name = `${first}.${PEFT_SUFFIX[kind]}`
    const parameter = parameters.get(name) ?? { name, kind, shape, layers: [] }
    parameter.layers.push(layer)
    parameters.set(name, parameter)
    return name
  }
  const read = readLayers(shapes)
  for (const shape of read) {
    const { name, inFeatures, outFeatures } = shape
    const target = targetOf(name)
    if (target === null) continue
    const key = JSON.stringify([target, inFeatures, outFeatures])
    const group = groups.get(key) ?? []
    groups.set(key, group)
    const firstOfBlock = group.length % strideA === 0 ? name : group[group.length - (group.length % strideA)].name
    const layer: SharedLayer = {
      name,
      inFeatures,
      outFeatures,
      target,
      a: use('a', firstOfBlock, [r, inFeatures], name),
      router: use('router', name, [numB, r], name),
      b: use('b', group.length === 0 ? name : group[0].name, [numB * r, outFeatures], name),
    }
    group.push(layer)
    layers.set(name, layer)
  }
  if (layers.size === 0) {
    fail(
      'ERR_LILY_ARGUMENT',
      'targetModules',
      `expected a match among ${read.length} layers, got none; compare it with the names of layers`,
    )
  }
  return { layers, parameters }
}

/**
 * Copies the layers that the caller passed.
 *
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function readLayers(shapes: unknown): LayerShape[] {
  const given = copyArray('layers', shapes)
  if (given === null) {
    fail('ERR_LILY_ARGUMENT', 'layers', `expected [{ name, inFeatures, outFeatures }], got ${describe(shapes)}`)
  }
  const names = new Set<string>()
  return given.map((shape, index) => {
    const argument = `layers[${index}]`
    checkKeys(argument, shape, LAYER)
    const name = get(argument, shape, 'name')
    if (typeof name !== 'string' || name === '') {
      fail('ERR_LILY_ARGUMENT', `${argument}.name`, `expected a name, got ${describe(name)}`)
    }
    if (names.has(name))
      fail('ERR_LILY_ARGUMENT', `${argument}.name`, `expected unique names, got '${name}' twice; remove one`)
    names.add(name)
    return {
      name,
      inFeatures: readFeatures(argument, shape, 'inFeatures'),
      outFeatures: readFeatures(argument, shape, 'outFeatures'),
    }
  })
}

function readFeatures(argument: string, shape: object, name: string): number {
  const value = get(argument, shape, name)
  if (Number.isSafeInteger(value) && (value as number) > 0) return value as number
  return fail('ERR_LILY_ARGUMENT', `${argument}.${name}`, `expected an integer of at least 1, got ${describe(value)}`)
}

/** Returns a function from a layer's name to its target, null if the layer is not adapted. */
function targets(config: LilyConfig): (name: string) => string | null {
  const { targetModules, excludeModules } = config
  const excluded = excludeModules === null ? () => null : matcher(excludeModules, 'excludeModules')
  const matched = targetModules === null ? lastComponent : matcher(targetModules, 'targetModules')
  const transformed = typeof targetModules === 'string' ? () => true : transforms(config)
  return (name) => (excluded(name) === null && transformed(name) ? matched(name) : null)
}

/**
 * A function from a name to the longest suffix that matches it, by whole components, or to the regular expression if it
 * matches.
 */
function matcher(targets: readonly string[] | string, argument: string): (name: string) => string | null {
  if (typeof targets !== 'string') return suffixMatcher(targets, argument)
  const pattern = compilePattern(targets, argument)
  return (name) => (pattern.fullMatch(name) ? targets : null)
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
function transforms({ layersToTransform, layersPattern }: LilyConfig): (name: string) => boolean {
  if (layersToTransform === null) return () => true
  const transformed = new Set(layersToTransform)
  const patterns = layersPattern === null ? null : compileLayersPatterns(layersPattern)
  return (name) => {
    let number: string | null = null
    if (patterns === null) number = ANY_LAYER.exec(name)?.[1] ?? null
    else for (let i = 0; number === null && i < patterns.length; i++) number = patterns[i].firstGroup(name)
    return number !== null && transformed.has(Number(number))
  }
}

/** The first component of a name that is a number, with components before and after it. Takes linear time. */
const ANY_LAYER = /^.*?\.[^.]*\.(\d+)\./
