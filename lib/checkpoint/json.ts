/**
 * JSON of others, read from its bytes in one pass: no key twice, no lone surrogate, no deeper than expected. Files that
 * are made to be expensive cost no more than others of their size.
 */
import type { LilyError } from '../base/errors.js'
import { checkpointError, DAMAGED, quote } from './errors.js'
import { isUtf8, textOf } from './utf8.js'

/** JSON as values is read from texts of at most this many characters: the names of all modules of a large model take less. */
export const MAX_TEXT = 16 * 1024 * 1024

/** Values that one text may hold: each takes many times the memory of its shortest spelling. */
export const MAX_VALUES = 1 << 20

const TAB = 0x09
const NEWLINE = 0x0a
const RETURN = 0x0d
const SPACE = 0x20
const QUOTE = 0x22
const PLUS = 0x2b
const COMMA = 0x2c
const MINUS = 0x2d
const POINT = 0x2e
const ZERO = 0x30
const NINE = 0x39
const COLON = 0x3a
const BACKSLASH = 0x5c
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
const UPPER_E = 0x45
const LOWER_E = 0x65
const LOWER_F = 0x66
const LOWER_N = 0x6e
const LOWER_T = 0x74
const LOWER_U = 0x75

/** 1 for the bytes of a string that stand for themselves. */
const PLAIN = Uint8Array.from({ length: 256 }, (_, byte) =>
  byte < SPACE || byte === QUOTE || byte === BACKSLASH ? 0 : 1,
)

/** Digits of base 16; 255 for other bytes. */
const HEXADECIMAL = Uint8Array.from({ length: 256 }, (_, byte) => {
  const digit = Number.parseInt(String.fromCharCode(byte), 16)
  return Number.isNaN(digit) ? 255 : digit
})

/** What follows a backslash, but for `u`. */
const ESCAPED: ReadonlySet<number> = new Set('" \\ / b f n r t'.split(' ').map((one) => one.charCodeAt(0)))

/** Digits before the point and the exponent of any float64 together are at most this. */
const MAX_MAGNITUDE = 308

/**
 * @param what the text is called in an error
 * @param depth of objects and arrays at most
 */
export function parseJson(file: string, what: string, text: string, depth: number): unknown {
  if (text.length > MAX_TEXT) {
    throw checkpointError(
      file,
      `expected ${what} to have at most ${MAX_TEXT} characters, got ${text.length}; ${DAMAGED}`,
    )
  }
  const json = new JsonReader(file, what, new TextEncoder().encode(text), depth)
  let values = 0
  const read = (): unknown => {
    if (++values > MAX_VALUES) {
      throw checkpointError(file, `expected ${what} to have at most ${MAX_VALUES} values, got more; ${DAMAGED}`)
    }
    switch (json.peek()) {
      case OPEN_BRACE: {
        const members = new Map<string, unknown>()
        json.object((key) => {
          if (members.has(key)) throw json.twice(key)
          members.set(key, read())
        })
        return Object.fromEntries(members)
      }
      case OPEN_BRACKET: {
        const elements: unknown[] = []
        json.array(() => elements.push(read()))
        return elements
      }
      default:
        return json.scalar()
    }
  }
  const value = read()
  json.end()
  return value
}

export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Reads JSON from its bytes, value by value. */
export class JsonReader {
  readonly #file: string
  readonly #what: string
  readonly #bytes: Uint8Array
  readonly #maxDepth: number
  /** The next byte. */
  #at = 0
  #depth = 0
  /** Where the last string is. */
  #start = 0
  #end = 0
  #hasEscapes = false
  readonly #skip = () => this.skip()

  /**
   * @param what the text is called in an error
   * @param depth of objects and arrays at most
   */
  constructor(file: string, what: string, bytes: Uint8Array, depth: number) {
    this.#file = file
    this.#what = what
    this.#bytes = bytes
    this.#maxDepth = depth
    if (!isUtf8(bytes)) throw checkpointError(file, `expected ${what} to be UTF-8, got other bytes; ${DAMAGED}`)
  }

  /** The first byte of what comes next, after white space; 0 at the end, which no value begins with. */
  peek(): number {
    const bytes = this.#bytes
    while (this.#at < bytes.length) {
      const byte = bytes[this.#at]
      if (byte > SPACE || (byte !== SPACE && byte !== NEWLINE && byte !== RETURN && byte !== TAB)) return byte
      this.#at++
    }
    return 0
  }

  /**
   * What comes next, in words for an error.
   *
   * @throws LilyError where no value does
   */
  kind(): 'an object' | 'an array' | 'a string' | 'a number' | 'null' | 'true or false' {
    const byte = this.peek()
    if (byte === OPEN_BRACE) return 'an object'
    if (byte === OPEN_BRACKET) return 'an array'
    if (byte === QUOTE) return 'a string'
    if (byte === MINUS || isDigit(byte)) return 'a number'
    if (byte === LOWER_N) return 'null'
    if (byte === LOWER_T || byte === LOWER_F) return 'true or false'
    throw this.#wrong('expected a value')
  }

  /** An object; `member` reads the value of each key. */
  object(member: (key: string) => void): void {
    this.members(() => {
      const key = this.string()
      this.#expect(COLON, "':'")
      member(key)
    })
  }

  /** An array; `element` reads each value. */
  array(element: () => void): void {
    this.#list(OPEN_BRACKET, CLOSE_BRACKET, element)
  }

  string(): string {
    this.#string()
    return this.#text()
  }

  /**
   * A key and the colon behind it, as its index in `known`, names of ASCII characters; -1 for another.
   */
  key(known: readonly string[]): number {
    this.#string()
    const index = known.findIndex((name) => this.#equals(name))
    this.#expect(COLON, "':'")
    return index
  }

  /** Members of an object, whose keys `member` reads first. */
  members(member: () => void): void {
    this.#list(OPEN_BRACE, CLOSE_BRACE, member)
  }

  /** An integer from 0 to 2^53 - 1, spelled as one; -1 for what else comes next. */
  integer(): number {
    let byte = this.peek()
    if (!isDigit(byte)) return -1
    const bytes = this.#bytes
    let value = 0
    let at = this.#at
    if (byte === ZERO) byte = bytes[++at]
    else for (; isDigit(byte); byte = bytes[++at]) value = value * 10 + (byte - ZERO)
    if (byte === POINT || byte === LOWER_E || byte === UPPER_E || value > Number.MAX_SAFE_INTEGER) return -1
    this.#at = at
    return value
  }

  /** A string, a number, true, false or null. */
  scalar(): unknown {
    if (this.peek() === QUOTE) return this.string()
    const start = this.#at
    this.#scalar()
    const text = textOf(this.#bytes.subarray(start, this.#at))
    if (text === 'null') return null
    return text === 'true' || (text !== 'false' && Number(text))
  }

  /** Any value, whatever its keys. */
  skip(): void {
    switch (this.peek()) {
      case OPEN_BRACE:
        this.members(this.#skipMember)
        return
      case OPEN_BRACKET:
        this.array(this.#skip)
        return
      case QUOTE:
        this.#string()
        return
      default:
        this.#scalar()
    }
  }

  /** Nothing but white space is left. */
  end(): void {
    if (this.peek() !== 0 || this.#at < this.#bytes.length) throw this.#wrong('expected its end')
  }

  twice(key: string): LilyError {
    return checkpointError(this.#file, `expected each key of ${this.#what} once, got ${quote(key)} twice; ${DAMAGED}`)
  }

  readonly #skipMember = () => {
    this.#string()
    this.#expect(COLON, "':'")
    this.skip()
  }

  #list(open: number, close: number, element: () => void): void {
    this.#expect(open, open === OPEN_BRACE ? 'an object' : 'an array')
    if (this.#depth === this.#maxDepth) {
      throw checkpointError(
        this.#file,
        `expected ${this.#what} to have at most ${this.#maxDepth} levels of nesting, got more; ${DAMAGED}`,
      )
    }
    this.#depth++
    if (this.peek() === close) {
      this.#at++
    } else {
      let byte
      do {
        element()
        byte = this.peek()
        this.#at++
      } while (byte === COMMA)
      if (byte !== close) {
        this.#at--
        throw this.#wrong(`expected ',' or '${String.fromCharCode(close)}'`)
      }
    }
    this.#depth--
  }

  #expect(byte: number, what: string): void {
    if (this.peek() !== byte) throw this.#wrong(`expected ${what}`)
    this.#at++
  }

  #wrong(expected: string): LilyError {
    const { length } = this.#bytes
    const got = this.#at < length ? `byte 0x${this.#bytes[this.#at].toString(16).padStart(2, '0')}` : 'its end'
    return checkpointError(
      this.#file,
      `expected ${this.#what} to be valid JSON (${expected} at byte ${Math.min(this.#at, length)}, got ${got}); ${DAMAGED}`,
    )
  }

  #text(): string {
    if (!this.#hasEscapes) return textOf(this.#bytes.subarray(this.#start, this.#end))
    return JSON.parse(textOf(this.#bytes.subarray(this.#start - 1, this.#end + 1))) as string
  }

  #equals(name: string): boolean {
    if (this.#hasEscapes) return this.#text() === name
    return name.length === this.#end - this.#start && this.#hasAt(this.#start, name)
  }

  #hasAt(at: number, word: string): boolean {
    for (let i = 0; i < word.length; i++) if (this.#bytes[at + i] !== word.charCodeAt(i)) return false
    return true
  }

  /** A string, whose escapes are checked and stay as they are. */
  #string(): void {
    this.#expect(QUOTE, 'a string')
    const bytes = this.#bytes
    this.#start = this.#at
    this.#hasEscapes = false
    for (;;) {
      while (PLAIN[bytes[this.#at]] === 1) this.#at++
      if (bytes[this.#at] !== BACKSLASH) break
      this.#hasEscapes = true
      this.#escape()
    }
    if (bytes[this.#at] !== QUOTE) throw this.#wrong(`expected a character or '"'`)
    this.#end = this.#at++
  }

  /** An escape sequence; two of them that are a surrogate pair. */
  #escape(): void {
    const bytes = this.#bytes
    if (bytes[this.#at + 1] !== LOWER_U) {
      if (!ESCAPED.has(bytes[this.#at + 1])) throw this.#wrong('expected an escape sequence')
      this.#at += 2
      return
    }
    const unit = this.#codeUnit(this.#at)
    if (unit >= 0xd800 && unit <= 0xdfff) {
      const next = this.#at + 6
      const isPair = unit < 0xdc00 && bytes[next] === BACKSLASH && bytes[next + 1] === LOWER_U
      const low = isPair ? this.#codeUnit(next) : 0
      if (low < 0xdc00 || low > 0xdfff) throw this.#wrong('expected both halves of a surrogate pair')
      this.#at = next
    }
    this.#at += 6
  }

  #codeUnit(at: number): number {
    let unit = 0
    for (let i = at + 2; i < at + 6; i++) {
      const digit = HEXADECIMAL[this.#bytes[i]] as number | undefined
      if (digit === undefined || digit === 255) throw this.#wrong('expected \\u and four hexadecimal digits')
      unit = unit * 16 + digit
    }
    return unit
  }

  /** A number, true, false or null. */
  #scalar(): void {
    const byte = this.peek()
    if (byte === MINUS || isDigit(byte)) {
      this.#number()
      return
    }
    const word = WORDS.find((each) => this.#hasAt(this.#at, each))
    if (word === undefined) throw this.#wrong('expected a value')
    this.#at += word.length
  }

  #number(): void {
    const bytes = this.#bytes
    if (bytes[this.#at] === MINUS) this.#at++
    const start = this.#at
    let isZero = bytes[start] === ZERO
    if (isZero) this.#at++
    else this.#digits()
    let magnitude = this.#at - start
    if (bytes[this.#at] === POINT) {
      this.#at++
      const fraction = this.#at
      this.#digits()
      for (let at = fraction; isZero && at < this.#at; at++) isZero = bytes[at] === ZERO
    }
    if (bytes[this.#at] === LOWER_E || bytes[this.#at] === UPPER_E) {
      this.#at++
      const isNegative = bytes[this.#at] === MINUS
      if (isNegative || bytes[this.#at] === PLUS) this.#at++
      const first = this.#at
      this.#digits()
      let exponent = 0
      for (let at = first; at < this.#at; at++) exponent = Math.min(exponent * 10 + (bytes[at] - ZERO), 1e9)
      magnitude += isNegative ? -exponent : exponent
    }
    // Like the reference implementation, except that its limit is the largest float64, 1.8e308.
    if (magnitude > MAX_MAGNITUDE && !isZero) throw this.#wrong('expected a number below 1e308 before that')
  }

  #digits(): void {
    const bytes = this.#bytes
    const start = this.#at
    while (this.#at < bytes.length && isDigit(bytes[this.#at])) this.#at++
    if (this.#at === start) throw this.#wrong('expected a digit')
  }
}

const WORDS = ['true', 'false', 'null']

function isDigit(byte: number): boolean {
  return byte >= ZERO && byte <= NINE
}
