/** Reading of plain options. */
import { describe, fail, failedToRead } from './errors.js'

/** The names that an object of operands or options may have. */
export type Known = ReadonlySet<string>

/** A misspelt name would otherwise be a silent default. */
export function checkKeys(argument: string, value: unknown, known: Known): asserts value is object {
  if (typeof value !== 'object' || value === null) {
    fail('ERR_LILY_ARGUMENT', argument, `expected an object, got ${describe(value)}`)
  }
  for (const key in value) {
    if (!known.has(key)) {
      fail('ERR_LILY_ARGUMENT', key, `is not known in ${argument}; known are ${[...known].join(', ')}`)
    }
  }
}

/** A property of the caller's, whose getter may throw. */
export function get(argument: string, from: object, name: string): unknown {
  try {
    return (from as Readonly<Record<string, unknown>>)[name]
  } catch (cause) {
    throw failedToRead(name, cause, argument)
  }
}

export function readChoice<T extends string>(options: object, name: string, choices: readonly T[], fallback: T): T {
  const value = get('options', options, name)
  if (value === undefined) return fallback
  if (choices.includes(value as T)) return value as T
  const expected = choices.map((choice) => `'${choice}'`).join(', ')
  return fail('ERR_LILY_ARGUMENT', name, `expected one of ${expected}, got ${describe(value)}`)
}

/** `argument` is what the flag is called in an error. */
export function readFlag(options: object, name: string, fallback: boolean, argument = name): boolean {
  const value = get('options', options, name)
  if (value === undefined) return fallback
  if (typeof value === 'boolean') return value
  return fail('ERR_LILY_ARGUMENT', argument, `expected true or false, got ${describe(value)}`)
}

/** A number that is finite in float32 too. */
export function readScaling(options: object): number {
  const value = get('options', options, 'scaling')
  if (value === undefined) return 1
  if (typeof value === 'number' && Number.isFinite(Math.fround(value))) return value
  return fail('ERR_LILY_ARGUMENT', 'scaling', `expected a finite float32 number, got ${describe(value)}`)
}
