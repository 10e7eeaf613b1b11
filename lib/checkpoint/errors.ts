/** Errors about the files of a checkpoint. */
import { LilyError } from '../base/errors.js'

/** For bytes that no writer of the format leaves. */
export const DAMAGED = 'the file is damaged or incomplete; copy it again from where it came'

/** An error about a file; `message` goes on after its name. */
export function checkpointError(file: string, message: string, cause?: unknown): LilyError {
  return new LilyError('ERR_LILY_CHECKPOINT', `${file}: ${message}`, { cause })
}

/** For what the file system said. */
export function fileSystemError(file: string, what: string, cause: unknown): unknown {
  if (!(cause instanceof Error) || !('code' in cause) || cause instanceof LilyError) return cause
  return checkpointError(file, `${what} (${cause.message})`, cause)
}

/** A name out of a file, which may hold anything and be of any length. */
export function quote(name: string): string {
  return JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}...` : name)
}
