// A worker is terminated while it captures a graph; the main thread continues on the default stream of the device.
import { Worker } from 'node:worker_threads'
import { DeviceBuffer } from 'lily-kernels'

const buffer = DeviceBuffer.allocate([4], 'uint8').fill(1)
const worker = new Worker(new URL('capturing.js', import.meta.url))
await new Promise((resolve, reject) => {
  worker.once('message', resolve).once('error', reject)
})
await worker.terminate()
const seen = [await buffer.download(), await buffer.fill(3).download()].map((data) => [...data].join())
console.log(seen.join(' ') === '1,1,1,1 3,3,3,3' ? 'right' : seen.join(' '))
buffer.dispose()
