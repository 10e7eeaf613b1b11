/** The options of AdamW. */
import { countOf, describe, fail, failedToRead } from '../base/errors.js'
import { checkKeys, elementsOf, isRegExp, type Known, type Properties, readChoice } from '../base/options.js'
import { type Distributed, readDistributed } from './distributed.js'

/** Parameters with a learning rate or weight decay of their own, like a parameter group of PyTorch. */
export interface AdamWGroup {
  /** Names of the parameters, a pattern that occurs in their names, or a predicate on names. */
  readonly match: readonly string[] | RegExp | ((name: string) => boolean)
  /** Learning rate, at least 0. Default: the optimiser's. */
  readonly lr?: number | undefined
  /** Weight decay, at least 0: a step multiplies each value by 1 - lr * weightDecay. Default: the optimiser's. */
  readonly weightDecay?: number | undefined
}

/**
 * Options of {@link AdamW}, with the meanings and defaults of torch.optim.AdamW.
 *
 * @typeParam D the type of `distributed`
 */
export interface AdamWOptions<D extends Distributed | undefined = undefined> {
  /** Learning rate, at least 0. Default 1e-3. */
  readonly lr?: number | undefined
  /** Decay rates of the running means of the gradient and of its square, in [0, 1). Default [0.9, 0.999]. */
  readonly betas?: readonly [number, number] | undefined
  /** Term added to the denominator, at least 0. Default 1e-8. */
  readonly eps?: number | undefined
  /** Decoupled weight decay: a step multiplies each value by 1 - lr * weightDecay. Default 1e-2. */
  readonly weightDecay?: number | undefined
  /**
   * Largest 2-norm of all gradients, taken as one vector; larger gradients are scaled down to it. Infinity does not
   * clip, but still computes the norm. Default: no clipping and no norm.
   */
  readonly maxNorm?: number | undefined
  /**
   * What a step does if gradients are infinite or NaN. 'error': it updates nothing and throws; on a device, where it is
   * only enqueued, the next promise of the device rejects. 'skip': it updates nothing, and `skippedSteps` counts it.
   * 'ignore': it updates the values with them, as PyTorch does. Default 'error'.
   */
  readonly onNonFinite?: 'error' | 'skip' | 'ignore' | undefined
  /**
   * Groups with their own rates. A parameter may be in one group at most; a group must match at least one parameter.
   */
  readonly groups?: readonly AdamWGroup[] | undefined
  /**
   * Averages the gradients of all ranks before each step: the module `lily-kernels/mpi`. `step()` then returns a promise. All
   * ranks pass the same options. Default: this process trains alone.
   */
  readonly distributed?: D | undefined
}

export const ADAMW_OPTIONS: Known = new Set<keyof AdamWOptions>([
  'lr',
  'betas',
  'eps',
  'weightDecay',
  'maxNorm',
  'onNonFinite',
  'groups',
  'distributed',
])
const ON_NON_FINITE = ['error', 'skip', 'ignore'] as const
const GROUP: Known = new Set(['match', 'lr', 'weightDecay'])

export interface Rates {
  readonly lr: number
  readonly weightDecay: number
}

export interface Settings {
  readonly beta1: number
  readonly beta2: number
  readonly eps: number
  /** Null: the norm is not computed. */
  readonly maxNorm: number | null
  readonly onNonFinite: 'error' | 'skip' | 'ignore'
  /** By parameter name. */
  readonly rates: ReadonlyMap<string, Rates>
  /** Null: this process trains alone. */
  readonly distributed: Distributed | null
}

/** What must be equal on all ranks so that a step keeps their values equal, by the name that errors give it. */
export function equalSettings(settings: Settings, step: number, lrScale: number): Record<string, string | number> {
  const { beta1, beta2, eps, maxNorm, onNonFinite, rates } = settings
  // One text for neighbours with the same rates: a model has hundreds of parameters.
  const texts: { text: string; count: number }[] = []
  for (const { lr, weightDecay } of rates.values()) {
    const text = `${lr} and ${weightDecay}`
    const last = texts.at(-1)
    if (last?.text === text) last.count++
    else texts.push({ text, count: 1 })
  }
  return {
    'a number of steps of': step,
    'an lrScale of': lrScale,
    'lr and weightDecay of': texts.map(({ text, count }) => `${text} for ${countOf(count, 'parameter')}`).join(', '),
    'betas of': `${beta1} and ${beta2}`,
    'an eps of': eps,
    'a maxNorm of': maxNorm ?? 'undefined',
    'onNonFinite of': onNonFinite,
  }
}

/**
 * Reads and checks the options of AdamW.
 *
 * @param names names of the parameters
 */
export function readSettings(options: object, names: readonly string[]): Settings {
  checkKeys('options', options, ADAMW_OPTIONS)
  const rates = readRates('options', options, { lr: 1e-3, weightDecay: 1e-2 })
  const [beta1, beta2] = readBetas(options.betas)
  return {
    beta1,
    beta2,
    eps: readNonNegative('options', options, 'eps', 1e-8),
    maxNorm: readMaxNorm(options.maxNorm),
    onNonFinite: readChoice('onNonFinite', options.onNonFinite, ON_NON_FINITE, 'error'),
    rates: readGroups(options.groups, names, rates),
    distributed: readDistributed(options.distributed),
  }
}

function readRates(argument: string, from: Properties, fallback: Rates): Rates {
  return {
    lr: readNonNegative(argument, from, 'lr', fallback.lr),
    weightDecay: readNonNegative(argument, from, 'weightDecay', fallback.weightDecay),
  }
}

/** Reads a number that must be at least 0, and finite after rounding to float32. */
function readNonNegative(argument: string, from: Properties, name: string, fallback: number): number {
  const value = from[name]
  if (value === undefined) return fallback
  if (typeof value === 'number' && value >= 0 && Number.isFinite(Math.fround(value))) return value
  const full = argument === 'options' ? name : `${argument}.${name}`
  return fail('ERR_LILY_ARGUMENT', full, `expected a finite number of at least 0, got ${describe(value)}`)
}

/** Reads the factor of all learning rates in a step. Each product must stay finite in float32. */
export function readLrScale(options: Properties, rates: Settings['rates']): number {
  const lrScale = readNonNegative('options', options, 'lrScale', 1)
  for (const [name, { lr }] of rates) {
    if (Number.isFinite(Math.fround(lr * lrScale))) continue
    fail(
      'ERR_LILY_ARGUMENT',
      'lrScale',
      `expected a factor with which every learning rate is finite in float32, got ${lrScale} for the rate ${lr} of ` +
        `'${name}'; correct the schedule`,
    )
  }
  return lrScale
}

function readBetas(value: unknown): readonly [number, number] {
  if (value === undefined) return [0.9, 0.999]
  const betas = elementsOf(value) ?? []
  const valid = betas.every((beta) => typeof beta === 'number' && beta >= 0 && beta < 1)
  if (betas.length === 2 && valid) return betas as [number, number]
  const got = betas.length > 0 ? `[${betas.map(describe).join(', ')}]` : describe(value)
  return fail('ERR_LILY_ARGUMENT', 'betas', `expected two numbers in [0, 1), got ${got}`)
}

function readMaxNorm(value: unknown): number | null {
  if (value === undefined) return null
  if (typeof value === 'number' && Math.fround(value) > 0) return value
  return fail(
    'ERR_LILY_ARGUMENT',
    'maxNorm',
    `expected a number above 0, got ${describe(value)}; leave it out to disable clipping`,
  )
}

function readGroups(value: unknown, names: readonly string[], fallback: Rates): Map<string, Rates> {
  const rates = new Map<string, Rates>()
  const groups = value === undefined ? [] : elementsOf(value)
  if (groups === null) {
    fail('ERR_LILY_ARGUMENT', 'groups', `expected an array of groups, got ${describe(value)}`)
  }
  for (const [index, group] of groups.entries()) {
    const argument = `groups[${index}]`
    checkKeys(argument, group, GROUP)
    const groupRates = readRates(argument, group, fallback)
    for (const name of matched(`${argument}.match`, group.match, names)) {
      if (rates.has(name))
        fail(
          'ERR_LILY_ARGUMENT',
          argument,
          `expected no parameter of an earlier group, got '${name}'; match it in one group only`,
        )
      rates.set(name, groupRates)
    }
  }
  return new Map(names.map((name) => [name, rates.get(name) ?? fallback]))
}

/** The names that a group matches. It is an error if there are none: the name or the pattern is then misspelt. */
function matched(argument: string, match: unknown, names: readonly string[]): readonly string[] {
  const list = elementsOf(match)
  if (list !== null) {
    const unknown = list.findIndex((name) => !names.includes(name as string))
    const twice = list.find((name, i) => list.indexOf(name) < i)
    if (unknown < 0 && twice !== undefined) {
      fail('ERR_LILY_ARGUMENT', argument, `expected each name once, got ${describe(twice)} twice; remove one`)
    }
    if (list.length > 0 && unknown < 0) return list as string[]
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      list.length === 0
        ? 'expected at least one name, got none'
        : `expected names of parameters, such as '${names[0]}', got ${describe(list[unknown])}`,
    )
  }
  if (!isRegExp(match) && typeof match !== 'function') {
    fail('ERR_LILY_ARGUMENT', argument, `expected names, a pattern or a function, got ${describe(match)}`)
  }
  const found = names.filter((name) => matches(argument, match as RegExp | ((name: string) => unknown), name))
  if (found.length > 0) return found
  return fail(
    'ERR_LILY_ARGUMENT',
    argument,
    `expected a match among ${countOf(names.length, 'parameter')}, such as '${names[0]}', got none`,
  )
}

function matches(argument: string, match: RegExp | ((name: string) => unknown), name: string): boolean {
  try {
    // RegExp.test of a global pattern continues at lastIndex; String.search always starts at 0.
    if (typeof match !== 'function') return name.search(match) >= 0
    const isMatch = match(name)
    if (typeof isMatch === 'boolean') return isMatch
    fail('ERR_LILY_ARGUMENT', argument, `expected a function that returns true or false, got ${describe(isMatch)}`)
  } catch (cause) {
    throw failedToRead(argument, cause)
  }
}
