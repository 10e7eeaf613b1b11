/** Statistics of the package's memory pools. */
import { webGpu, webGpuBinding } from '../binding/devices.js'
import { native, type PoolStats } from '../binding/native.js'
import { backend } from '../binding/slots.js'
import { readDevice } from './backends.js'
import type { Device } from './device.js'

export type { PoolStats } from '../binding/native.js'

/** Result of {@link memoryStats}. */
export interface MemoryStats extends PoolStats {
  /** Pool of pinned host memory, the staging buffers of copies between the host and a CUDA device. */
  readonly pinned?: PoolStats
}

/**
 * Statistics of the package's memory pool of a device. The cpu pool holds workspaces; new host results are not part
 * of it.
 *
 * @param device default: `{ type: 'cuda', id: 0 }`
 * @throws LilyError ERR_LILY_DEVICE, ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_ARGUMENT if reading `device` throws
 * @example
 * console.log(memoryStats({ type: 'cpu' }).bytesInUse)
 */
export function memoryStats(
  device: { readonly type: Device['type']; readonly id?: number | undefined } = { type: 'cuda' },
): MemoryStats {
  const { type, id } = readDevice('device', device)
  if (type === 'webgpu') return webGpuBinding('device', id).poolStatistics(0, id, false)
  if (type === 'cpu') return native.poolStatistics(backend.cpu, 0, false)
  return { ...native.poolStatistics(backend.cuda, id, false), pinned: native.poolStatistics(backend.cuda, id, true) }
}

/**
 * Frees the cached blocks of all pools, on the host and on all devices (compare `torch.cuda.empty_cache`), and returns free
 * memory of the heap of glibc to the system. It waits for enqueued work that still uses the blocks, so do not call it in a
 * training loop. Throws nothing.
 *
 * @example
 * emptyCache()
 */
export function emptyCache(): void {
  native.emptyCache()
  for (const binding of webGpu.bindings.values()) binding.emptyCache()
}
