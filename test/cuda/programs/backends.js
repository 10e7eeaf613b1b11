// Prints the result of backends(), the error of a call on a device, and the result of the cpu backend.
import { backends, DeviceBuffer, lilyForward, Stream, tensor } from 'lily-kernels'

const refused = [
  () => tensor(new Float32Array(1), [1]).to({ type: 'cuda' }),
  () => DeviceBuffer.allocate([1]),
  () => Stream.create(),
]
const errors = refused.map((use) => {
  try {
    return String(use())
  } catch (error) {
    return `${error.code}: ${error.message}`
  }
})
const { y } = lilyForward(
  {
    x: { data: Float32Array.of(1, 2), shape: [2, 1] },
    a: { data: Float32Array.of(3), shape: [1, 1] },
    b: { data: Float32Array.of(4), shape: [1, 1, 1] },
  },
  { routing: 'uniform' },
)
console.log(JSON.stringify({ cuda: backends()[1], errors, y: [...y.data] }))
