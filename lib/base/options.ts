/** Reads and checks properties of plain option objects. */
import { describe, fail, failedToRead } from './errors.js'

/** The property names that an object of operands or options may have. */
export type Known = ReadonlySet<string>

/**
 * Checks that `value` is an object with no properties but those in `known`: a misspelt option would otherwise silently
 * take its default.
 *
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function checkKeys(argument: string, value: unknown, known: Known): asserts value is object {
  if (typeof value !== 'object' || value === null) {
    fail('ERR_LILY_ARGUMENT', argument, `expected an object, got ${describe(value)}`)
  }
  for (const key in value) {
    if (!known.has(key)) {
      fail('ERR_LILY_ARGUMENT', key, `is not a property of ${argument}; expected one of ${[...known].join(', ')}`)
    }
  }
}

/**
 * Reads the property `name` of an object that the caller passed. It may be a getter that throws.
 *
 * @throws LilyError ERR_LILY_ARGUMENT with the getter's error as `cause`
 */
export function get(argument: string, from: object, name: string): unknown {
  try {
    return (from as Readonly<Record<string, unknown>>)[name]
  } catch (cause) {
    throw failedToRead(name, cause, argument)
  }
}

/** Reads an option that must be one of `choices`; undefined gives `fallback`. */
export function readChoice<T extends string>(options: object, name: string, choices: readonly T[], fallback: T): T {
  const value = get('options', options, name)
  if (value === undefined) return fallback
  if (choices.includes(value as T)) return value as T
  const expected = choices.map((choice) => `'${choice}'`).join(', ')
  return fail('ERR_LILY_ARGUMENT', name, `expected one of ${expected}, got ${describe(value)}`)
}

/**
 * Reads a boolean option; undefined gives `fallback`.
 *
 * @param argument name of the option in an error message
 */
export function readFlag(options: object, name: string, fallback: boolean, argument = name): boolean {
  const value = get('options', options, name)
  if (value === undefined) return fallback
  if (typeof value === 'boolean') return value
  return fail('ERR_LILY_ARGUMENT', argument, `expected true or false, got ${describe(value)}`)
}

/** Reads the option `scaling` (default 1), which must be finite after rounding to float32. */
export function readScaling(options: object): number {
  const value = get('options', options, 'scaling')
  if (value === undefined) return 1
  if (typeof value === 'number' && Number.isFinite(Math.fround(value))) return value
  return fail('ERR_LILY_ARGUMENT', 'scaling', `expected a finite float32 number, got ${describe(value)}`)
}
