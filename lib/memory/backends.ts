/** What can compute on this machine. */
import { describe, fail } from '../base/errors.js'
import { native } from '../binding/native.js'
import { cudaDevice, type Device } from './device.js'

/** One device of a backend. */
export interface DeviceInfo {
  readonly id: number
  readonly name: string
  /** Of a GPU, for example '9.0'. */
  readonly computeCapability?: string
  /** Bytes. */
  readonly memory?: number
  /** Bytes of the cache before that memory. */
  readonly cache?: number
  /** Of a CPU: the instruction set that the kernels use, for example 'avx512'. */
  readonly simd?: string
  /** Of a CPU: the threads that a call may use (the environment variable LILY_NUM_THREADS sets them). */
  readonly threads?: number
}

export type BackendName = 'cpu' | 'cuda'

/** One backend, and why it is not available where it is not. */
export interface BackendInfo {
  readonly name: BackendName
  readonly available: boolean
  readonly reason?: string
  readonly devices: readonly DeviceInfo[]
}

/**
 * Lists the backends of this machine. The cpu backend is always there; one that is not available gives a `reason`.
 */
export function backends(): BackendInfo[] {
  return native.backends().map(({ name, available, reason, devices }) => ({
    name,
    available,
    ...(reason === undefined ? {} : { reason }),
    devices: devices.map((device) => ({
      id: device.id,
      name: device.name,
      ...(name === 'cpu' ? { simd: device.detail, threads: device.parallelism } : { computeCapability: device.detail }),
      ...(device.memoryBytes > 0 ? { memory: device.memoryBytes } : {}),
      ...(device.cacheBytes > 0 ? { cache: device.cacheBytes } : {}),
    })),
  }))
}

/** CUDA devices that were found to be usable; they do not go away. */
const usable = new Set<number>()

/** Refuses a device that this machine does not have, with the backend's own reason. */
export function checkDevice(argument: string, { type, id }: Device): void {
  if (type === 'cpu' || usable.has(id)) return
  const cuda = native.backends().find(({ name }) => name === 'cuda')
  if (cuda?.available === true && cuda.devices.some((device) => device.id === id)) {
    usable.add(id)
    return
  }
  // A device that failed to answer left its reason there.
  const reason = cuda?.reason ?? `the devices are ${cuda?.devices.map((device) => device.id).join(', ') ?? 'none'}`
  fail(
    'ERR_LILY_BACKEND_UNAVAILABLE',
    argument,
    `cuda:${id} is not available: ${reason}; use host memory, { data, shape }, or see backends()`,
  )
}

/** A device as callers name it: one of CUDA's. */
export function readCudaDevice(argument: string, value: unknown): Device {
  const { type, id = 0 } = (typeof value === 'object' && value !== null ? value : {}) as Partial<Device>
  if (type !== 'cuda' || !Number.isSafeInteger(id) || id < 0) {
    fail('ERR_LILY_DEVICE', argument, `expected { type: 'cuda', id }, got ${describe(value)}`)
  }
  const device = cudaDevice(id)
  checkDevice(argument, device)
  return device
}
