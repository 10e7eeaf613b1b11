/** Warm and cold caches: how many operand sets a cold run must rotate. */
import type { DeviceInfo } from '../../lib/index.js'

/** `cold`: operand sets rotate, so no call finds its operands in a cache. */
export const cacheStates = ['warm', 'cold'] as const
export type Caches = (typeof cacheStates)[number]

/** The size of a large cache, for machines that report none. */
const UNKNOWN_CACHE = 128 * 2 ** 20

/** The number of operand sets of `bytes` each: between two uses of one set, calls touch twice the last-level cache. */
export function coldSetCount(bytes: number, { cache = UNKNOWN_CACHE }: DeviceInfo): number {
  return 1 + Math.max(1, Math.ceil((2 * cache) / bytes))
}
