/** Devices: one frozen object per device, so that devices can be compared with `===`. */
import { shared } from '../base/copies.js'

/** The device of a tensor's memory. */
export interface Device {
  /** 'cpu' is the host. */
  readonly type: 'cpu' | 'cuda'
  /** CUDA device ID; 0 for the host. */
  readonly id: number
}

/** The host. All host operands share this object. */
export const CPU: Device = shared('cpu', () => Object.freeze({ type: 'cpu', id: 0 }))

const cudaDevices = shared('cudaDevices', () => new Map<number, Device>())

/** The CUDA device with this ID: always the same object. */
export function cudaDevice(id: number): Device {
  let device = cudaDevices.get(id)
  if (device === undefined) cudaDevices.set(id, (device = Object.freeze({ type: 'cuda', id })))
  return device
}
