// Sixteen waits are pending when the device fails. Prints the code and the CUDA error of each.
import { DeviceBuffer, Stream } from 'lily-kernels'
import { hold } from './control.js'

const device = { type: 'cuda', id: 0 }
const streams = [Stream.create(device), Stream.create(device), Stream.default(device)]
hold()
// Before the first wait, which asks the device at once: a call on a device that has failed would throw.
const buffers = Array.from({ length: 4 }, (_, i) =>
  DeviceBuffer.allocate([4], 'uint8', device, { stream: streams[i % 3] }).fill(7),
)
const waits = Array.from({ length: 16 }, (_, i) =>
  i % 4 === 0 ? buffers[i / 4].download() : streams[i % 3].synchronize(),
)
const results = await Promise.allSettled(waits)
console.log(JSON.stringify(results.map(({ reason }) => [reason?.code, reason?.cudaError])))
