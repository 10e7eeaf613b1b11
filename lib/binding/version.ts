/** The check that the addon and this package are of the same version. */
import { LilyError } from '../base/errors.js'
import { signature } from './slots.js'

/**
 * Compares the addon's lists of the numbers and operands of a call with this package's lists.
 *
 * @param given undefined in an addon that exports none
 * @throws LilyError ERR_LILY_BACKEND_UNAVAILABLE
 */
export function checkVersion(given: string | undefined): void {
  if (given === signature) return
  throw new LilyError(
    'ERR_LILY_BACKEND_UNAVAILABLE',
    'the native addon is of another version than this package; install lily-kernels again, or run ' +
      'npm ci && npm run build:all in a checkout',
  )
}
