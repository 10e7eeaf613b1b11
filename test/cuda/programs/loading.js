// Captures calls of every kind as the first calls in the process. They are not replayed.
import {
  captureGraph,
  DeviceBuffer,
  lilyBackward,
  lilyForward,
  linearBackward,
  linearForward,
  loraForward,
} from 'lily-kernels'

const device = { type: 'cuda', id: 0 }
const [d, experts] = [136, 2]

const graph = captureGraph(() => {
  for (const [dtype, precision] of [['float32'], ['float32', 'tf32'], ['bfloat16'], ['float16']]) {
    const tensor = (...shape) => DeviceBuffer.allocate(shape, dtype, device)
    for (const [tokens, rank, options] of [
      [70, 16, {}],
      [70, 16, { routing: 'sequence', sequenceOffsets: [0, 20, 70] }],
      [5, 16, { routing: 'token' }],
      [70, 132, {}],
      [70, 132, { routing: 'token' }],
    ]) {
      const operands = {
        x: tensor(tokens, d),
        a: tensor(rank, d),
        router: tensor(experts, rank),
        b: tensor(experts, rank, d),
      }
      lilyBackward({ dy: tensor(tokens, d) }, lilyForward(operands, { ...options, precision }).saved)
    }
    loraForward({ x: tensor(70, d), a: tensor(16, d), b: tensor(d, 16) }, { precision })
    const weight = tensor(d, d)
    linearForward({ x: tensor(70, d), weight }, { precision })
    linearBackward({ dy: tensor(70, d), weight }, { precision })
  }
})
graph.dispose()
