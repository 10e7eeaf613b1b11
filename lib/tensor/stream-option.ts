/** Reads the option `stream` of a call. */
import { describe, fail } from '../base/errors.js'
import { get } from '../base/options.js'
import type { StreamOption } from '../memory/placement.js'
import { streamStateOf } from './stream.js'

/**
 * Reads `options.stream`: a Stream of this package or a cudaStream_t; null if it is left out.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED
 */
export function readStream(options: object): StreamOption {
  const value = get('options', options, 'stream')
  if (value === undefined) return null
  return streamStateOf('stream', value) ?? readStreamHandle('stream', value)
}

/**
 * Reads a cudaStream_t; 1 is cudaStreamLegacy, 2 is cudaStreamPerThread.
 *
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function readStreamHandle(argument: string, value: unknown): number {
  const handle = typeof value === 'bigint' ? Number(value) : value
  if (Number.isSafeInteger(handle) && (handle as number) > 0) return handle as number
  return fail(
    'ERR_LILY_ARGUMENT',
    argument,
    `expected a Stream, or a cudaStream_t as a bigint or an integer (1: legacy, 2: per-thread), got ${describe(value)}`,
  )
}
