/** Reading of plain options. */
import { describe, fail } from './errors.js'

/** The names that an object of operands or options may have. */
export type Known = Readonly<Record<string, true>>

/** A misspelt name would otherwise be a silent default. */
export function checkKeys(argument: string, value: unknown, known: Known): void {
  if (typeof value !== 'object' || value === null) {
    fail('ERR_LILY_ARGUMENT', argument, `expected an object, got ${describe(value)}`)
  }
  for (const key in value) {
    if (known[key] !== true) {
      fail('ERR_LILY_ARGUMENT', key, `is not known in ${argument}; known are ${Object.keys(known).join(', ')}`)
    }
  }
}

export function readChoice<T extends string>(argument: string, value: unknown, choices: readonly T[], fallback: T): T {
  if (value === undefined) return fallback
  if (choices.includes(value as T)) return value as T
  const expected = choices.map((choice) => `'${choice}'`).join(', ')
  return fail('ERR_LILY_ARGUMENT', argument, `expected one of ${expected}, got ${describe(value)}`)
}

export function readFlag(argument: string, value: unknown, fallback: boolean): boolean {
  if (value === undefined) return fallback
  if (typeof value === 'boolean') return value
  return fail('ERR_LILY_ARGUMENT', argument, `expected true or false, got ${describe(value)}`)
}

/** A finite number, in float32 too. */
export function readScaling(value: unknown): number {
  if (value === undefined) return 1
  if (typeof value === 'number' && Number.isFinite(Math.fround(value))) return value
  return fail('ERR_LILY_ARGUMENT', 'scaling', `expected a finite float32 number, got ${describe(value)}`)
}

/** The cpu backend has no streams: its calls are done when they return. */
export function refuseStream(value: unknown): void {
  if (value === undefined) return
  fail('ERR_LILY_ARGUMENT', 'stream', `the cpu backend has no streams, got ${describe(value)}; leave it out`)
}
