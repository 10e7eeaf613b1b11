/** The option `stream` of a call. */
import { describe, fail } from '../base/errors.js'
import { get } from '../base/options.js'
import type { StreamOption } from '../memory/placement.js'
import { Stream, streamStateOf } from './stream.js'

/** One of the package's streams, or the handle of another. */
export function readStream(options: object): StreamOption {
  const value = get('options', options, 'stream')
  if (value === undefined) return null
  return value instanceof Stream ? streamStateOf('stream', value) : readStreamHandle('stream', value)
}

/** CUDA's handle of a stream: 1 is the legacy stream, 2 the per-thread one. */
export function readStreamHandle(argument: string, value: unknown): number {
  const handle = typeof value === 'bigint' ? Number(value) : value
  if (Number.isSafeInteger(handle) && (handle as number) > 0) return handle as number
  return fail(
    'ERR_LILY_ARGUMENT',
    argument,
    `expected a Stream or a CUDA handle as a bigint or an integer (1: legacy, 2: per-thread), got ${describe(value)}`,
  )
}
