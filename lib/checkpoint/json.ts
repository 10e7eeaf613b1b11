/** Parses JSON from files. Unlike JSON.parse it rejects duplicate keys, and nesting beyond a limit. */
import { checkpointError, DAMAGED, quote } from './errors.js'

/**
 * Parses JSON.
 *
 * @param what name of the text in an error message
 * @param depth largest nesting depth of objects and arrays, which bounds the parser's memory
 * @throws LilyError ERR_LILY_CHECKPOINT
 */
export function parseJson(file: string, what: string, text: string, depth: number): unknown {
  checkStructure(file, what, text, depth)
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw checkpointError(file, `expected ${what} to be valid JSON (${(cause as Error).message}); ${DAMAGED}`, cause)
  }
}

/** Whether a JSON value is an object. */
export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Checks keys and depth in one pass over the characters. Invalid JSON is left to JSON.parse to reject. */
function checkStructure(file: string, what: string, text: string, depth: number): void {
  /** For each object or array around the current character: the keys of the object so far, or null for an array. */
  const open: (Set<string> | null)[] = []
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case '{':
      case '[':
        if (open.length === depth) {
          throw checkpointError(
            file,
            `expected ${what} to have at most ${depth} levels of nesting, got more; ${DAMAGED}`,
          )
        }
        open.push(text[i] === '{' ? new Set() : null)
        break
      case '}':
      case ']':
        open.pop()
        break
      case '"': {
        const end = endOfString(text, i)
        const keys = open.at(-1)
        if (keys && isKey(text, end)) {
          const key = unescape(text.slice(i, end))
          if (keys.has(key)) {
            throw checkpointError(file, `expected each key of ${what} once, got ${quote(key)} twice; ${DAMAGED}`)
          }
          keys.add(key)
        }
        i = end - 1
      }
    }
  }
}

/** The index after the closing quote of the string literal that starts at `start`. */
function endOfString(text: string, start: number): number {
  let end = start + 1
  while (end < text.length && text[end] !== '"') end += text[end] === '\\' ? 2 : 1
  return end + 1
}

/** Whether the string literal that ends before `end` is a key, followed by a colon. */
function isKey(text: string, end: number): boolean {
  let next = end
  while (next < text.length && ' \t\n\r'.includes(text[next])) next++
  return text[next] === ':'
}

/** The value of a string literal, so that keys that differ in their escapes only compare equal. */
function unescape(literal: string): string {
  try {
    return JSON.parse(literal) as string
  } catch {
    return literal
  }
}
