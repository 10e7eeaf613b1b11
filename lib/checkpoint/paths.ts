/** Paths that callers give. */
import { fileURLToPath } from 'node:url'
import { describe, fail } from '../base/errors.js'

/**
 * A path as a string. Like Node.js, this accepts a URL object of the scheme file:, too.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for anything else, Buffers among it: names of files are Unicode here
 */
export function readPath(argument: string, value: unknown): string {
  const path = typeof value === 'object' && value !== null ? fromUrl(value) : value
  if (typeof path !== 'string' || path === '' || path.includes('\0')) {
    fail('ERR_LILY_ARGUMENT', argument, `expected a path as a string, or a file: URL object, got ${describe(value)}`)
  }
  return path
}

function fromUrl(value: object): unknown {
  try {
    return fileURLToPath(value as URL)
  } catch {
    return null
  }
}
