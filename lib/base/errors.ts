/** The error class of the package, and helpers for error messages. */

/** Kind of an error, in a form that programs can compare. */
export type LilyErrorCode =
  /** The shape, the strides or the length of an operand. */
  | 'ERR_LILY_SHAPE'
  /** The data type of an operand. */
  | 'ERR_LILY_DTYPE'
  /** The device of an operand or of a stream. */
  | 'ERR_LILY_DEVICE'
  /** Any other property of an argument. */
  | 'ERR_LILY_ARGUMENT'
  /** The addon, a backend or a device cannot be used on this machine. */
  | 'ERR_LILY_BACKEND_UNAVAILABLE'
  /** An error that CUDA reported; `cudaError` has its name. */
  | 'ERR_LILY_CUDA'
  /** An allocation of host or device memory failed. */
  | 'ERR_LILY_OUT_OF_MEMORY'
  /** A file of a checkpoint is invalid, or cannot be read or written. */
  | 'ERR_LILY_CHECKPOINT'
  /** An object is used after its `dispose()`. */
  | 'ERR_LILY_DISPOSED'

/** Properties of a {@link LilyError} besides its code and message. */
export interface LilyErrorDetails {
  /** Name of the invalid argument. */
  readonly argument?: string | undefined
  /** The CUDA runtime's name of the error, such as 'cudaErrorIllegalAddress', if CUDA reported one. */
  readonly cudaError?: string | undefined
  /** The error that caused this one. */
  readonly cause?: unknown
}

/**
 * The class of all errors that this package throws or rejects with deliberately. The message names the argument, the
 * expected value, the value received and the remedy. Arguments are checked before any work starts, so a call whose
 * arguments are rejected has written to no output.
 *
 * @example
 * try {
 *   lilyForward({ x, a, router, b })
 * } catch (error) {
 *   if (error instanceof LilyError && error.code === 'ERR_LILY_SHAPE') console.error(error.argument, error.message)
 *   else throw error
 * }
 */
export class LilyError extends Error {
  /** 'LilyError'. */
  declare readonly name: 'LilyError'
  /** Kind of the error, for programs. */
  readonly code: LilyErrorCode
  /** Name of the invalid argument, if the error is about one. */
  declare readonly argument: string | undefined
  /** The CUDA runtime's name of the error, such as 'cudaErrorIllegalAddress', if CUDA reported one. */
  declare readonly cudaError: string | undefined

  /**
   * Creates an error. Throws nothing.
   *
   * @param code kind of the error
   * @param message what was expected, what came and what to do
   */
  constructor(code: LilyErrorCode, message: string, details?: LilyErrorDetails) {
    const { argument, cudaError, cause } = details ?? {}
    super(message, cause === undefined ? undefined : { cause })
    this.code = code
    // Without those that are undefined, which the console would print.
    if (argument !== undefined) this.argument = argument
    if (cudaError !== undefined) this.cudaError = cudaError
  }

  static {
    // On the prototype, like the built-in errors: the first line of `stack` then begins with this name.
    Object.defineProperty(this.prototype, 'name', { value: 'LilyError', configurable: true, writable: true })
  }
}

/** Throws a LilyError about one argument. The text of the error is `${argument}: ${message}`. */
export function fail(code: LilyErrorCode, argument: string, message: string): never {
  throw new LilyError(code, `${cut(argument)}: ${cutMessage(message)}`, { argument })
}

/** Maximum length of a quoted name or value in a message. */
export const MAX_QUOTED = 160

/** Characters of a message, whatever a file or a caller has put into it. */
const MAX_MESSAGE = 600

/** The end of a message says what to do; a cut keeps this many characters of it. */
const MAX_MESSAGE_END = 150

/** Truncates text from the caller or from a file for a message, which gives `length` as the length of the whole. */
export function cut(text: string, most = MAX_QUOTED, length = text.length): string {
  return text.length > most ? `${head(text, most)}... (${length} characters)` : text
}

/** A number of things, as '1 row' or '2 rows'. */
export function countOf(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}

/** A message, cut in its middle. */
export function cutMessage(message: string): string {
  if (message.length <= MAX_MESSAGE) return message
  return `${head(message, MAX_MESSAGE - MAX_MESSAGE_END)} ... ${message.slice(-MAX_MESSAGE_END)}`
}

/** The first characters, without half of a surrogate pair at the end. */
function head(text: string, most: number): string {
  return text.slice(0, most).replace(/[\ud800-\udbff]$/, '')
}

/**
 * The error to throw after code of the caller, such as a `deviceTensor` method, threw `cause` while `argument` was read.
 * A LilyError is returned as it is.
 */
export function failedToRead(argument: string, cause: unknown): LilyError {
  if (cause instanceof LilyError) return cause
  const message = `${cut(argument)}: reading it threw an error (${messageOf(cause)}); see cause`
  return new LilyError('ERR_LILY_ARGUMENT', message, { argument, cause })
}

/** What `read` returns, which calls code of the caller. */
export function reading<T>(argument: string, read: () => T): T {
  try {
    return read()
  } catch (cause) {
    throw failedToRead(argument, cause)
  }
}

/** A short description of any value, for error messages. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return `'${cut(value)}'`
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

/**
 * Describes a value that is no object of these classes of this package. A second copy of the package, as two folders of
 * node_modules may have one each, has classes of the same names.
 */
export function describeOther(value: unknown, ...classNames: readonly string[]): string {
  const text = describe(value)
  const isOfCopy = classNames.some((name) => text === `an object of type ${name}`)
  return isOfCopy ? `${text} of another copy of lily-kernels; install one copy` : text
}

function describeObject(value: object): string {
  if (Array.isArray(value)) return `an array of ${value.length}`
  const tag = Object.prototype.toString.call(value).slice(8, -1)
  // In an object from a file, `constructor` may be anything.
  const given: unknown = (value.constructor as { readonly name?: unknown } | null | undefined)?.name
  const name = tag === 'Object' && typeof given === 'string' && given !== '' ? given : tag
  return `an object of type ${cut(name, 40)}${name === 'Promise' ? '; await it' : ''}`
}

/**
 * Whether a value is an error, of any realm: test runners load the package into a context of its own, where the errors of
 * Node.js and of the addon are no instances of Error.
 */
export function isError(value: unknown): value is Error {
  return value instanceof Error || Object.prototype.toString.call(value) === '[object Error]'
}

/** The message of an error that is not of this package, which may be anything. */
export function messageOf(cause: unknown): string {
  const message = (cause as { readonly message?: unknown } | null | undefined)?.message
  return typeof message === 'string' ? cut(message) : describe(cause)
}
