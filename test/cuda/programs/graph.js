// Graphs on a separate stream, between work of other streams on the same memory. Only the package orders them.
import { captureGraph, DeviceBuffer, emptyCache, lilyForward, Stream, tensor } from 'lily-kernels'

const device = { type: 'cuda', id: 0 }
const [first, second] = [Stream.create(device), Stream.create(device)]
const host = (values, shape) => tensor(Float32Array.from(values), shape)
const x = DeviceBuffer.allocate([2, 2], 'float32', device, { stream: first })
const y = DeviceBuffer.allocate([2, 2], 'float32', device, { stream: second }).fill(0)
const a = host([1, 1], [1, 2]).to(device)
const b = host([1, 2], [1, 1, 2]).to(device)

// hidden = [step, step], y += [step, 2 step] for both tokens; the second graph does the same.
const record = () => captureGraph(() => lilyForward({ x, a, b, y }, { routing: 'uniform', save: false }))
const graphs = [record(), record()]
const expected = new Float32Array(4)
for (let step = 1; step <= 6; step++) {
  x.upload(Float32Array.of(step, 0, 0, step))
  for (const graph of graphs) graph.replay()
  // Allocations on every stream, which other work fills.
  for (const stream of [first, second, undefined])
    DeviceBuffer.allocate([64], 'uint8', device, { stream }).fill(255).dispose()
  if (step === 3) emptyCache()
  expected.forEach((value, i) => (expected[i] = value + 2 * step * (1 + (i % 2))))
}
for (const graph of graphs) graph.dispose()
console.log(String(await y.download()) === String(expected) ? 'right' : `wrong: ${await y.download()}, not ${expected}`)
for (const each of [x, y, a, b, first, second]) each.dispose()
