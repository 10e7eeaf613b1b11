/** Which layers an adapter targets: the fields that all configurations of PEFT have for it. */
import { cut, describe, fail } from '../base/errors.js'
import { elementsOf, type Properties } from '../base/options.js'
import { compilePattern, needsBacktracking, type Pattern, PatternWork } from './pattern.js'

/** Which layers an adapter targets. Names (in camelCase) and defaults are PEFT's. */
export interface TargetOptions {
  /**
   * Which layers are adapted, and for Lily how they are grouped into targets. Suffixes of names, such as
   * `['q_proj', 'v_proj']`: one target per suffix. A regular expression for the whole name: all matching layers are one
   * target. Default: all layers are adapted, and the last component of a name is its target.
   */
  readonly targetModules?: readonly string[] | string | null | undefined
  /** Layers that are not adapted, in the same forms as `targetModules`. */
  readonly excludeModules?: readonly string[] | string | null | undefined
  /**
   * Adapt only the layers with these indices: the first number in a name, 3 in `model.layers.3.`. As in PEFT, the list must
   * not begin the name: `layers.3.` has no index. Layers whose whole names `targetModules` lists are adapted in any case.
   * Ignored if `targetModules` is a string.
   */
  readonly layersToTransform?: readonly number[] | number | null | undefined
  /** Name of the module list whose indices `layersToTransform` are, such as 'layers'. */
  readonly layersPattern?: readonly string[] | string | null | undefined
}

/** Checked targets with all defaults filled in, and the fields of {@link TargetOptions}. */
export interface Targets {
  /**
   * Suffixes in alphabetical order, or a regular expression; null: all layers, by the last component of their names.
   */
  readonly targetModules: readonly string[] | string | null
  /** Layers that are not adapted, in the same forms; null: none. */
  readonly excludeModules: readonly string[] | string | null
  /** Index of each adapted layer in its module list; null: all, as with a regular expression as `targetModules`. */
  readonly layersToTransform: readonly number[] | null
  /** Names of the module lists that these indices count; null: any. */
  readonly layersPattern: readonly string[] | null
}

/** The fields of a configuration with their defaults filled in. */
export type Filled<Options> = { readonly [K in keyof Options]-?: NonNullable<Options[K]> }

/** The names of the fields. */
export const TARGETS = ['targetModules', 'excludeModules', 'layersToTransform', 'layersPattern'] as const

/**
 * Reads and checks these fields of a configuration.
 *
 * @param isStored whether it belongs to an adapter in a file. Its tensors tell which layers it adapts, so its patterns may
 *   need backtracking: {@link targetedLayers} does not run those
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function readTargets(options: Properties, isStored = false): Targets {
  const layersToTransform = readIndices(options)
  const layersPattern = readNames(options, 'layersPattern')
  if (layersPattern !== null && layersToTransform === null) {
    fail(
      'ERR_LILY_ARGUMENT',
      'layersPattern',
      'is only valid together with layersToTransform; pass both, or leave it out',
    )
  }
  compileLayersPatterns([layersPattern ?? []].flat())
  const targetModules = readModules(options, 'targetModules', isStored)
  if (typeof targetModules === 'string' && targetModules.toLowerCase() === 'all-linear') {
    fail(
      'ERR_LILY_ARGUMENT',
      'targetModules',
      "expected suffixes or a regular expression, got 'all-linear'; leave it out to adapt all layers",
    )
  }
  const excludeModules = readModules(options, 'excludeModules', isStored)
  // They have no effect then, and PEFT refuses a configuration of LoRA that has them.
  if (typeof targetModules === 'string') {
    return { targetModules, excludeModules, layersToTransform: null, layersPattern: null }
  }
  return {
    targetModules,
    excludeModules,
    layersToTransform,
    layersPattern: layersPattern === null ? null : Object.freeze([layersPattern].flat()),
  }
}

/** Limit of the elements of a list: as many as an adapter's file can have layers. */
export const MAX_LISTED = 2 ** 17

/** Limit of the characters of a listed name. V8 hashes strings of 2^14 characters or more by their length alone. */
export const MAX_NAME = 10_000

/** Reads suffixes, sorted and without duplicates, or a regular expression. */
function readModules(options: Properties, name: string, isStored: boolean): readonly string[] | string | null {
  const names = readNames(options, name)
  if (typeof names === 'string' && !(isStored && needsBacktracking(names))) compilePattern(names, name)
  if (names === null || typeof names === 'string') return names
  if (names.length === 0) {
    fail('ERR_LILY_ARGUMENT', name, "expected suffixes of names, such as ['q_proj'], got none; leave it out")
  }
  checkListed(name, names)
  return Object.freeze([...new Set(names)].sort())
}

function readNames(options: Properties, name: string): readonly string[] | string | null {
  const value = options[name]
  if (value === undefined || value === null) return null
  if (isName(value)) return value
  const names = elementsOf(value)
  if (names?.every(isName)) return names
  return fail(
    'ERR_LILY_ARGUMENT',
    name,
    `expected strings, an array or a single one, none of them empty, got ${describe(value)}`,
  )
}

/** Checks the number of elements of a list, and the length of names in it. */
export function checkListed(argument: string, list: readonly unknown[]): void {
  if (list.length > MAX_LISTED) {
    fail('ERR_LILY_ARGUMENT', argument, `expected at most ${MAX_LISTED} elements, got ${list.length}; shorten it`)
  }
  const long = list.find((name) => typeof name === 'string' && name.length > MAX_NAME) as string | undefined
  if (long === undefined) return
  fail('ERR_LILY_ARGUMENT', argument, `expected names of at most ${MAX_NAME} characters, got ${cut(long)}`)
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && value !== ''
}

function readIndices(options: Properties): readonly number[] | null {
  const value = options.layersToTransform
  if (value === undefined || value === null) return null
  const numbers = elementsOf(value) ?? [value]
  checkListed('layersToTransform', numbers)
  const wrong = numbers.findIndex((number) => !Number.isSafeInteger(number) || (number as number) < 0)
  if (wrong < 0 && numbers.length > 0) return Object.freeze(numbers as number[])
  return fail(
    'ERR_LILY_ARGUMENT',
    'layersToTransform',
    `expected indices of layers, integers from 0, got ${describe(numbers.length > 0 ? numbers[wrong] : value)}`,
  )
}

/** Limit of the time that names take. PEFT itself has four lists of layers. */
const MAX_LAYERS_PATTERNS = 16

/**
 * Compiles patterns of lists of layers. Their first group matches the index of a layer: the first number in its name
 * after the name of a list.
 */
export function compileLayersPatterns(lists: readonly string[]): Pick<Pattern, 'firstGroup'>[] {
  if (lists.length > MAX_LAYERS_PATTERNS) {
    fail('ERR_LILY_ARGUMENT', 'layersPattern', `expected at most ${MAX_LAYERS_PATTERNS} patterns, got ${lists.length}`)
  }
  const work = new PatternWork('layersPattern')
  return lists.map((list) => {
    if (!/^\w{1,100}$/.test(list)) return compilePattern(list, 'layersPattern', '.*?\\.', '\\.(\\d+)\\.', work)
    const plain = new RegExp(`^.*?\\.${list}\\.(\\d+)\\.`) // takes linear time
    return { firstGroup: (name) => plain.exec(name)?.[1] ?? null }
  })
}
