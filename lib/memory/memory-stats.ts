/** What the package keeps of a device's memory. */
import { describe, fail } from '../base/errors.js'
import { native, type PoolStatistics } from '../binding/native.js'
import { checkDevice } from './backends.js'
import { cudaDevice } from './device.js'

/** A pool of memory: what calls and tensors use of it, and what is kept for the next ones. */
export interface PoolStats {
  readonly bytesInUse: number
  /** Kept for later, and given back by {@link emptyCache}. */
  readonly bytesCached: number
  readonly peakBytesInUse: number
  readonly blocksInUse: number
  readonly blocksCached: number
  /** How often memory was asked of the system or the driver. It stands still when all calls are served by the pool. */
  readonly allocations: number
}

/** See {@link memoryStats}. */
export interface MemoryStats extends PoolStats {
  /** Pinned memory of the host, through which data goes to a CUDA device and comes from it. */
  readonly pinned?: PoolStats
}

/**
 * The package's pool of a device; `id` is 0 where it is left out. On the cpu results that are not given are not of the
 * pool, workspaces are.
 *
 * @throws LilyError ERR_LILY_BACKEND_UNAVAILABLE where there is no such device
 */
export function memoryStats(
  device: { readonly type: 'cpu' | 'cuda'; readonly id?: number | undefined } = { type: 'cuda' },
): MemoryStats {
  const { type, id = 0 } = device ?? {}
  const { backend } = native.constants
  if (type === 'cpu') return statistics(backend.cpu, 0, false)
  if (type !== 'cuda' || !Number.isSafeInteger(id)) {
    fail('ERR_LILY_DEVICE', 'device', `expected { type: 'cpu' } or { type: 'cuda', id }, got ${describe(device)}`)
  }
  checkDevice('device', cudaDevice(id))
  return { ...statistics(backend.cuda, id, false), pinned: statistics(backend.cuda, id, true) }
}

function statistics(backend: number, device: number, pinned: boolean): PoolStatistics {
  return native.poolStatistics(backend, device, pinned)
}

/**
 * Gives memory that no tensor uses back to the system and to the driver, on all devices. It waits for the work that
 * still uses it, so it is not for the middle of training.
 */
export function emptyCache(): void {
  native.emptyCache()
}
