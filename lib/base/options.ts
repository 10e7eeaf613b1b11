/** Reads and checks properties of plain option objects. */
import { describe, fail, failedToRead, LilyError } from './errors.js'
import { nearestName } from './nearest.js'
import { deviceTensor } from './symbols.js'

/** The property names that an object of operands or options may have. */
export type Known = ReadonlySet<string>

/**
 * The constraint of a type of options `O` that TypeScript infers: `Options` and no other property, nor another one of its
 * `needs`. Without it a misspelt option beside a known one is not an error of types. A function that passes options on has
 * the same constraint: `<O extends Exact<O, LilyForwardOptions>>`.
 */
export type Exact<O, Options> = Options & {
  readonly [K in keyof O]: K extends keyof Options
    ? K extends 'needs'
      ? Absent<NonNullable<O[K]>, NonNullable<Options[K]>> | undefined
      : unknown
    : never
}

/** The properties that `O` has and `Options` does not have. Those of an index signature are not known. */
type Absent<O, Options> = string extends keyof O ? unknown : { readonly [K in Exclude<keyof O, keyof Options>]?: never }

/**
 * Checks that `value` is an object with no properties but those in `known`: a misspelt option would otherwise silently
 * take its default. So would all options of a Map or a promise of them, which have no properties of their own.
 */
export function checkKeys(argument: string, value: unknown, known: Known): asserts value is object {
  try {
    // The tag of a plain object and of an instance of a class, but of no array, Map, Promise, Date, ...
    if (Object.prototype.toString.call(value) !== '[object Object]' || deviceTensor in (value as object)) {
      fail('ERR_LILY_ARGUMENT', argument, `expected a plain object, got ${describe(value)}`)
    }
    for (const key in value as object) {
      if (!known.has(key)) {
        const nearest = nearestName(key, known)
        const meant = nearest === null ? '' : ` (did you mean ${nearest}?)`
        const expected = `expected one of ${[...known].join(', ')}`
        fail('ERR_LILY_ARGUMENT', key, `is not a property of ${argument}${meant}; ${expected}`)
      }
    }
  } catch (cause) {
    throw failedToRead(argument, cause)
  }
}

/** Whether a value is an array; false for a proxy that has been revoked, for which Array.isArray throws. */
function isArray(value: unknown): value is readonly unknown[] {
  try {
    return Array.isArray(value)
  } catch {
    return false
  }
}

/** A class, whose constructor may be private. */
interface Class<T> {
  readonly prototype: T
  [Symbol.hasInstance](value: unknown): boolean
}

/** Whether a value is an instance of a class; false for a proxy whose trap throws. */
export function isInstance<T>(value: unknown, of: Class<T>): value is T {
  try {
    return value instanceof (of as never)
  } catch {
    return false
  }
}

/**
 * Copies an array that the caller passed: reading it a second time could return other elements. Null if `value` is no
 * array.
 *
 * @throws LilyError ERR_LILY_ARGUMENT if reading it throws
 */
export function copyArray(argument: string, value: unknown): unknown[] | null {
  if (!isArray(value)) return null
  try {
    return Array.from(value)
  } catch (cause) {
    throw failedToRead(argument, cause)
  }
}

/** Whether a value is a Map, of any realm; false for a proxy whose trap throws. */
export function isMap(value: unknown): value is ReadonlyMap<unknown, unknown> {
  try {
    return value instanceof Map || Object.prototype.toString.call(value) === '[object Map]'
  } catch {
    return false
  }
}

/** Whether a value is a regular expression, of any realm; false for a proxy of one. */
export function isRegExp(value: unknown): value is RegExp {
  try {
    Reflect.get(RegExp.prototype, 'source', value) // throws for anything else
    return true
  } catch {
    return false
  }
}

/** Named values, as a Map or as a plain object. */
export type Named<T> = ReadonlyMap<string, T> | Readonly<Record<string, T>>

/**
 * The entries of a Map or a plain object that the caller passed.
 *
 * @throws LilyError ERR_LILY_ARGUMENT if it is neither, if a name is not a string, or if reading it throws
 */
export function entriesOf<T>(argument: string, named: Named<T>): [string, T][] {
  let entries: [unknown, T][]
  try {
    const hasEntries = isMap(named)
    if (!hasEntries && !isPlain(named)) {
      fail('ERR_LILY_ARGUMENT', argument, `expected a Map or a plain object, got ${describe(named)}`)
    }
    entries = hasEntries ? [...named] : Object.entries(named as Record<string, T>)
  } catch (cause) {
    throw failedToRead(argument, cause)
  }
  const wrong = entries.find(([name]) => typeof name !== 'string')
  if (wrong === undefined) return entries as [string, T][]
  return fail('ERR_LILY_ARGUMENT', argument, `expected names that are strings, got ${describe(wrong[0])}`)
}

export function isPlain(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

/**
 * Reads the property `name` of an object that the caller passed. It may be a getter that throws.
 *
 * @param label name of the property in an error message
 * @throws LilyError ERR_LILY_ARGUMENT with the getter's error as `cause`
 */
export function get(argument: string, from: object, name: string, label = name): unknown {
  try {
    return (from as Readonly<Record<string, unknown>>)[name]
  } catch (cause) {
    throw failedToRead(label, cause, argument)
  }
}

/**
 * What `read` makes of the properties of an object that the caller passed, which has none but those in `known`. The
 * engine optimises each access in `read` for the objects that come there; `get` is one access for all names and objects.
 *
 * @param prefix of the names of the properties in an error message
 * @throws LilyError ERR_LILY_ARGUMENT, and what `read` throws. The error of a getter is the `cause`
 */
export function readProperties<T>(
  argument: string,
  value: unknown,
  known: Known,
  read: (from: Readonly<Record<string, unknown>>) => T,
  prefix = '',
): T {
  checkKeys(argument, value, known)
  try {
    return read(value as Readonly<Record<string, unknown>>)
  } catch (cause) {
    if (cause instanceof LilyError) throw cause
    for (const name of known) get(argument, value, name, prefix + name) // throws again, with the name
    throw failedToRead(argument, cause)
  }
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
