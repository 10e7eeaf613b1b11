/** Values by patterns of the names of layers, as PEFT's rank_pattern and alpha_pattern. */
import { cut, describe, fail } from '../base/errors.js'
import { entriesOf, type Properties } from '../base/options.js'
import { compilePattern, type Pattern, PatternWork, remembered } from './pattern.js'
import { MAX_LISTED, MAX_NAME } from './targets.js'

/** A value for the layers whose names end with a match of its pattern, by pattern. */
export type PatternValues = Readonly<Record<string, number>>

/** Steps of a pattern that take as long as a look-up of a short name. */
const LOOK_UP = 16

/** A plain name, as PEFT writes for each layer. Dots are the only characters with a meaning in an expression. */
const PLAIN = /^[\w.-]+$/

/**
 * Reads a field of a configuration whose values are by pattern. An omitted field is empty.
 *
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function readPatternValues(
  config: Properties,
  field: string,
  check: (argument: string, value: unknown) => number,
): PatternValues {
  const given = config[field]
  if (given === undefined || given === null) return Object.freeze({})
  if (typeof given !== 'object') {
    fail('ERR_LILY_ARGUMENT', field, `expected numbers by patterns of names, got ${describe(given)}`)
  }
  const pairs = entriesOf(field, given as PatternValues)
  if (pairs.length > MAX_LISTED) {
    fail('ERR_LILY_ARGUMENT', field, `expected at most ${MAX_LISTED} patterns, got ${pairs.length}`)
  }
  const entries = pairs.map(([pattern, value]): [string, number] => {
    if (pattern.length > MAX_NAME) {
      fail('ERR_LILY_ARGUMENT', field, `expected patterns of at most ${MAX_NAME} characters, got ${cut(pattern)}`)
    }
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
 * @throws LilyError ERR_LILY_ARGUMENT for an invalid pattern; the function throws if names take too long
 */
export function valueByName(values: PatternValues, argument: string): (name: string) => number | undefined {
  const valueOf = known.get(values) ?? remembered(matcher(values, argument))
  known.set(values, valueOf)
  return valueOf
}

/** The functions of the fields that configurations have. A load uses each for the same names several times. */
const known = new WeakMap<PatternValues, (name: string) => number | undefined>()

function matcher(values: PatternValues, argument: string): (name: string) => number | undefined {
  const work = new PatternWork(argument)
  const plain = new Map<string, number>()
  const expressions: { readonly at: number; readonly compiled: Pattern }[] = []
  const all = Object.keys(values)
  for (const [at, pattern] of all.entries()) {
    if (PLAIN.test(pattern)) plain.set(pattern, at)
    else expressions.push({ at, compiled: compilePattern(pattern, argument, '(?:.*\\.)?(?:', ')', work) })
  }
  const firstOf = plainMatcher(plain, work)
  return (name) => {
    const first = firstOf(name)
    const expression = expressions.find(({ at, compiled }) => at > first || compiled.fullMatch(name))
    const at = Math.min(first, expression?.at ?? Infinity)
    return at === Infinity ? undefined : values[all[at]]
  }
}

/**
 * A function from a name to the first place of a plain name that is its end, from its beginning or from a dot on; infinity if
 * none is. The dots of a plain name match any character. An end of the name is therefore looked up with dots in each way in
 * which plain names of its length have them: there are few.
 *
 * @param places by plain name
 */
function plainMatcher(places: ReadonlyMap<string, number>, work: PatternWork): (name: string) => number {
  /** By length, one plain name for each way to have dots. */
  const dotted = new Map<number, Map<string, string>>()
  for (const pattern of places.keys()) {
    const ways = dotted.get(pattern.length) ?? new Map<string, string>()
    dotted.set(
      pattern.length,
      ways.set(
        pattern
          .split('.')
          .map(({ length }) => length)
          .join(),
        pattern,
      ),
    )
  }
  return (name) => {
    let first = Infinity
    for (let start = name.length; start > 0;) {
      start = name.lastIndexOf('.', start - 2) + 1
      const end = name.slice(start)
      for (const pattern of dotted.get(end.length)?.values() ?? []) {
        work.add(LOOK_UP + end.length / 8, pattern)
        first = Math.min(first, places.get(withDots(end, pattern)) ?? Infinity)
      }
    }
    return first
  }
}

/** A text with dots where a pattern of its length has them. */
function withDots(text: string, pattern: string): string {
  let dotted = ''
  for (let dot = pattern.indexOf('.'); dot !== -1; dot = pattern.indexOf('.', dot + 1)) {
    dotted += `${text.slice(dotted.length, dot)}.`
  }
  return dotted + text.slice(dotted.length)
}
