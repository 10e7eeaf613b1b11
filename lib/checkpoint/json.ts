/**
 * Untrusted JSON: JSON.parse, behind limits on what takes the engine long. Texts are limited in length where they are read, the
 * longest, headers of safetensors files, to 32 MiB. In V8 a text of that length can take 6 s and 1.6 GB without these
 * limits, and 2 s and half a gigabyte within them.
 */
import { checkpointError, DAMAGED, quote } from './errors.js'

/**
 * Objects, arrays and strings in one text: an empty object takes twenty times the memory of its spelling. A tensor in a header
 * has eight of them, so a header can have 262 143 tensors. The largest mixtures of experts have 60 layers of 384 experts of
 * three projections; their adapter has 207 360 tensors.
 */
const MAX_PARTS = 2 ** 21

/** Levels of objects and arrays, as in the reference implementation of safetensors. */
const MAX_DEPTH = 127

/** Characters of a key. V8 hashes strings of 2^14 characters or more by their length alone. */
export const MAX_NAME = 10_000

/**
 * Strings that are indices of arrays, with or without escapes. Below Node.js 20.20.2, 22.22.2 and 24.14.1 V8 hashes them by their
 * value, so that any number of them can have one hash. There are too few shorter indices for that.
 */
const INDEX = /^(?:\d|\\u003\d){6,10}$/
const MAX_INDICES = 2 ** 12

/**
 * @param what the text is called in an error
 * @throws LilyError ERR_LILY_CHECKPOINT for a text that is not UTF-8
 */
export function decodeUtf8(file: string, what: string, bytes: Uint8Array): string {
  // A byte order mark is a character, as files are written again as they were. jsdom under Jest has no TextDecoder, which
  // says nothing about the file.
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  try {
    return decoder.decode(bytes)
  } catch {
    throw checkpointError(file, `expected ${what} to be UTF-8, got other bytes; ${DAMAGED}`)
  }
}

/**
 * Parses JSON. As in Python and in the reference implementation of safetensors, the last of two equal keys counts.
 *
 * @param what the text is called in an error
 * @throws LilyError ERR_LILY_CHECKPOINT
 */
export function parseJson(file: string, what: string, text: string): unknown {
  checkLimits(file, what, text)
  try {
    return JSON.parse(text) as unknown
  } catch (cause) {
    // The engine names the position, or quotes the text around it, which may be anything.
    const { message } = cause as SyntaxError
    const shown = message.replace(/[\p{Cc}\p{Surrogate}]/gu, '?')
    throw checkpointError(file, `expected ${what} to be valid JSON (${shown}); ${DAMAGED}`, cause)
  }
}

export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Text that is no JSON passes, or is refused by a limit. */
function checkLimits(file: string, what: string, text: string): void {
  let [parts, indices, depth, start, length] = [0, 0, 0, 0, 0]
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case '"':
        parts++
        start = i + 1
        i = endOfString(text, start)
        length = i - start
        if (length >= 6 && length <= 60 && INDEX.test(text.slice(start, i))) indices++
        break
      case ':':
        if (length > MAX_NAME) checkKey(file, what, text.slice(start, start + length))
        length = 0
        break
      case '[':
      case '{':
        parts++
        if (++depth > MAX_DEPTH) {
          throw checkpointError(
            file,
            `expected ${what} to have at most ${MAX_DEPTH} levels of nesting, got more; ${DAMAGED}`,
          )
        }
        break
      case ']':
      case '}':
        depth--
    }
  }
  const limits: [count: number, most: number, of: string][] = [
    [parts, MAX_PARTS, 'objects, arrays and strings'],
    [indices, MAX_INDICES, 'strings of 6 to 10 digits'],
  ]
  for (const [count, most, of] of limits) {
    if (count <= most) continue
    throw checkpointError(
      file,
      `expected ${what} to have at most ${most} ${of}, got ${count}; split it, if it is whole`,
    )
  }
}

function endOfString(text: string, start: number): number {
  let end = start
  while (end < text.length && text[end] !== '"') end += text[end] === '\\' ? 2 : 1
  return end
}

/** @param spelling with its escapes, which are several characters for one */
function checkKey(file: string, what: string, spelling: string): void {
  const key = spelling.replace(/\\(?:u.{4}|.)/gs, '?')
  if (key.length <= MAX_NAME) return
  throw checkpointError(
    file,
    `expected names of at most ${MAX_NAME} characters in ${what}, got ${quote(key)}; ${DAMAGED}`,
  )
}
