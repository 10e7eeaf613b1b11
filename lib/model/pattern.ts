/**
 * Patterns of PEFT's configurations, which are Python's regular expressions, in time linear in the name: re2js runs them, an
 * RE2. Where the two read one spelling differently, it is translated or refused.
 */
import { RE2JS, RE2JSSyntaxException } from 're2js'
import { cut, fail } from '../base/errors.js'

/** Most characters in the patterns of a field, because compiling also takes time. */
const MAX_CHARACTERS = 20_000

/** What a character beyond ASCII in a class counts: a range without case is compiled character by character. */
const FOLD = 500
const BEYOND_ASCII = /^(?:\\[uU]|[\u0080-\uffff])/

/** Instructions of the compiled patterns of a field; each may run once per character of a name. */
const MAX_INSTRUCTIONS = 20_000

/** Instructions times characters of names: what all the names of one model may take. */
const MAX_WORK = 2 ** 25

/** Counts what the patterns of a field take: characters and instructions, and steps for the names of one model. */
export class PatternWork {
  characters = 0
  instructions = 0
  #left = MAX_WORK

  constructor(readonly argument: string) {}

  /** @throws LilyError ERR_LILY_ARGUMENT if there have been too many */
  add(steps: number, pattern: string): void {
    this.#left -= steps
    if (this.#left >= 0) return
    fail(
      'ERR_LILY_ARGUMENT',
      this.argument,
      `the pattern ${cut(pattern)} takes more than ${MAX_WORK} steps for the names of the layers; ${adviceFor(this.argument)}`,
    )
  }
}

/** A compiled pattern. */
export interface Pattern {
  /** Whether it matches a whole name, as Python's re.fullmatch. */
  fullMatch(name: string): boolean
  /** The first group of a match that begins where the name does, as Python's re.match finds it; null: none. */
  firstGroup(name: string): string | null
}

/**
 * Compiles a pattern. `\d`, `\w`, `\s` and `\b` mean ASCII.
 *
 * @param before prefix, and `behind`, suffix of the compiled pattern
 * @param work counts what all patterns that share it take
 * @throws LilyError ERR_LILY_ARGUMENT for an invalid pattern, and for one that only backtracking can match
 */
export function compilePattern(
  pattern: string,
  argument: string,
  before = '',
  behind = '',
  work = new PatternWork(argument),
): Pattern {
  work.characters += pattern.length
  for (const { token, inClass } of tokensOf(pattern)) {
    if (inClass && BEYOND_ASCII.test(token)) work.characters += FOLD
  }
  // The pattern alone must also be valid: the text around it must not make it so.
  const alone = compile(pattern, work)
  const compiled = before === '' && behind === '' ? alone : compile(pattern, work, before, behind)
  const instructions = compiled.programSize()
  work.instructions += instructions
  return {
    fullMatch(name) {
      work.add(instructions * name.length, pattern)
      return compiled.matches(name)
    },
    firstGroup(name) {
      work.add(instructions * name.length, pattern)
      const matcher = compiled.matcher(name)
      return matcher.lookingAt() ? (matcher.group(1) ?? null) : null
    },
  }
}

/** A function of names that computes the result for each name once. */
export function remembered<T>(compute: (name: string) => T): (name: string) => T {
  const results = new Map<string, { readonly result: T }>()
  return (name) => {
    const known = results.get(name) ?? { result: compute(name) }
    results.set(name, known)
    return known.result
  }
}

/** What to write in the place of a pattern. */
function adviceFor(argument: string): string {
  return argument.endsWith('Modules') ? 'pass suffixes of names as an array' : 'use plain names'
}

function compile(
  pattern: string,
  { argument, characters, instructions }: PatternWork,
  before = '',
  behind = '',
): RE2JS {
  const wrong = (why: string) =>
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      `expected a regular expression that takes linear time, got ${cut(pattern)}: ${why}; ${adviceFor(argument)}`,
    )
  if (characters > MAX_CHARACTERS) {
    wrong(
      `the patterns have more than ${MAX_CHARACTERS} characters together, counting ${FOLD} for one beyond ASCII in a class`,
    )
  }
  const translated = translate(pattern, before === '', wrong)
  let compiled: RE2JS
  try {
    compiled = RE2JS.compile(`${before}${translated}${behind}`)
  } catch (cause) {
    if (!(cause instanceof RE2JSSyntaxException)) throw cause
    return wrong(cut(cause.message))
  }
  if (instructions + compiled.programSize() > MAX_INSTRUCTIONS) {
    wrong('by their repetitions the patterns are too large together')
  }
  return compiled
}

/** An escape of Python: a character by its number, a number of a group, or a backslash before anything. */
const ESCAPE = String.raw`\\(?:u[\da-fA-F]{4}|U[\da-fA-F]{8}|x[\da-fA-F]{2}|[0-3][0-7]{2}|\d{1,2}|[^])`
const OUTSIDE = new RegExp(String.raw`${ESCAPE}|\[\^?\]?|\(\?(?:P[<=]?|<[=!]?|[=!>(]|[a-zA-Z]*\)?)|\{,\d*\}|[^]`, 'uy')
const INSIDE = new RegExp(String.raw`${ESCAPE}|\[:|[^]`, 'uy')
const OCTAL = /^\\(0[0-7]?|[0-3][0-7]{2})$/

/** A part of a pattern, where it begins, and whether it is inside a class of characters. */
interface Token {
  readonly token: string
  readonly at: number
  readonly inClass: boolean
}

function* tokensOf(pattern: string): Iterable<Token> {
  let inClass = false
  for (let at = 0; at < pattern.length;) {
    const tokens: RegExp = inClass ? INSIDE : OUTSIDE
    tokens.lastIndex = at
    const token: string = tokens.exec(pattern)?.[0] ?? pattern.slice(at)
    yield { token, at, inClass }
    inClass = inClass ? token !== ']' : token.startsWith('[')
    at += token.length
  }
}

/** Whether a pattern has lookahead, lookbehind, references to groups or atomic groups, which no RE2 can match. */
export function needsBacktracking(pattern: string): boolean {
  if (pattern.length > MAX_CHARACTERS) return false
  for (const token of tokensOf(pattern)) if (backtracking(token) !== null) return true
  return false
}

/** Why a part of a pattern needs backtracking; null if it does not. */
function backtracking({ token, inClass }: Token): string | null {
  if (/^\\\d/.test(token) && !OCTAL.test(token)) return 'a reference to a group needs backtracking'
  if (inClass || !token.startsWith('(?')) return null
  if (token === '(?P=' || token === '(?(') return 'a reference to a group needs backtracking'
  if (/[=!]$/.test(token)) return 'lookahead and lookbehind need backtracking'
  return token === '(?>' ? 'atomic groups need backtracking' : null
}

/** From Python's spelling to RE2's; `isFirst` where no text comes before it. */
function translate(pattern: string, isFirst: boolean, wrong: (why: string) => never): string {
  let translated = ''
  for (const part of tokensOf(pattern)) {
    const { token, at, inClass } = part
    const why = backtracking(part)
    if (why !== null) wrong(why)
    if (token.length > 1 && token.startsWith('\\')) {
      translated += translateEscape(token, inClass, wrong)
      continue
    }
    if (inClass && token === '[:') wrong('Python has no classes such as [:alpha:]')
    if (!inClass && token.startsWith('(?')) checkGroup(token, isFirst && at === 0, wrong)
    // RE2 reads no lower limit as text.
    translated += !inClass && token.startsWith('{,') ? `{0${token.slice(1)}` : token
  }
  return translated
}

function translateEscape(token: string, inClass: boolean, wrong: (why: string) => never): string {
  const code = /^\\[uUx]([\da-fA-F]+)$/.exec(token)
  if (code !== null) return `\\x{${code[1]}}`
  const octal = OCTAL.exec(token)
  if (octal !== null) return `\\x{${Number.parseInt(octal[1], 8).toString(16)}}`
  const character = token.slice(1)
  if (character === 'Z') return '\\z'
  if (inClass && character === 'b') return '\\x08'
  if (/[a-zA-Z]/.test(character)) return 'AbBdDsSwWafnrtv'.includes(character) ? token : wrong(`it has ${token}`) // cspell:disable-line
  return character < '\x80' ? token : character
}

function checkGroup(token: string, isFirst: boolean, wrong: (why: string) => never): void {
  if (token === '(?<') wrong('Python writes named groups as (?P<name>...)')
  if (token.includes('U')) wrong('Python has no flag U')
  if (!isFirst && token.endsWith(')')) wrong('flags of the whole pattern must come first')
}
