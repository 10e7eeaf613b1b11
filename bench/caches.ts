/** How large a rotation of buffers must be for the caches to forget one before its turn comes again. */
import type { DeviceInfo } from '../lib/index.js'

/** Where a machine does not say: that of a large one. */
const UNKNOWN_CACHE = 128 * 2 ** 20

/** Sets of `bytes` each, of which a call uses one: twice the last cache between two uses. */
export function coldSets(bytes: number, { cache = UNKNOWN_CACHE }: DeviceInfo): number {
  return 1 + Math.max(1, Math.ceil((2 * cache) / bytes))
}
