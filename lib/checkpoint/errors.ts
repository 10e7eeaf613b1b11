/** Errors about the files of a checkpoint. */
import { cut, cutMessage, LilyError, MAX_QUOTED } from '../base/errors.js'

/** For bytes that no writer of the format leaves. */
export const DAMAGED = 'the file is damaged or incomplete; copy it again from where it came'

/** Characters of a path in a message: as many as a system takes. */
const MAX_PATH = 4096

/** An error about a file; `message` goes on after its name. */
export function checkpointError(file: string, message: string, cause?: unknown): LilyError {
  return new LilyError('ERR_LILY_CHECKPOINT', `${cut(file, MAX_PATH)}: ${cutMessage(message)}`, { cause })
}

/** For what the file system said. */
export function fileSystemError(file: string, what: string, cause: unknown): unknown {
  if (!(cause instanceof Error) || !('code' in cause) || cause instanceof LilyError) return cause
  return checkpointError(file, `${what} (${cause.message})`, cause)
}

/** A name out of a file, which may hold anything and be of any length, cut to what a message can hold. */
export function quote(name: string): string {
  return cut(JSON.stringify(name.slice(0, MAX_QUOTED)), MAX_QUOTED, name.length)
}

/** The first of some names; their number where there are more. */
export function quoteSome(names: readonly string[]): string {
  const more = names.length > 3 ? ` and ${names.length - 3} more` : ''
  return `${names.slice(0, 3).map(quote).join(', ')}${more}`
}
