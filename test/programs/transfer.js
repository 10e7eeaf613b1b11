// Transfers a large operand of a pending call and drops the receiver, which frees its memory while the call uses it.
// Prints how the call ends, if the process lives that long.
//
//   node --expose-gc transfer.js x|y
import { lilyForwardAsync } from 'lily-kernels'

const [tokens, features, rank] = [8192, 1024, 64]
const ones = (...shape) => ({ data: new Float32Array(shape.reduce((p, q) => p * q)).fill(1), shape })
const operands = {
  x: ones(tokens, features),
  a: ones(rank, features),
  router: ones(2, rank),
  b: ones(2, rank, features),
  y: ones(tokens, features),
}
const ended = lilyForwardAsync(operands).then(
  () => 'resolved',
  (error) => `rejected: ${error.code} ${error.message}`,
)
const { buffer } = operands[process.argv[2]].data
structuredClone(buffer, { transfer: [buffer] })
for (let i = 0; i < 3; i++) {
  await new Promise(setImmediate)
  globalThis.gc()
}
console.log(await ended)
