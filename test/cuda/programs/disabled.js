// Uses a device several times. Prints the errors, and what backends() says before and after.
import { backends, DeviceBuffer, lilyForward, Stream, tensor } from 'lily-kernels'

const device = { type: 'cuda', id: 0 }
const before = backends()[1]
const host = (values, shape) => tensor(Float32Array.from(values), shape)
const uses = [
  () => host([1], [1]).to(device),
  () => DeviceBuffer.allocate([1]),
  () => Stream.create(device),
  () => lilyForward({ x: host([1], [1, 1]).to(device), a: host([1], [1, 1]), b: host([1], [1, 1, 1]) }),
]
const errors = uses.map((use) => {
  try {
    use()
    return null
  } catch ({ code, message }) {
    return { code, message }
  }
})
console.log(JSON.stringify({ before, errors, after: backends()[1] }))
