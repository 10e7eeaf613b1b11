// Uses the device until it is terminated.
import { DeviceBuffer, tensor } from 'lily-kernels'
import { parentPort } from 'node:worker_threads'

const kept = DeviceBuffer.allocate([256]).fill(0)
const moved = tensor(Float32Array.of(1, 2, 3), [3]).to({ type: 'cuda' })
parentPort.postMessage([...(await moved.toHost()).data].join())
setInterval(() => void kept.fill(1).download(), 1)
