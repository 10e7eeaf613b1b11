/** Values by patterns of the names of layers, as PEFT's rank_pattern and alpha_pattern. */
import { describe, fail } from '../base/errors.js'
import { entriesOf, get } from '../base/options.js'
import { compilePattern, PatternWork } from './pattern.js'

/** A value for the layers whose names end with a match of its pattern, by pattern. */
export type PatternValues = Readonly<Record<string, number>>

/** Limit of the characters of all patterns of a field but plain names: compiling takes time. */
const MAX_EXPRESSIONS = 20_000

/** Limit of the patterns of a field: as many as an adapter's file can have layers. */
const MAX_PATTERNS = 2 ** 17

/** What trying a plain name costs beside its comparison, in comparisons of characters. */
const TRY = 16

/** A plain name, as PEFT writes for each layer. Dots are the only characters with a meaning in an expression. */
const PLAIN = /^[\w.-]+$/

/**
 * Reads a field of a configuration whose values are by pattern. An omitted field is empty.
 *
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function readPatternValues(
  config: object,
  field: string,
  check: (argument: string, value: unknown) => number,
): PatternValues {
  const given = get('config', config, field)
  if (given === undefined || given === null) return Object.freeze({})
  if (typeof given !== 'object') {
    fail('ERR_LILY_ARGUMENT', field, `expected numbers by patterns of names, got ${describe(given)}`)
  }
  const pairs = entriesOf(field, given as PatternValues)
  if (pairs.length > MAX_PATTERNS) {
    fail('ERR_LILY_ARGUMENT', field, `expected at most ${MAX_PATTERNS} patterns, got ${pairs.length}`)
  }
  const entries = pairs.map(([pattern, value]): [string, number] => {
    if (pattern === '') fail('ERR_LILY_ARGUMENT', field, 'expected patterns of names, got an empty one; remove it')
    return [pattern, check(`${field}['${pattern}']`, value)]
  })
  // The first pattern that matches counts, and objects of JavaScript move integers to their beginning. No name ends with two.
  const integers = entries.filter(([pattern]) => /^\d+$/.test(pattern))
  if (integers.length > 0 && integers.length < entries.length) {
    const [[moved]] = integers
    fail(
      'ERR_LILY_ARGUMENT',
      field,
      `expected patterns that are no integers beside others, since their order is not kept, got '${moved}'; write it as '(${moved})'`,
    )
  }
  const values = Object.freeze(Object.fromEntries(entries))
  valueByName(values, field)
  return values
}

/**
 * A function from a layer's name to the value of the first pattern that matches the end of the name, from its beginning
 * or from a dot on; undefined if none does.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for what is no pattern; the function throws if names take too long
 */
export function valueByName(values: PatternValues, argument: string): (name: string) => number | undefined {
  const work = new PatternWork(argument)
  let expressions = 0
  const entries = Object.entries(values).map(([pattern, value]) => {
    if (PLAIN.test(pattern)) return { value, matches: (name: string) => isEnd(pattern, name, work) }
    expressions += pattern.length
    if (expressions > MAX_EXPRESSIONS) {
      fail(
        'ERR_LILY_ARGUMENT',
        argument,
        `expected regular expressions of at most ${MAX_EXPRESSIONS} characters together, got more; use names`,
      )
    }
    const compiled = compilePattern(pattern, argument, '(?:.*\\.)?(?:', ')', work)
    return { value, matches: (name: string) => compiled.fullMatch(name) }
  })
  return (name) => entries.find(({ matches }) => matches(name))?.value
}

/** Whether a plain name is the end of another one, from its beginning or from a dot on. Its dots match any character. */
function isEnd(pattern: string, name: string, work: PatternWork): boolean {
  const start = name.length - pattern.length
  let i = pattern.length
  if (start === 0 || name[start - 1] === '.') {
    while (i > 0 && (pattern[i - 1] === '.' || pattern[i - 1] === name[start + i - 1])) i--
  }
  work.add(TRY + pattern.length - i, pattern)
  return i === 0
}
