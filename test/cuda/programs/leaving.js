// A worker is terminated while its waits are pending, and the process ends while its own are.
import { Worker } from 'node:worker_threads'
import { DeviceBuffer, Stream } from 'lily-kernels'
import { hold, release } from './control.js'

const device = { type: 'cuda', id: 0 }
const buffer = DeviceBuffer.allocate([4], 'uint8', device).fill(7)
for (let round = 0; round < 3; round++) {
  hold()
  const worker = new Worker(new URL('pending.js', import.meta.url))
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
  await worker.terminate()
  release()
}
console.log(String(await buffer.download()) === '7,7,7,7' ? 'right' : 'wrong')
hold()
for (let i = 0; i < 16; i++) void Stream.create(device).synchronize()
void buffer.fill(8).download()
process.exit(0)
