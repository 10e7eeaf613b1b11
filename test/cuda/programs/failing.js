// Sixteen waits are pending when the device fails. Prints the code and the CUDA error of each.
import { DeviceBuffer, Stream } from 'lily-kernels'
import { hold } from './control.js'

const device = { type: 'cuda', id: 0 }
const streams = [Stream.create(device), Stream.create(device), Stream.default(device)]
hold()
const waits = Array.from({ length: 16 }, (_, i) => {
  const stream = streams[i % 3]
  return i % 4 === 0 ? DeviceBuffer.allocate([4], 'uint8', device, { stream }).fill(7).download() : stream.synchronize()
})
const results = await Promise.allSettled(waits)
console.log(JSON.stringify(results.map(({ reason }) => [reason?.code, reason?.cudaError])))
