/** Reads and checks properties of plain option objects. */
import { describe, fail } from './errors.js'
import { nearestName } from './nearest.js'
import { deviceTensor } from './symbols.js'

/** The property names that an object of operands or options may have. */
export type Known = ReadonlySet<string>

/** An object that the caller passed, with values of any type. */
export type Properties = Readonly<Record<string, unknown>>

/**
 * The constraint of a type of options `O` that TypeScript infers: `Options` and no other property, nor another one of its
 * `needs`. Without it a misspelt option beside a known one is not an error of types. A function that passes options on has
 * the same constraint: `<O extends Exact<O, LilyForwardOptions>>`. The property that a misspelt option requires has no value, so that
 * TypeScript compares the options with `Options` and suggests the option that was meant.
 */
export type Exact<O, Options> = Options &
  NoOthers<O, Options> & {
    readonly [K in keyof O & 'needs' & keyof Options]?: NoOthers<NonNullable<O[K]>, NonNullable<Options[K]>> | undefined
  }

/** Forbids each property that `Options` does not have, as far as its name is known: an index signature is ignored. */
type NoOthers<O, Options> = {
  readonly [
    K in keyof O as K extends keyof Options ? never : string extends K ? never : `${K & string} is no option`
  ]: never
}

/**
 * Checks that `value` is an object with no properties but those in `known`: a misspelt option would otherwise silently
 * take its default. So would all options of a Map or a promise of them, which have no properties of their own.
 */
export function checkKeys(argument: string, value: unknown, known: Known): asserts value is Properties {
  // The tag of a plain object and of an instance of a class, but of no array, Map, Promise, Date, ...
  if (Object.prototype.toString.call(value) !== '[object Object]' || deviceTensor in (value as object)) {
    fail('ERR_LILY_ARGUMENT', argument, `expected a plain object { ${[...known].join(', ')} }, got ${describe(value)}`)
  }
  for (const key in value as object) {
    if (known.has(key)) continue
    const nearest = nearestName(key, known)
    const meant = nearest === null ? '' : ` (did you mean ${nearest}?)`
    const beside = argument === 'operands' && nearest === null ? '; options are the second argument' : ''
    const expected = `expected one of ${[...known].join(', ')}${beside}`
    fail('ERR_LILY_ARGUMENT', key, `is not a property of ${argument}${meant}; ${expected}`)
  }
}

/** What `read` makes of the properties of an object that the caller passed, which has none but those in `known`. */
export function readProperties<T>(argument: string, value: unknown, known: Known, read: (from: Properties) => T): T {
  checkKeys(argument, value, known)
  return read(value)
}

/** A copy of an array that the caller passed; null if `value` is no array. */
export function elementsOf(value: unknown): unknown[] | null {
  return Array.isArray(value) ? Array.from<unknown>(value) : null
}

/** Whether a value is a Map, of any realm, or of a subclass with a tag of its own. */
export function isMap(value: unknown): value is ReadonlyMap<unknown, unknown> {
  return value instanceof Map || Object.prototype.toString.call(value) === '[object Map]'
}

/** Whether a value is a regular expression, of any realm. */
export function isRegExp(value: unknown): value is RegExp {
  return Object.prototype.toString.call(value) === '[object RegExp]'
}

/** Named values, as a Map or as a plain object. */
export type Named<T> = ReadonlyMap<string, T> | Readonly<Record<string, T>>

/**
 * The entries of a Map or a plain object that the caller passed.
 *
 * @throws LilyError ERR_LILY_ARGUMENT if it is neither, or if a name is not a string
 */
export function entriesOf<T>(argument: string, named: Named<T>): [string, T][] {
  const hasEntries = isMap(named)
  if (!hasEntries && !isPlain(named)) {
    fail('ERR_LILY_ARGUMENT', argument, `expected a Map or a plain object, got ${describe(named)}`)
  }
  const entries = hasEntries ? [...named] : Object.entries(named as Record<string, T>)
  const wrong = entries.find(([name]) => typeof name !== 'string')
  if (wrong === undefined) return entries
  return fail('ERR_LILY_ARGUMENT', argument, `expected names that are strings, got ${describe(wrong[0])}`)
}

export function isPlain(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

/** Checks an option that must be one of `choices`; undefined gives `fallback`. */
export function readChoice<T extends string, F = T>(
  name: string,
  value: unknown,
  choices: readonly T[],
  fallback: F,
): T | F {
  if (value === undefined) return fallback
  if (choices.includes(value as T)) return value as T
  const expected = choices.map((choice) => `'${choice}'`).join(', ')
  return fail('ERR_LILY_ARGUMENT', name, `expected one of ${expected}, got ${describe(value)}`)
}

export function readFlag<F = boolean>(argument: string, value: unknown, fallback: F): boolean | F {
  if (value === undefined) return fallback
  if (typeof value === 'boolean') return value
  return fail('ERR_LILY_ARGUMENT', argument, `expected true or false, got ${describe(value)}`)
}

/** Checks an integer field of a configuration; undefined gives `fallback`. */
export function readCount(name: string, value: unknown, fallback: number, from: number, to: number): number {
  return value === undefined ? fallback : checkCount(name, value, from, to)
}

export function checkCount(argument: string, value: unknown, from: number, to: number): number {
  if (Number.isSafeInteger(value) && (value as number) >= from && (value as number) <= to) return value as number
  const range = to === Number.MAX_SAFE_INTEGER ? `of at least ${from}` : `from ${from} to ${to}`
  return fail('ERR_LILY_ARGUMENT', argument, `expected an integer ${range}, got ${describe(value)}`)
}

/** Checks a number that is finite after rounding to float32; undefined gives `fallback`. */
export function readFloat32(argument: string, value: unknown, fallback: number): number {
  return value === undefined ? fallback : checkFloat32(argument, value)
}

/** Checks a number that is finite after rounding to float32. */
export function checkFloat32(argument: string, value: unknown): number {
  if (typeof value === 'number' && Number.isFinite(Math.fround(value))) return value
  return fail('ERR_LILY_ARGUMENT', argument, `expected a finite float32 number, got ${describe(value)}`)
}
