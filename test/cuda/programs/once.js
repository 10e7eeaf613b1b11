// Copies to a device and back, and runs a kernel with more shared memory than a kernel may use unasked.
import { DeviceBuffer, lilyForward, tensor } from 'lily-kernels'
import { parentPort } from 'node:worker_threads'

const device = { type: 'cuda', id: 0 }
const moved = tensor(Float32Array.of(1, 2, 3), [3]).to(device)
const filled = (value, ...shape) => {
  const length = shape.reduce((product, size) => product * size)
  return tensor(new Float32Array(length).fill(value), shape).to(device)
}
// hidden = 96; every weight is 1/4; y = 64 * 96
const operands = { x: filled(1, 64, 96), a: filled(1, 64, 96), router: filled(0, 4, 64), b: filled(1, 4, 64, 64) }
const { y } = lilyForward(operands, { routing: 'token', save: false })
parentPort.postMessage(`${[...(await moved.toHost()).data]} ${(await y.toHost()).data[9]}`)
DeviceBuffer.allocate([1], 'uint8', device).dispose()
