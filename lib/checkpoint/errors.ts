/** Errors about checkpoint files. */
import { LilyError } from '../base/errors.js'

/** Advice for contents that no writer of the format produces. */
export const DAMAGED = 'the file is damaged or incomplete; copy it again from its source'

/** An error about a file. The text of the error is `${file}: ${message}`. */
export function checkpointError(file: string, message: string, cause?: unknown): LilyError {
  return new LilyError('ERR_LILY_CHECKPOINT', `${file}: ${message}`, { cause })
}

/** Converts an error of Node.js's file system API to a LilyError; other errors are returned as they are. */
export function fileSystemError(file: string, what: string, cause: unknown): unknown {
  if (!(cause instanceof Error) || !('code' in cause) || cause instanceof LilyError) return cause
  return checkpointError(file, `${what} (${cause.message})`, cause)
}

/** Quotes a name from a file for an error message: control characters are escaped, and long names are cut off. */
export function quote(name: string): string {
  return JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}...` : name)
}
