/** The check that parameters are finite, when they are read and before they are written. */
import { firstNotFinite } from '../tensor/numbers.js'
import { checkpointError, quote } from './errors.js'
import type { StoredTensor } from './safetensors-file.js'

/**
 * Checks a matrix that is in a file, or is about to be.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT if an element is an infinity or NaN
 */
export function checkFinite(path: string, key: string, stored: StoredTensor): void {
  const index = firstNotFinite(stored.dtype, stored.data)
  if (index === -1) return
  const columns = stored.shape[1]
  throw checkpointError(
    path,
    `tensor ${quote(key)}: expected finite numbers, got an infinity or NaN at ` +
      `[${Math.floor(index / columns)}, ${index % columns}]; use an earlier checkpoint: the training has diverged`,
  )
}
