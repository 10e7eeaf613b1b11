/** Which CUDA devices this machine has, and whether addresses are in their memory. */
import { fail } from '../base/errors.js'
import { bound } from '../binding/errors.js'
import { native } from '../binding/native.js'

/** IDs of the CUDA devices that were listed. If the self-test disables one later, the addon refuses it. */
const usable = new Set<number>()

/** Checks that this machine has a CUDA device. The error contains the backend's reason. */
export function checkCudaDevice(argument: string, id: number): void {
  if (usable.has(id)) return
  const cuda = native.backends().find(({ name }) => name === 'cuda')
  if (cuda?.available === true && cuda.devices.some((device) => device.id === id)) {
    usable.add(id)
    return
  }
  // If querying a device failed, the backend's reason is that failure.
  const reason =
    cuda?.reason ?? `the available devices are ${cuda?.devices.map((device) => device.id).join(', ') ?? 'none'}`
  fail(
    'ERR_LILY_BACKEND_UNAVAILABLE',
    argument,
    `cuda:${id} is not available: ${reason}; use one of backends(), or host memory, { data, shape }`,
  )
}

/** Checks that an address and all bytes from it on are memory of a CUDA device. */
export function checkCudaMemory(argument: string, id: number, address: bigint, byteLength: number): void {
  bound(() => {
    native.checkPointer(id, address, byteLength, argument)
  })
}
