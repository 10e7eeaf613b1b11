/** The check that the addon and this package are of the same version. */
import { LilyError } from '../base/errors.js'
import { descriptor } from './descriptor.js'

/**
 * Compares the addon's names of a call's numbers and operands with those of this package, list by list.
 *
 * @param lists undefined in an addon that exports none
 * @throws LilyError ERR_LILY_BACKEND_UNAVAILABLE
 */
export function checkVersion(lists: Readonly<Record<string, readonly string[]>> | undefined): void {
  for (const [list, positions] of Object.entries(descriptor)) {
    const names = Object.keys(positions)
    const given = lists?.[list] ?? []
    if (given.length === names.length && names.every((name, i) => name === given[i])) continue
    const missing = names.find((name) => !given.includes(name))
    throw new LilyError(
      'ERR_LILY_BACKEND_UNAVAILABLE',
      `the native addon is of another version than this package (${missing ?? given.join(', ')}); ` +
        `install lily-kernels again, or run npm ci && npm run build:all in a checkout`,
    )
  }
}
