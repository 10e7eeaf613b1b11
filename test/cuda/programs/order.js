// Two streams, a foreign handle and the default stream alternate on the same memory. Only the package orders them.
import { DeviceBuffer, lilyForward, Stream, tensor } from 'lily-kernels'

const device = { type: 'cuda', id: 0 }
const [first, second] = [Stream.create(device), Stream.create(device)]
const host = (values, shape) => tensor(Float32Array.from(values), shape)
const x = DeviceBuffer.allocate([2, 2], 'float32', device, { stream: first })
const y = DeviceBuffer.allocate([2, 2], 'float32', device, { stream: second }).upload(Float32Array.of(0, 0, 0, 0))
const a = host([1, 1], [1, 2]).to(device)
const b = host([1, 2], [1, 1, 2]).to(device)

const expected = new Float32Array(4)
for (let step = 1; step <= 6; step++) {
  x.upload(Float32Array.of(step, 0, 0, step))
  // hidden = [step, step], y += [step, 2 step] for both tokens. 1 is the legacy stream, which no stream of the package
  // waits for.
  const stream = [first, second, undefined, first.handle, 1, 2n][step - 1]
  const { y: result } = lilyForward({ x, a, b, y }, { routing: 'uniform', save: false, stream })
  result.dispose()
  expected.forEach((value, i) => (expected[i] = value + step * (1 + (i % 2))))
}
console.log(String(await y.download()) === String(expected) ? 'right' : `wrong: ${await y.download()}, not ${expected}`)
