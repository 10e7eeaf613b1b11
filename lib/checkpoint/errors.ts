/** Errors about the files of a checkpoint. */
import { cut, cutMessage, describe, isError, LilyError, MAX_QUOTED } from '../base/errors.js'

/** For bytes that no writer of the format leaves. */
export const DAMAGED = 'the file is damaged or incomplete; copy it again from where it came'

/** Characters of a path in a message: as many as a system takes. */
const MAX_PATH = 4096

/** An error about a file; `message` goes on after its name. */
export function checkpointError(file: string, message: string, cause?: unknown): LilyError {
  return new LilyError('ERR_LILY_CHECKPOINT', `${cut(file, MAX_PATH)}: ${cutMessage(message)}`, { cause })
}

/** What to do about an error of the file system. */
const REMEDIES: Readonly<Record<string, string>> = {
  EACCES: 'allow this process to list the folder and to read and write its files',
  EBADF: 'read its tensors before close(), or open it again',
  EBUSY: 'close the programs that have the file open',
  ELOOP: 'remove the links, which lead to themselves',
  // The limit is 255; replace-files.ts adds 23 bytes to the name of a temporary file.
  ENAMETOOLONG: 'shorten the name; the name of a file to save may have 232 bytes',
  ENOENT: 'correct the path, or the working directory of a relative one',
  ENOSPC: 'make room on the disk',
  ENOTDIR: 'a part of the path before its end is the name of a file; correct it',
  EPERM: 'close the programs that have the file open, and allow this process to replace it',
  EROFS: 'pass a folder of a file system that can be written',
}

/** The error for a failed operation of the file system, with its cause and a remedy; other errors as they are. */
export function fileSystemError(file: string, what: string, cause: unknown): unknown {
  if (!isError(cause) || !('code' in cause) || cause instanceof LilyError) return cause
  const remedy = REMEDIES[String(cause.code)]
  return checkpointError(file, `${what} (${cause.message})${remedy === undefined ? '' : `; ${remedy}`}`, cause)
}

/** A name out of a file, which may hold anything and be of any length, cut to what a message can hold. */
export function quote(name: string): string {
  return cut(JSON.stringify(name.slice(0, MAX_QUOTED)), MAX_QUOTED, name.length)
}

/** A value out of a file. */
export function quoteAny(value: unknown): string {
  if (typeof value === 'string') return quote(value)
  // Not describe(value): the value of a key `constructor` is not the name of a class here.
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'an array' : 'an object'
  return value === undefined ? 'none' : describe(value)
}

/** The first of some names; their number where there are more. */
export function quoteSome(names: readonly string[]): string {
  const more = names.length > 3 ? ` and ${names.length - 3} more` : ''
  return `${names.slice(0, 3).map(quote).join(', ')}${more}`
}
