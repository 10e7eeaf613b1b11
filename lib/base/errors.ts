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
  throw new LilyError(code, `${argument}: ${message}`, { argument })
}

/** For what a getter or a provider of the caller's threw while `argument` was read, out of an object or by itself. */
export function failedToRead(argument: string, cause: unknown, from?: string): LilyError {
  if (cause instanceof LilyError) return cause
  const what = from === undefined ? 'reading it' : `reading it from ${from}`
  const message = `${argument}: ${what} threw an error (${messageOf(cause)}); see cause`
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
      return `${value}n`
    case 'object':
      if (value === null) return 'null'
      if (Array.isArray(value)) return `an array of ${value.length}`
      return `an object of type ${Object.prototype.toString.call(value).slice(8, -1)}`
    default:
      return `a ${typeof value}`
  }
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : describe(cause)
}
