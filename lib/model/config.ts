/** The configuration of a Lily adapter: PEFT's LilyConfig, its names in camelCase. */
import { describe, fail, failedToRead } from '../base/errors.js'
import { MAX_EXPERTS, MAX_RANK } from '../base/limits.js'
import { checkKeys, get, type Known, readFlag, readScaling } from '../base/options.js'
import { compilePattern, type Pattern } from './pattern.js'

/** What {@link LilyModel.create} takes; PEFT's names, and its defaults for what is left out. */
export interface LilyConfigOptions {
  /** Rank, 1 to 4096. Default 32. */
  readonly r?: number | undefined
  /** Neighbouring layers of one target that share an A. Default 1. */
  readonly strideA?: number | undefined
  /** Experts E: the high-dimension projectors B_e that all layers of one target share, 2 to 64. Default 2. */
  readonly numB?: number | undefined
  /** Direct multiplier of the adapter's output, not alpha / r. Default 1. */
  readonly scaling?: number | undefined
  /**
   * Which layers are adapted, and what makes them one target: suffixes of names, such as `['q_proj', 'v_proj']`, or a
   * regular expression that the whole name must match, all of whose layers are one target. Default: all layers; the
   * last part of a name is its target.
   */
  readonly targetModules?: readonly string[] | string | null | undefined
  /** Layers that are left out, as `targetModules` names them. */
  readonly excludeModules?: readonly string[] | string | null | undefined
  /** With suffixes as `targetModules`: only these layers, by the first number in a name (`layers.3.` is 3). */
  readonly layersToTransform?: readonly number[] | number | null | undefined
  /** Which list of modules that number belongs to, such as 'layers'. */
  readonly layersPattern?: readonly string[] | string | null | undefined
  /** B starts as zero, so that the adapter changes nothing at first. Default true; false draws it as A is drawn. */
  readonly initWeights?: boolean | undefined
}

/** A checked configuration; nothing is left out. */
export interface LilyConfig {
  readonly r: number
  readonly strideA: number
  readonly numB: number
  readonly scaling: number
  /** Suffixes in alphabetical order, or a regular expression; null: the last part of each name. */
  readonly targetModules: readonly string[] | string | null
  readonly excludeModules: readonly string[] | string | null
  readonly layersToTransform: readonly number[] | null
  readonly layersPattern: readonly string[] | null
  readonly initWeights: boolean
}

const KNOWN: Known = new Set<keyof LilyConfig>([
  'r',
  'strideA',
  'numB',
  'scaling',
  'targetModules',
  'excludeModules',
  'layersToTransform',
  'layersPattern',
  'initWeights',
])

/**
 * Checks a configuration and fills in what is left out.
 *
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function readConfig(options: unknown): LilyConfig {
  checkKeys('config', options, KNOWN)
  const layersToTransform = readIndices(options)
  const layersPattern = readNames(options, 'layersPattern')
  if (layersPattern !== null && layersToTransform === null) {
    fail('ERR_LILY_ARGUMENT', 'layersPattern', 'says what layersToTransform counts; give that too, or leave it out')
  }
  compileLayersPatterns([layersPattern ?? []].flat())
  const targetModules = readTargets(options, 'targetModules')
  if (typeof targetModules === 'string' && targetModules.toLowerCase() === 'all-linear') {
    fail('ERR_LILY_ARGUMENT', 'targetModules', "'all-linear' is not known; leave it out to adapt all the layers given")
  }
  return Object.freeze({
    r: readCount(options, 'r', 32, 1, MAX_RANK),
    strideA: readCount(options, 'strideA', 1, 1, Number.MAX_SAFE_INTEGER),
    numB: readCount(options, 'numB', 2, 2, MAX_EXPERTS),
    scaling: readScaling(options),
    targetModules,
    excludeModules: readTargets(options, 'excludeModules'),
    layersToTransform,
    layersPattern: layersPattern === null ? null : Object.freeze([layersPattern].flat()),
    initWeights: readFlag(options, 'initWeights', true),
  })
}

function readCount(options: object, name: string, fallback: number, from: number, to: number): number {
  const value = get('config', options, name)
  if (value === undefined) return fallback
  if (Number.isSafeInteger(value) && (value as number) >= from && (value as number) <= to) return value as number
  const range = to === Number.MAX_SAFE_INTEGER ? `of at least ${from}` : `from ${from} to ${to}`
  return fail('ERR_LILY_ARGUMENT', name, `expected an integer ${range}, got ${describe(value)}`)
}

/** Suffixes, of which the order does not matter, or a regular expression. */
function readTargets(options: object, name: string): readonly string[] | string | null {
  const names = readNames(options, name)
  if (typeof names === 'string') compilePattern(names, name)
  if (names === null || typeof names === 'string') return names
  if (names.length === 0) {
    fail('ERR_LILY_ARGUMENT', name, "expected suffixes of names, such as ['q_proj'], got none; leave it out")
  }
  return Object.freeze([...new Set(names)].sort())
}

function readNames(options: object, name: string): readonly string[] | string | null {
  const value = readList(options, name)
  if (value === undefined || value === null) return null
  if (isName(value)) return value
  if (Array.isArray(value) && value.every(isName)) return value
  return fail('ERR_LILY_ARGUMENT', name, `expected strings, or one of them, none empty, got ${describe(value)}`)
}

/** A value, of an array a copy: reading it again might give something else, or throw. */
function readList(options: object, name: string): unknown {
  const value = get('config', options, name)
  try {
    return Array.isArray(value) ? Array.from(value as unknown[]) : value
  } catch (cause) {
    throw failedToRead(name, cause, 'config')
  }
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && value !== ''
}

function readIndices(options: object): readonly number[] | null {
  const value = readList(options, 'layersToTransform')
  if (value === undefined || value === null) return null
  const numbers: unknown[] = Array.isArray(value) ? value : [value]
  const wrong = numbers.find((number) => !Number.isSafeInteger(number) || (number as number) < 0)
  if (wrong === undefined && numbers.length > 0) return Object.freeze(numbers as number[])
  return fail('ERR_LILY_ARGUMENT', 'layersToTransform', `expected numbers of layers from 0, got ${describe(wrong)}`)
}

/** PEFT has four. */
const MAX_LAYERS_PATTERNS = 16

/** Patterns whose first group is the number of a layer: the first number in its name behind a list of layers. */
export function compileLayersPatterns(lists: readonly string[]): Pattern[] {
  if (lists.length > MAX_LAYERS_PATTERNS) {
    fail('ERR_LILY_ARGUMENT', 'layersPattern', `expected at most ${MAX_LAYERS_PATTERNS} patterns, got ${lists.length}`)
  }
  return lists.map((list) => compilePattern(list, 'layersPattern', '.*?\\.', '\\.(\\d+)\\.'))
}
