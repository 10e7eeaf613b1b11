// Transfers a large operand of a pending call and drops the receiver, which frees its memory while the call may use it.
// Prints whether the result is that of the operands before, or the error.
//
//   node --expose-gc transfer.js OPERAND
import { isDeepStrictEqual } from 'node:util'
import { lilyBackward, lilyBackwardAsync, lilyForward, lilyForwardAsync } from 'lily-kernels'

const name = process.argv[2]
// With a smaller rank the call would run at once.
const [tokens, features, rank] = [2048, 1024, 512]
const filled = (value, ...shape) => ({ data: new Float32Array(shape.reduce((p, q) => p * q)).fill(value), shape })
const forwardOperands = () => ({
  x: filled(1, tokens, features),
  a: filled(0.5, rank, features),
  router: filled(1, 2, rank),
  b: filled(0.25, 2, rank, features),
  y: filled(1, tokens, features),
})
const backwardOperands = () => ({ dy: filled(1, tokens, features), dx: filled(1, tokens, features) })

/** The operands of the call that has the one that is lost, and the call without and with a promise. */
function problem() {
  const forward = forwardOperands()
  if (name in forward) {
    return {
      operands: forward,
      run: () => lilyForward(forward).y,
      start: () => lilyForwardAsync(forward).then(({ y }) => y),
    }
  }
  const { saved } = lilyForward(forward)
  const given = backwardOperands()
  const operands = name === 'saved' ? { saved: saved.hidden } : given
  const start = () => lilyBackwardAsync(given, saved).then(({ dx }) => dx)
  return { operands, run: () => lilyBackward(given, saved).dx, start }
}

async function free({ buffer }) {
  structuredClone(buffer, { transfer: [buffer] })
  for (let i = 0; i < 3; i++) {
    await new Promise(setImmediate)
    globalThis.gc()
  }
}

const expected = problem().run().data
const { operands, start } = problem()
const ended = start().then(
  ({ data }) => (isDeepStrictEqual(data, expected) ? 'the same' : 'another result'),
  (error) => `${error.code} ${error.message}`,
)
await free(operands[name].data)
console.log(await ended)
