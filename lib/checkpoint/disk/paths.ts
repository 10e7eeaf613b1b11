/** Paths that callers give. */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, fail } from '../../base/errors.js'

/**
 * A path as a string. Like Node.js, this accepts a URL object of the scheme file:, too.
 *
 * @param expected what the error says is accepted
 * @throws LilyError ERR_LILY_ARGUMENT for anything else, Buffers among it: names of files are Unicode here
 */
export function readPath(
  argument: string,
  value: unknown,
  expected = 'a path as a string, or a file: URL object',
): string {
  const path = typeof value === 'object' && value !== null ? fromUrl(value) : value
  if (typeof path !== 'string' || path === '' || path.includes('\0')) {
    fail('ERR_LILY_ARGUMENT', argument, `expected ${expected}, got ${describe(value)}`)
  }
  return path
}

function fromUrl(value: object): unknown {
  try {
    // fileURLToPath also takes a plain object with the fields of a URL.
    return Object.prototype.toString.call(value) === '[object URL]' ? fileURLToPath(value as URL) : null
  } catch {
    return null
  }
}

/** The path of a file of a folder. */
export function pathIn(folder: string, name: string): string {
  return join(folder, name)
}
