// Waits for held work until it is terminated.
import { parentPort } from 'node:worker_threads'
import { DeviceBuffer, Stream } from 'lily-kernels'

const device = { type: 'cuda', id: 0 }
const stream = Stream.create(device)
for (let i = 0; i < 8; i++) {
  void DeviceBuffer.allocate([1024], 'uint8', device, { stream }).fill(i).download()
  void stream.synchronize()
}
parentPort.postMessage('waiting')
