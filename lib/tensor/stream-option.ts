/** Reads the options `stream` and `encoder` of a call. */
import { describe, fail } from '../base/errors.js'
import type { StreamOption } from '../memory/placement.js'
import { StreamState } from '../memory/stream-state.js'
import { gpuOf, hasMembers } from './gpu-buffer.js'
import { readStreamValue } from './stream.js'

/**
 * Reads the option `stream`, a Stream of this package or a cudaStream_t, or `encoder`, a GPUCommandEncoder; null if both
 * are left out.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED
 */
export function readStream(value: unknown, encoder: unknown): StreamOption {
  if (encoder !== undefined) {
    if (value !== undefined) fail('ERR_LILY_ARGUMENT', 'encoder', 'is given beside stream; leave one of them out')
    return readEncoder(encoder)
  }
  if (value === undefined) return null
  return readStreamValue(value)
}

/** An encoder, as the stream of its commands. */
function readEncoder(value: unknown): StreamState {
  checkEncoder(value)
  return StreamState.ofEncoder(gpuOf('encoder', undefined).device, value)
}

/** @throws LilyError ERR_LILY_ARGUMENT for anything else than a GPUCommandEncoder */
export function checkEncoder(value: unknown): asserts value is GPUCommandEncoder {
  const methods = { beginComputePass: 'function', copyBufferToBuffer: 'function', finish: 'function' }
  if (!hasMembers(value, methods))
    fail('ERR_LILY_ARGUMENT', 'encoder', `expected a GPUCommandEncoder, got ${describe(value)}`)
}
