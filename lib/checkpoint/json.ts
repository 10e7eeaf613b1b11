/** JSON of others: no key twice, which JSON.parse would take silently, and no deeper than expected. */
import { checkpointError, DAMAGED, quote } from './errors.js'

/**
 * @param what the text is called in an error
 * @param depth of objects and arrays at most; a parser's memory grows with it
 * @throws LilyError ERR_LILY_CHECKPOINT
 */
export function parseJson(file: string, what: string, text: string, depth: number): unknown {
  checkStructure(file, what, text, depth)
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw checkpointError(file, `${what} is not JSON (${(cause as Error).message}); ${DAMAGED}`, cause)
  }
}

export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** One pass over the characters. What is no JSON passes here, for JSON.parse to refuse. */
function checkStructure(file: string, what: string, text: string, depth: number): void {
  /** The keys so far of each object around the current character; null for an array. */
  const open: (Set<string> | null)[] = []
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case '{':
      case '[':
        if (open.length === depth) {
          throw checkpointError(
            file,
            `${what} is nested deeper than ${depth} levels, which no adapter's is; ${DAMAGED}`,
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
            throw checkpointError(file, `${what} has the key ${quote(key)} twice; expected each once; ${DAMAGED}`)
          }
          keys.add(key)
        }
        i = end - 1
      }
    }
  }
}

/** The index behind the closing quote of the string that begins at `start`. */
function endOfString(text: string, start: number): number {
  let end = start + 1
  while (end < text.length && text[end] !== '"') end += text[end] === '\\' ? 2 : 1
  return end + 1
}

function isKey(text: string, end: number): boolean {
  let next = end
  while (next < text.length && ' \t\n\r'.includes(text[next])) next++
  return text[next] === ':'
}

/** Two spellings of one key are one key. */
function unescape(literal: string): string {
  try {
    return JSON.parse(literal) as string
  } catch {
    return literal
  }
}
