/** Devices, as objects that can be compared by identity. */

/** Where a tensor's memory is. */
export interface Device {
  readonly type: 'cpu' | 'cuda'
  readonly id: number
}

/** The host, as a device. All host operands share this object, so that it can be compared by identity. */
export const CPU: Device = Object.freeze({ type: 'cpu', id: 0 })

const cudaDevices = new Map<number, Device>()

/** A CUDA device; the same object for the same number. */
export function cudaDevice(id: number): Device {
  let device = cudaDevices.get(id)
  if (device === undefined) cudaDevices.set(id, (device = Object.freeze({ type: 'cuda', id })))
  return device
}
