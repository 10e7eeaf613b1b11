/**
 * How PEFT reads lists of targets. It shortens long ones, which can change which layers of Lily share parameters, and which
 * ones `layersToTransform` leaves out. Among the targets of Lily that a layer's name ends with it takes any.
 */
import { LilyError } from '../base/errors.js'
import type { LayerShape } from '../model/layer-shape.js'
import type { AdaptedLayer, Layout } from '../model/layout.js'
import { needsBacktracking } from '../model/pattern.js'
import type { Targets } from '../model/targets.js'
import { quote } from './errors.js'
import type { PeftMethod } from './peft-method.js'

/** PEFT shortens lists of so many targets or more. */
const LONG = 20

type LayOut<C extends Targets> = PeftMethod<C>['layOut']

/** A model, as far as PEFT's reading of its configuration depends on it. */
interface Targeted<C extends Targets> {
  readonly config: C
  readonly baseLayers: readonly LayerShape[]
}

/** What a configuration for PEFT has as target_modules. */
export interface PeftTargets {
  readonly targets: readonly string[] | string
  /** How the layers that PEFT then adapts, and their parameters, differ from the model's; null if they do not. */
  readonly difference: string | null
}

/**
 * The targets for a configuration. They are the model's own, in PEFT's form, unless PEFT would refuse those because they match
 * a module that contains layers, as '0' matches `blocks.0` beside `blocks.0.to_out.0`. Then they are longer ends of names.
 */
export function targetsForPeft<C extends Targets>(
  { layOut, isShared }: Pick<PeftMethod<C>, 'layOut' | 'isShared'>,
  { config, baseLayers }: Targeted<C>,
): PeftTargets {
  const layers = layOut(baseLayers, config).layers
  // PEFT requires target_modules: without targetModules they are the last components of the layers' names.
  const own = config.targetModules ?? [...new Set(Array.from(layers.values(), ({ target }) => target))].sort()
  const names = baseLayers.map(({ name }) => name)
  const container = matchedContainer(layOut, names, { ...config, targetModules: own })
  const targets = container === null ? own : endsFor([...layers.keys()], names)
  if (typeof targets === 'string') return { targets, difference: null }
  const differs = (got: string) => ({
    targets: own,
    difference: `expected target_modules that PEFT reads alike, got ${got}`,
  })
  const refused = `some that match ${quote(container ?? '')}, which PEFT refuses because it contains layers`
  if (container !== null && matchedContainer(layOut, names, { ...config, targetModules: targets }) !== null) {
    return differs(refused)
  }

  const read = targets.length < LONG ? targets : shortened(targets, names)
  const theirs = adaptedBy(layOut, baseLayers, { ...config, targetModules: read })
  for (const { name, a, b } of read === own ? [] : layers.values()) {
    const their = theirs.get(name)
    if (their?.a === a && their.b === b) continue
    const difference = their === undefined ? 'does not adapt' : 'shares other parameters with'
    return differs(
      container === null
        ? `${targets.length}: PEFT shortens lists of ${LONG} or more to the ends of names, and then ${difference} ${quote(name)}`
        : `${refused}; with longer ends of names PEFT ${difference} ${quote(name)}`,
    )
  }
  const ambiguous = isShared ? ambiguousTargets(read, [...theirs.values()]) : null
  return { targets: ambiguous === null ? targets : own, difference: ambiguous }
}

/** The first module that contains layers and that PEFT would also adapt; null if there is none. */
function matchedContainer<C extends Targets>(layOut: LayOut<C>, names: readonly string[], config: C): string | null {
  // A pattern that needs backtracking comes from a file, which PEFT has read.
  if (typeof config.targetModules === 'string' && needsBacktracking(config.targetModules)) return null
  const containers = modulesOf(names)
  for (const name of names) containers.delete(name)
  const shapes = Array.from(containers, (name) => ({ name, inFeatures: 1, outFeatures: 1 }))
  return adaptedBy(layOut, shapes, config).keys().next().value ?? null
}

/** For each layer the shortest end of its name that is the end of no module but adapted layers. */
function endsFor(adapted: readonly string[], layers: readonly string[]): readonly string[] {
  const others = modulesOf(layers)
  for (const name of adapted) others.delete(name)
  const ends = new Set([...others].flatMap(endsOf))
  return [...new Set(adapted.map((name) => endsOf(name).find((end) => !ends.has(end)) ?? name))].sort()
}

/**
 * PEFT groups a layer by one of the targets that its name ends with, not only from a dot on: the last one of a set of Python,
 * whose order changes from run to run. This tells whether other layers would then share its parameters.
 */
function ambiguousTargets(targetModules: readonly string[], layers: readonly AdaptedLayer[]): string | null {
  const targets = new Set(targetModules)
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

/** The layers that a configuration adapts; there may be none. */
function adaptedBy<C extends Targets>(layOut: LayOut<C>, layers: readonly LayerShape[], config: C): Layout['layers'] {
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
