// Two threads enqueue in one stream: calls of few tokens, which read b, and steps of an optimiser that write it. The order
// of the calls is open, but each is one piece of work: forward sees b as some number of steps have left it.
import { isMainThread, Worker, workerData } from 'node:worker_threads'
import { AdamW, DeviceBuffer, lilyForward, Stream } from 'lily-kernels'

const device = { type: 'cuda', id: 0 }
const [tokens, d, rank, calls] = [3, 64, 4, 200]
const filled = (...shape) => DeviceBuffer.allocate(shape, 'float32', device).fill(0)
const started = new Int32Array(isMainThread ? new SharedArrayBuffer(4) : workerData.started)

/** Both threads begin at once. */
function meet() {
  Atomics.add(started, 0, 1)
  while (Atomics.load(started, 0) < 2);
}

if (isMainThread) {
  const [x, a, b, y] = [filled(tokens, d), filled(rank, d), filled(1, rank, d), filled(tokens, d)]
  await Stream.default(device).synchronize()
  const worker = new Worker(new URL(import.meta.url), { workerData: { started: started.buffer, ptr: b.ptr } })
  const ended = new Promise((resolve, reject) => worker.on('exit', resolve).on('error', reject))
  meet()
  for (let call = 0; call < calls; call++) lilyForward({ x, a, b, y }, { routing: 'uniform', save: false })
  await Stream.default(device).synchronize()
  await ended
  console.log('right')
} else {
  const value = { ptr: workerData.ptr, shape: [1, rank, d], dtype: 'float32', device }
  const optimiser = new AdamW(new Map([['b', { value, grad: filled(1, rank, d) }]]), { lr: 0, onNonFinite: 'ignore' })
  meet()
  for (let call = 0; call < calls; call++) optimiser.step()
  await Stream.default(device).synchronize()
}
