/** The hyper-parameters of AdamW, read once. */
import { describe, fail, failedToRead } from '../base/errors.js'
import { checkKeys, get, type Known } from '../base/options.js'

/** Parameters whose rates differ from those of the rest. */
export interface AdamWGroup {
  /** Their names, a pattern that is found in their names, or a function that says which. */
  readonly match: readonly string[] | RegExp | ((name: string) => boolean)
  /** Default: that of the optimiser. */
  readonly lr?: number | undefined
  /** Default: that of the optimiser. */
  readonly weightDecay?: number | undefined
}

/** Options of {@link AdamW}, with PyTorch's meanings and defaults. */
export interface AdamWOptions {
  /** Learning rate, from 0. Default 1e-3. */
  readonly lr?: number | undefined
  /** Decay of the running means of the gradient and of its square, in [0, 1). Default [0.9, 0.999]. */
  readonly betas?: readonly [number, number] | undefined
  /** Added to the root of the mean square, from 0. Default 1e-8. */
  readonly eps?: number | undefined
  /** A step takes lr * weightDecay of each value away, apart from its gradient. Default 1e-2. */
  readonly weightDecay?: number | undefined
  /**
   * Gradients are scaled down so that the norm of all of them, as one vector, is at most this. Infinity clips nothing,
   * but has the norm computed. Default: neither.
   */
  readonly maxNorm?: number | undefined
  /** A parameter belongs to one group at most, and a group has one at least. */
  readonly groups?: readonly AdamWGroup[] | undefined
}

const OPTIONS: Known = new Set(['lr', 'betas', 'eps', 'weightDecay', 'maxNorm', 'groups'])
const GROUP: Known = new Set(['match', 'lr', 'weightDecay'])

/** Of one parameter. */
export interface Rates {
  readonly lr: number
  readonly weightDecay: number
}

export interface Settings {
  readonly beta1: number
  readonly beta2: number
  readonly eps: number
  /** Null: no norm is computed. */
  readonly maxNorm: number | null
  readonly rates: ReadonlyMap<string, Rates>
}

/** @param names of the parameters */
export function readSettings(options: object, names: readonly string[]): Settings {
  checkKeys('options', options, OPTIONS)
  const rates = readRates('options', options, { lr: 1e-3, weightDecay: 1e-2 })
  const [beta1, beta2] = readBetas(get('options', options, 'betas'))
  return {
    beta1,
    beta2,
    eps: readFromZero('options', options, 'eps', 1e-8),
    maxNorm: readMaxNorm(get('options', options, 'maxNorm')),
    rates: readGroups(get('options', options, 'groups'), names, rates),
  }
}

function readRates(argument: string, from: object, fallback: Rates): Rates {
  return {
    lr: readFromZero(argument, from, 'lr', fallback.lr),
    weightDecay: readFromZero(argument, from, 'weightDecay', fallback.weightDecay),
  }
}

/** A number that is finite in float32 too. */
export function readFromZero(argument: string, from: object, name: string, fallback: number): number {
  const value = get(argument, from, name)
  if (value === undefined) return fallback
  if (typeof value === 'number' && value >= 0 && Number.isFinite(Math.fround(value))) return value
  const full = argument === 'options' ? name : `${argument}.${name}`
  return fail('ERR_LILY_ARGUMENT', full, `expected a finite number from 0, got ${describe(value)}`)
}

function readBetas(value: unknown): readonly [number, number] {
  if (value === undefined) return [0.9, 0.999]
  const betas: unknown[] = Array.isArray(value) ? [...(value as unknown[])] : []
  const valid = betas.every((beta) => typeof beta === 'number' && beta >= 0 && beta < 1)
  if (betas.length === 2 && valid) return betas as [number, number]
  const got = betas.length > 0 ? `[${betas.map(describe).join(', ')}]` : describe(value)
  return fail('ERR_LILY_ARGUMENT', 'betas', `expected two numbers from 0 to below 1, got ${got}`)
}

function readMaxNorm(value: unknown): number | null {
  if (value === undefined) return null
  if (typeof value === 'number' && Math.fround(value) > 0) return value
  return fail(
    'ERR_LILY_ARGUMENT',
    'maxNorm',
    `expected a number above 0, got ${describe(value)}; leave it out to clip nothing`,
  )
}

function readGroups(value: unknown, names: readonly string[], fallback: Rates): Map<string, Rates> {
  const rates = new Map<string, Rates>()
  if (value !== undefined && !Array.isArray(value)) {
    fail('ERR_LILY_ARGUMENT', 'groups', `expected an array of groups, got ${describe(value)}`)
  }
  const groups: unknown[] = value === undefined ? [] : [...(value as unknown[])]
  for (const [index, group] of groups.entries()) {
    const argument = `groups[${index}]`
    checkKeys(argument, group, GROUP)
    const own = readRates(argument, group, fallback)
    for (const name of matched(`${argument}.match`, get(argument, group, 'match'), names)) {
      if (rates.has(name)) fail('ERR_LILY_ARGUMENT', argument, `'${name}' is in an earlier group already`)
      rates.set(name, own)
    }
  }
  return new Map(names.map((name) => [name, rates.get(name) ?? fallback]))
}

/** What matches nothing is a misspelt name or a pattern for other names. */
function matched(argument: string, match: unknown, names: readonly string[]): readonly string[] {
  if (Array.isArray(match)) {
    const list: unknown[] = [...(match as unknown[])]
    const unknown = list.find((name) => !names.includes(name as string))
    if (list.length > 0 && unknown === undefined) return list as string[]
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      list.length === 0
        ? 'expected at least one name, got none'
        : `there is no parameter ${describe(unknown)}; the first is '${names[0]}'`,
    )
  }
  if (!(match instanceof RegExp) && typeof match !== 'function') {
    fail('ERR_LILY_ARGUMENT', argument, `expected names, a pattern or a function, got ${describe(match)}`)
  }
  const found = names.filter((name) => matches(argument, match as RegExp | ((name: string) => unknown), name))
  if (found.length > 0) return found
  return fail('ERR_LILY_ARGUMENT', argument, `matches none of ${names.length} parameters; the first is '${names[0]}'`)
}

function matches(argument: string, match: RegExp | ((name: string) => unknown), name: string): boolean {
  // Unlike test, search does not go on where the last one ended.
  if (match instanceof RegExp) return name.search(match) >= 0
  try {
    return match(name) === true
  } catch (cause) {
    throw failedToRead(argument, cause)
  }
}
