/** The backends and devices of this machine. */
import { describe, fail } from '../base/errors.js'
import { webGpu, webGpuBinding } from '../binding/devices.js'
import { native } from '../binding/native.js'
import { CPU, cudaDevice, type Device, deviceText } from './device.js'

/** One device of a backend. */
export interface DeviceInfo {
  /** CUDA device ID; 0 on the cpu backend. */
  readonly id: number
  /** Name of the processor or GPU. */
  readonly name: string
  /** Compute capability of a GPU, such as '9.0'. */
  readonly computeCapability?: string
  /** Instructions that a GPU has and its kernels no longer use, because a result of its self-test was wrong: 'wgmma'. */
  readonly without?: string
  /** Size of the device's memory, in bytes. */
  readonly memory?: number
  /** Size of the last-level cache, in bytes. */
  readonly cache?: number
  /** Instruction set that the kernels use on a CPU, such as 'avx512'; 'wasm' or 'wasm-relaxed' on WebAssembly. */
  readonly simd?: string
  /** Number of threads that a call may use on a CPU. The environment variable LILY_NUM_THREADS sets it. */
  readonly threads?: number
}

/** Name of a backend. */
export type BackendName = 'cpu' | 'cuda'

/** One backend. */
export interface BackendInfo {
  /** Name of the backend. */
  readonly name: BackendName
  /** Whether at least one device is usable. */
  readonly available: boolean
  /** Why the backend is not available; of an available cpu backend: why it runs on WebAssembly. */
  readonly reason?: string
  /** The usable devices. */
  readonly devices: readonly DeviceInfo[]
}

/**
 * Lists the backends of this machine. A backend that is not available has a `reason`; the cpu backend is available unless
 * LILY_CPU_ISA, LILY_CPU_BLOCKS or LILY_NUM_THREADS has a value that it cannot run with. Throws nothing.
 *
 * @example
 * for (const { name, available, reason, devices } of backends()) console.log(name, available ? devices : reason)
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
      ...(device.without === '' ? {} : { without: device.without }),
      ...(device.memoryBytes > 0 ? { memory: device.memoryBytes } : {}),
      ...(device.cacheBytes > 0 ? { cache: device.cacheBytes } : {}),
    })),
  }))
}

/** IDs of the CUDA devices that were listed. If the self-test disables one later, the addon refuses it. */
const usable = new Set<number>()

/**
 * Checks that this machine has a device, and that it is the one of the `createLily` object that runs the call, if there
 * is one. The error contains the backend's reason.
 */
export function checkDevice(argument: string, device: Device): void {
  const { type, id } = device
  const { current } = webGpu
  if (current !== null && current.device !== device) {
    fail(
      'ERR_LILY_DEVICE',
      argument,
      `expected ${deviceText(current.device)}, the device of this createLily object, got ${deviceText(device)}; ` +
        'its method tensor() copies numbers of the host to the device; import lily-kernels besides to run on others',
    )
  }
  if (type === 'webgpu') webGpuBinding(argument, id).checkUsable(argument)
  if (type !== 'cuda' || usable.has(id)) return
  const cuda = native.backends().find(({ name }) => name === 'cuda')
  const ids = cuda?.devices.map((each) => each.id) ?? []
  if (cuda?.available === true && ids.includes(id)) {
    usable.add(id)
    return
  }
  // If querying a device failed, the backend's reason is that failure.
  const reason = cuda?.reason ?? `the available devices are ${cuda === undefined ? 'none' : ids.join(', ')}`
  fail(
    'ERR_LILY_BACKEND_UNAVAILABLE',
    argument,
    `cuda:${id} is not available: ${reason}; use one of backends(), or host memory, { data, shape }`,
  )
}

/**
 * Reads a device that the caller passed: `{ type: 'cpu' }`, or `{ type: 'cuda', id }` (default id: 0), which must be
 * available, or the `device` of a `createLily` object.
 *
 * @throws LilyError ERR_LILY_DEVICE, ERR_LILY_BACKEND_UNAVAILABLE
 */
export function readDevice(argument: string, value: unknown): Device {
  const read = typeAndId(value)
  const { type, id } = read
  if (type === 'cpu' && id === CPU.id) return CPU
  if (type === 'webgpu' && Number.isSafeInteger(id)) {
    const binding = webGpuBinding(argument, id as number)
    binding.checkUsable(argument)
    return binding.device
  }
  const expected = "{ type: 'cpu' } or { type: 'cuda', id }, or the device of a createLily object"
  return cudaDeviceOf(argument, value, read, expected)
}

/** Like {@link readDevice}, for a CUDA device only. */
export function readCudaDevice(argument: string, value: unknown): Device {
  return cudaDeviceOf(argument, value, typeAndId(value), "{ type: 'cuda', id }")
}

interface TypeAndId {
  readonly type?: unknown
  readonly id?: unknown
}

function typeAndId(value: unknown): TypeAndId {
  const { type, id = 0 } = (typeof value === 'object' && value !== null ? value : {}) as TypeAndId
  return { type, id }
}

function cudaDeviceOf(argument: string, value: unknown, { type, id }: TypeAndId, expected: string): Device {
  if (type !== 'cuda' || !Number.isSafeInteger(id) || (id as number) < 0) {
    const got = type === undefined ? describe(value) : `type ${describe(type)} and id ${describe(id)}`
    fail('ERR_LILY_DEVICE', argument, `expected ${expected}, got ${got}`)
  }
  const device = cudaDevice(id as number)
  checkDevice(argument, device)
  return device
}
