/** Errors of the binding, as the package's own. */
import { LilyError, type LilyErrorCode } from '../base/errors.js'

/** The binding's errors carry a code of ours; anything else is passed on as it is. */
export function fromBinding(cause: unknown): unknown {
  if (!(cause instanceof Error)) return cause
  const { code, cudaError, argument } = cause as { code?: unknown; cudaError?: unknown; argument?: unknown }
  if (typeof code !== 'string' || !code.startsWith('ERR_LILY_')) return cause
  return new LilyError(code as LilyErrorCode, cause.message, {
    cause,
    cudaError: typeof cudaError === 'string' ? cudaError : undefined,
    argument: typeof argument === 'string' ? argument : undefined,
  })
}

/** Calls into the binding. */
export function bound<T>(call: () => T): T {
  try {
    return call()
  } catch (cause) {
    throw fromBinding(cause)
  }
}

/** Waits for the binding. */
export async function settled<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise
  } catch (cause) {
    throw fromBinding(cause)
  }
}
