/** Errors of the addon, as {@link LilyError}. */
import { isError, LilyError, type LilyErrorCode } from '../base/errors.js'

/** A LilyError for an error with one of the ERR_LILY_ codes; any other value is returned as it is. */
export function fromBinding(cause: unknown): unknown {
  if (!isError(cause) || cause instanceof LilyError) return cause
  const { code, cudaError, argument } = cause as { code?: unknown; cudaError?: unknown; argument?: unknown }
  if (typeof code !== 'string' || !code.startsWith('ERR_LILY_')) return cause
  return new LilyError(code as LilyErrorCode, cause.message, {
    cause,
    cudaError: typeof cudaError === 'string' ? cudaError : undefined,
    argument: typeof argument === 'string' ? argument : undefined,
  })
}

/** Calls the addon. Its errors are thrown as LilyError. */
export function bound<T>(call: () => T): T {
  try {
    return call()
  } catch (cause) {
    throw fromBinding(cause)
  }
}

/** Awaits a promise of the addon. It rejects with LilyError. */
export async function settled<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise
  } catch (cause) {
    throw fromBinding(cause)
  }
}
