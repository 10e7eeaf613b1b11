/**
 * How PEFT reads lists of targets. It shortens long ones, which can change which layers of Lily share parameters, and which
 * ones `layersToTransform` leaves out. Among the targets of Lily that a layer's name ends with it takes any.
 */
import { LilyError } from '../base/errors.js'
import type { LayerShape } from '../model/layer-shape.js'
import type { AdaptedLayer } from '../model/layout.js'
import type { Targets } from '../model/targets.js'
import { quote } from './errors.js'
import type { PeftMethod } from './peft-method.js'

/** PEFT shortens lists of so many targets or more. */
const LONG = 20

/** A model, as far as PEFT's reading of its configuration depends on it. */
interface Targeted<C extends Targets> {
  readonly config: C
  readonly baseLayers: readonly LayerShape[]
}

/**
 * How the layers that PEFT adapts, and their parameters, differ from those of a model; null if they do not.
 */
export function differenceInPeft<C extends Targets>(
  { layOut, isShared }: Pick<PeftMethod<C>, 'layOut' | 'isShared'>,
  { config, baseLayers }: Targeted<C>,
): string | null {
  const { targetModules } = config
  if (typeof targetModules === 'string') return null
  const names = baseLayers.map(({ name }) => name)
  const isShort = targetModules === null || targetModules.length < LONG
  const read = isShort ? targetModules : shortened(targetModules, names)
  const theirs = adaptedBy(layOut, baseLayers, { ...config, targetModules: read })
  for (const { name, a, b } of isShort ? [] : layOut(baseLayers, config).layers.values()) {
    const their = theirs.get(name)
    if (their?.a === a && their.b === b) continue
    const difference = their === undefined ? 'does not adapt' : 'shares other parameters with'
    return (
      `expected target_modules that PEFT reads alike, got ${targetModules?.length}: PEFT shortens lists of ${LONG} or more to ` +
      `the ends of names, and then ${difference} ${quote(name)}`
    )
  }
  return isShared ? ambiguousTargets(read, [...theirs.values()]) : null
}

/**
 * PEFT groups a layer by one of the targets that its name ends with, not only from a dot on: the last one of a set of Python,
 * whose order changes from run to run. This tells whether other layers would then share its parameters.
 */
function ambiguousTargets(targetModules: Targets['targetModules'], layers: readonly AdaptedLayer[]): string | null {
  // Without targetModules they are the last components of names.
  const targets = new Set(targetModules ?? layers.map(({ target }) => target))
  const lengths = [...new Set(Array.from(targets, ({ length }) => length))]
  const first = new Map<string, { target: string; ends: readonly string[] }>()
  for (const { name, target, inFeatures, outFeatures } of layers) {
    const ends = lengths
      .filter((length) => length <= name.length)
      .map((length) => name.slice(-length))
      .filter((end) => targets.has(end))
    for (const end of ends) {
      // Layers of these sizes that PEFT may group by this end. If they agree, it groups them alike by any of their ends.
      const key = JSON.stringify([end, inFeatures, outFeatures])
      const known = first.get(key) ?? { target, ends }
      first.set(key, known)
      if (known.target === target && known.ends.join() === ends.join()) continue
      const other = [...ends, ...known.ends].find((each) => each !== end) as string
      return (
        `expected target_modules that PEFT reads alike, got ${quote(end)} and ${quote(other)}, which end the same names: PEFT ` +
        `groups such layers by either, depending on the run, and may share other parameters with ${quote(name)}`
      )
    }
  }
  return null
}

/** The layers that a configuration adapts, of which there may be none. */
function adaptedBy<C extends Targets>(
  layOut: PeftMethod<C>['layOut'],
  layers: readonly LayerShape[],
  config: C,
): ReadonlyMap<string, AdaptedLayer> {
  try {
    return layOut(layers, config).layers
  } catch (cause) {
    if (cause instanceof LilyError) return new Map()
    throw cause
  }
}

/** For each target the shortest end of it that is the end of no other module; the list itself if that is no shorter. */
function shortened(targets: readonly string[], layers: readonly string[]): readonly string[] {
  const all = new Set(targets)
  const others = new Set<string>()
  for (const module of modulesOf(layers)) {
    const ends = endsOf(module)
    if (!ends.some((end) => all.has(end))) for (const end of ends) others.add(end)
  }
  const short = new Set(targets.map((target) => endsOf(target).find((end) => !others.has(end)) as string))
  return short.size < targets.length ? [...short].sort() : targets
}

/** Layers and the modules that contain them. */
function modulesOf(layers: readonly string[]): Set<string> {
  const modules = new Set(layers)
  for (const name of layers) {
    for (let dot = name.lastIndexOf('.'); dot > 0; dot = name.lastIndexOf('.', dot - 1)) modules.add(name.slice(0, dot))
  }
  return modules
}

/** A name without its first components, the shortest end first, and the name itself. */
function endsOf(name: string): string[] {
  const ends: string[] = []
  for (let dot = name.lastIndexOf('.'); dot !== -1; dot = name.lastIndexOf('.', dot - 1)) {
    ends.push(name.slice(dot + 1))
    if (dot === 0) break
  }
  ends.push(name)
  return ends
}
