/** The one error class of the package. */

/** What went wrong, for programs. */
export type LilyErrorCode =
  | 'ERR_LILY_SHAPE'
  | 'ERR_LILY_DTYPE'
  | 'ERR_LILY_DEVICE'
  | 'ERR_LILY_ARGUMENT'
  | 'ERR_LILY_BACKEND_UNAVAILABLE'
  | 'ERR_LILY_CUDA'
  | 'ERR_LILY_OUT_OF_MEMORY'
  | 'ERR_LILY_CHECKPOINT'
  | 'ERR_LILY_DISPOSED'

/** What a {@link LilyError} carries beside its code and message. */
export interface LilyErrorDetails {
  /** Name of the argument at fault. */
  readonly argument?: string | undefined
  /** The CUDA runtime's name of the error, where a device reported one. */
  readonly cudaError?: string | undefined
  /** The error that led to this one. */
  readonly cause?: unknown
}

/**
 * Every error that this package throws on purpose. The message names the argument, what was expected, what came, and
 * what to do. A call that throws one before its work began has written nothing.
 */
export class LilyError extends Error {
  declare readonly name: 'LilyError'
  readonly code: LilyErrorCode
  /** Name of the argument at fault, where there is one. */
  readonly argument: string | undefined
  /** The CUDA runtime's name of the error, where a device reported one. */
  readonly cudaError: string | undefined

  constructor(code: LilyErrorCode, message: string, details: LilyErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.argument = details.argument
    this.cudaError = details.cudaError
  }

  static {
    // On the prototype, as the built-in errors have it, so that the first line of the stack says it.
    Object.defineProperty(this.prototype, 'name', { value: 'LilyError', configurable: true, writable: true })
  }
}

/** Throws a LilyError about one argument; `message` goes on after the argument's name. */
export function fail(code: LilyErrorCode, argument: string, message: string): never {
  throw new LilyError(code, `${cut(argument)}: ${cutMessage(message)}`, { argument })
}

/** Characters of a name or of a value of others in a message. */
export const MAX_QUOTED = 160

/** Characters of a message, whatever a file or a caller has put into it. */
const MAX_MESSAGE = 600

/** The end of a message says what to do; a cut keeps this many characters of it. */
const MAX_MESSAGE_END = 150

/** A text of others, cut to a length that a message can hold; `length` is what is said of the whole. */
export function cut(text: string, most = MAX_QUOTED, length = text.length): string {
  return text.length > most ? `${head(text, most)}... (${length} characters)` : text
}

/** A message, cut in its middle. */
export function cutMessage(message: string): string {
  if (message.length <= MAX_MESSAGE) return message
  return `${head(message, MAX_MESSAGE - MAX_MESSAGE_END)} ... ${message.slice(-MAX_MESSAGE_END)}`
}

/** The first characters, without half of a surrogate pair at the end. */
function head(text: string, most: number): string {
  const isHalf = (text.charCodeAt(most - 1) & 0xfc00) === 0xd800
  return text.slice(0, isHalf ? most - 1 : most)
}

/** For what a getter or a provider of the caller's threw while `argument` was read, out of an object or by itself. */
export function failedToRead(argument: string, cause: unknown, from?: string): LilyError {
  if (cause instanceof LilyError) return cause
  const what = from === undefined ? 'reading it' : `reading it from ${from}`
  const message = `${cut(argument)}: ${what} threw an error (${messageOf(cause)}); see cause`
  return new LilyError('ERR_LILY_ARGUMENT', message, { argument, cause })
}

/** A value of the caller's in a few words. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return value.length > 40 ? `a string of ${value.length} characters` : `'${value}'`
    case 'number':
    case 'boolean':
    case 'undefined':
      return String(value)
    case 'bigint':
      return `${cut(value.toString(), 40)}n`
    case 'object':
      return value === null ? 'null' : describeObject(value)
    default:
      return `a ${typeof value}`
  }
}

/** A proxy's traps and a getter of Symbol.toStringTag may throw. */
function describeObject(value: object): string {
  try {
    if (Array.isArray(value)) return `an array of ${value.length}`
    return `an object of type ${cut(Object.prototype.toString.call(value).slice(8, -1), 40)}`
  } catch {
    return 'an object that cannot be read'
  }
}

function messageOf(cause: unknown): string {
  try {
    const message: unknown = cause instanceof Error ? cause.message : undefined
    if (typeof message === 'string') return cut(message)
  } catch {
    // The caller's error has a message or a prototype that throws.
  }
  return describe(cause)
}
