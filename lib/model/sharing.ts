/**
 * Which layers share which parameters (arXiv 2407.09946, as PEFT reads it). Layers of one target, which have the same
 * suffix and the same shape, share one B, and an A in blocks of strideA in the order in which they are given; the last
 * block may be short. Each has its own router.
 *
 * Where several suffixes match, the longest counts, so that nothing depends on an order of suffixes. PEFT takes the last
 * of a Python set, whose order changes from run to run.
 */
import { describe, fail } from '../base/errors.js'
import { checkKeys, get, type Known } from '../base/options.js'
import { compileLayersPatterns, type LilyConfig } from './config.js'
import { compilePattern } from './pattern.js'

/** A linear layer of the base model: its name and its sizes. Its weight is [outFeatures, inFeatures]. */
export interface LayerShape {
  /** As PyTorch's named_modules has it, such as 'model.layers.0.self_attn.q_proj'. */
  readonly name: string
  readonly inFeatures: number
  readonly outFeatures: number
}

/** An adapted layer and the names of its parameters. */
export interface SharedLayer extends LayerShape {
  /** The suffix (or the pattern) that makes it one with others of the same shape. */
  readonly target: string
  readonly a: string
  readonly router: string
  readonly b: string
}

/** A parameter, and the layers that use it. */
export interface SharedParameter {
  /** That of its first layer in PEFT: '<layer>.lily_A.weight', '.lily_router.weight' or '.lily_B.weight'. */
  readonly name: string
  readonly kind: 'a' | 'router' | 'b'
  /** a [r, d_in], router [E, r], b [E*r, d_out], as PEFT stores them. */
  readonly shape: readonly [number, number]
  /** Names, in the order given. */
  readonly layers: readonly string[]
}

export interface Sharing {
  /** The adapted layers by name, in the order given. */
  readonly layers: ReadonlyMap<string, SharedLayer>
  /** By name: for each layer in turn what it is the first to use, a, router, b. */
  readonly parameters: ReadonlyMap<string, SharedParameter>
}

const LAYER: Known = new Set<keyof LayerShape>(['name', 'inFeatures', 'outFeatures'])

/** PEFT's name of each kind of parameter, after the layer's. */
export const PEFT_SUFFIX = { a: 'lily_A.weight', router: 'lily_router.weight', b: 'lily_B.weight' } as const

/**
 * Shares parameters between layers. What the configuration does not target is left out.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for a bad or repeated layer, or where nothing is targeted
 */
export function shareLayers(shapes: readonly LayerShape[], config: LilyConfig): Sharing {
  const layers = new Map<string, SharedLayer>()
  const parameters = new Map<string, SharedParameter & { layers: string[] }>()
  const groups = new Map<string, SharedLayer[]>()
  const { r, numB, strideA } = config
  const targetOf = targets(config)

  const use = (kind: SharedParameter['kind'], owner: string, shape: [number, number], layer: string) => {
    const name = `${owner}.${PEFT_SUFFIX[kind]}`
    const parameter = parameters.get(name) ?? { name, kind, shape, layers: [] }
    parameter.layers.push(layer)
    parameters.set(name, parameter)
    return name
  }
  for (const shape of readLayers(shapes)) {
    const { name, inFeatures, outFeatures } = shape
    const target = targetOf(name)
    if (target === null) continue
    const key = JSON.stringify([target, inFeatures, outFeatures])
    const group = groups.get(key) ?? []
    groups.set(key, group)
    const leader = group.length % strideA === 0 ? name : group[group.length - (group.length % strideA)].name
    const layer: SharedLayer = {
      name,
      inFeatures,
      outFeatures,
      target,
      a: use('a', leader, [r, inFeatures], name),
      router: use('router', name, [numB, r], name),
      b: use('b', group.length === 0 ? name : group[0].name, [numB * r, outFeatures], name),
    }
    group.push(layer)
    layers.set(name, layer)
  }
  if (layers.size === 0) {
    fail('ERR_LILY_ARGUMENT', 'targetModules', `no layer of ${shapes.length} is targeted; see the names of layers`)
  }
  return { layers, parameters }
}

function readLayers(shapes: unknown): LayerShape[] {
  if (!Array.isArray(shapes)) {
    fail('ERR_LILY_ARGUMENT', 'layers', `expected [{ name, inFeatures, outFeatures }], got ${describe(shapes)}`)
  }
  const names = new Set<string>()
  return Array.from(shapes, (shape: unknown, index) => {
    const argument = `layers[${index}]`
    checkKeys(argument, shape, LAYER)
    const name = get(argument, shape, 'name')
    if (typeof name !== 'string' || name === '') {
      fail('ERR_LILY_ARGUMENT', `${argument}.name`, `expected a name, got ${describe(name)}`)
    }
    if (names.has(name)) fail('ERR_LILY_ARGUMENT', `${argument}.name`, `'${name}' is there already; names are unique`)
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

/** The target of a name, null where the configuration leaves it out. */
function targets(config: LilyConfig): (name: string) => string | null {
  const { targetModules, excludeModules } = config
  const excluded = excludeModules === null ? () => null : matcher(excludeModules, 'excludeModules')
  const matched = targetModules === null ? lastPart : matcher(targetModules, 'targetModules')
  const transformed = typeof targetModules === 'string' ? () => true : transforms(config)
  return (name) => (excluded(name) === null && transformed(name) ? matched(name) : null)
}

/** The longest suffix that a name has, by whole parts; or the regular expression, if it matches. */
function matcher(targets: readonly string[] | string, argument: string): (name: string) => string | null {
  if (typeof targets !== 'string') return suffixMatcher(targets, argument)
  const pattern = compilePattern(targets, argument)
  return (name) => (pattern.fullMatch(name) ? targets : null)
}

/** Suffixes by their parts, the last part first. */
interface SuffixNode {
  readonly parts: Map<string, SuffixNode>
  /** The suffix that ends here. */
  suffix: string | null
}

/** Nodes of one list of suffixes. Names of all modules of the largest models take less. */
const MAX_SUFFIX_NODES = 1 << 19

/** A name takes time by its length, however many suffixes there are. */
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
            `expected at most ${MAX_SUFFIX_NODES} parts of names; pass shorter suffixes`,
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

function lastPart(name: string): string {
  return name.slice(name.lastIndexOf('.') + 1)
}

/** Whether a layer's number is one of layersToTransform: the first number in its name, of PEFT's lists of layers. */
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

/** The first number that is a part of a name, behind another part and before one. Takes linear time. */
const ANY_LAYER = /^.*?\.[^.]*\.(\d+)\./
