/** What can compute on this machine. */
import type { DType } from './dtype.js'
import { fail } from './errors.js'
import { native } from './native.js'
import type { Device } from './operand.js'

/** One device of a backend. */
export interface DeviceInfo {
  readonly id: number
  readonly name: string
  /** Of a GPU, for example '9.0'. */
  readonly computeCapability?: string
  /** Bytes. */
  readonly memory?: number
  /** Of a CPU: the instruction set that the kernels use, for example 'avx512'. */
  readonly simd?: string
  /** Of a CPU: the threads that a call may use (the environment variable LILY_NUM_THREADS sets them). */
  readonly threads?: number
}

/** One backend, and why it is not available where it is not. */
export interface BackendInfo {
  readonly name: 'cpu' | 'cuda'
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
    })),
  }))
}

/** Refuses a device that this version cannot compute on, with the backend's own reason. */
export function refuseDevice(argument: string, device: Device): never {
  const cuda = native.backends().find((backend) => backend.name === 'cuda')
  const reason =
    cuda === undefined || cuda.available ? 'this version of lily-kernels computes on the cpu only' : cuda.reason
  fail(
    'ERR_LILY_BACKEND_UNAVAILABLE',
    argument,
    `the cuda backend (device ${device.id}) is not available: ${reason ?? 'it gave no reason'}; ` +
      `use host memory, { data, shape }, or see backends()`,
  )
}

/** Refuses data types that the cpu backend does not compute yet. */
export function checkComputes(argument: string, dtype: DType): void {
  if (dtype === 'float32') return
  fail(
    'ERR_LILY_DTYPE',
    argument,
    `this version's cpu backend computes float32, got ${dtype}; convert the operands to Float32Array`,
  )
}
