/** Devices: one frozen object per device, so that devices can be compared with `===`. */
import { fail } from '../base/errors.js'

/** The device of a tensor's memory. */
export interface Device {
  /** 'cpu' is the host. */
  readonly type: 'cpu' | 'cuda' | 'webgpu'
  /** CUDA device ID; 0 for the host; the GPUDevices of `createLily` are numbered. */
  readonly id: number
}

/** The host. All host operands share this object. */
export const CPU: Device = Object.freeze({ type: 'cpu', id: 0 })

const cudaDevices = new Map<number, Device>()

export function cudaDevice(id: number): Device {
  let device = cudaDevices.get(id)
  if (device === undefined) cudaDevices.set(id, (device = Object.freeze({ type: 'cuda', id })))
  return device
}

/** A device as it is written in error messages, such as 'cuda:0'. */
export function deviceText({ type, id }: Device): string {
  return `${type}:${id}`
}

/**
 * Refuses what a GPUDevice does not do.
 *
 * @param what the function, in an error message
 */
export function refuseWebGpu(argument: string, what: string, device: Device): void {
  if (device.type !== 'webgpu') return
  fail(
    'ERR_LILY_DEVICE',
    argument,
    `${what} does not run on ${deviceText(device)}; forward, backward and foldB of Lily and LoRA, linear layers, models and AdamW do`,
  )
}
