/** Paths that callers give. */
import { describe, fail } from '../../base/errors.js'

const { realpath } = process.getBuiltinModule('node:fs/promises')
const { dirname, join, resolve, sep } = process.getBuiltinModule('node:path')
const { fileURLToPath } = process.getBuiltinModule('node:url')

/**
 * An absolute path as a string. Like Node.js, this also accepts a URL object of the scheme file:.
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
  // The program may change its working directory while a load or a save runs.
  return endsLikeFolder(path) ? join(absolute(path), sep) : absolute(path)
}

/** An absolute path without a slash behind it; the path itself where the working directory cannot be read. */
export function absolute(path: string): string {
  try {
    return resolve(path)
  } catch {
    return path // Deno needs a permission to read the working directory, and there may be none any more
  }
}

export function endsLikeFolder(path: string): boolean {
  return path.endsWith('/') || path.endsWith(sep)
}

function fromUrl(value: object): unknown {
  try {
    // fileURLToPath also takes a plain object with the fields of a URL.
    return Object.prototype.toString.call(value) === '[object URL]' ? fileURLToPath(value as URL) : null
  } catch {
    return null
  }
}

export function pathIn(folder: string, name: string): string {
  return join(folder, name)
}

/** The path without links, and with the names as the file system has them; the same one if there is nothing. */
export function realPath(path: string): Promise<string> {
  return realpath(path).catch(() => path)
}

/** The folder of a file. */
export function folderOf(path: string): string {
  return dirname(path)
}
