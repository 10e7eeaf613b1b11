/** The check that parameters are finite, when they are read and before they are written. */
import { checkpointError, quote } from './errors.js'
import type { StoredTensor } from './safetensors-file.js'

/** Mask of the exponent bits. All of them are set in infinities and NaNs only. */
const EXPONENT = { float32: 0x7f800000, bfloat16: 0x7f80, float16: 0x7c00 } as const

/**
 * Checks a matrix that is in a file, or is about to be.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT if an element is an infinity or NaN
 */
export function checkFinite(path: string, key: string, stored: StoredTensor): void {
  const index = firstNotFinite(stored)
  if (index === -1) return
  const columns = stored.shape[1]
  throw checkpointError(
    path,
    `tensor ${quote(key)}: expected finite numbers, got an infinity or NaN at ` +
      `[${Math.floor(index / columns)}, ${index % columns}]; use an earlier checkpoint: the training has diverged`,
  )
}

/** Index of the first element that is an infinity or NaN; -1 if all are finite. */
function firstNotFinite({ dtype, data }: StoredTensor): number {
  const bits = data instanceof Float32Array ? new Uint32Array(data.buffer, data.byteOffset, data.length) : data
  const exponent = EXPONENT[dtype]
  return bits.findIndex((value: number) => (value & exponent) === exponent)
}
