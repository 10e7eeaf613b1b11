// The work of the main thread and of every worker: forward and backward of a few problems, and a hash of all results.
import { createHash } from 'node:crypto'
import {
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  lilyForwardAsync,
  loraBackward,
  loraBackwardAsync,
  loraForward,
  loraForwardAsync,
} from 'lily-kernels'

const problems = [
  { routing: 'batch', tokens: 64, dIn: 256, dOut: 320, rank: 16, experts: 4 },
  { routing: 'sequence', tokens: 50, dIn: 96, dOut: 72, rank: 8, experts: 3, sequenceOffsets: [0, 13, 13, 50] },
  { routing: 'token', tokens: 33, dIn: 113, dOut: 96, rank: 7, experts: 2 },
  { routing: 'none', tokens: 70, dIn: 200, dOut: 128, rank: 8, experts: 1 },
]

const long = { routing: 'batch', tokens: 512, dIn: 768, dOut: 768, rank: 32, experts: 4 }

function operands({ routing, tokens, dIn, dOut, rank, experts, sequenceOffsets }) {
  let state = 1
  const matrix = (...shape) => {
    const data = Float32Array.from({ length: shape.reduce((p, q) => p * q) }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return state / 2 ** 31 - 1
    })
    return { data, shape }
  }
  const inputs = { x: matrix(tokens, dIn), a: matrix(rank, dIn) }
  const dy = matrix(tokens, dOut)
  if (routing === 'none') return { inputs: { ...inputs, b: matrix(dOut, rank) }, dy, options: {} }
  const lily = { ...inputs, router: matrix(experts, rank), b: matrix(experts, rank, dOut) }
  return { inputs: lily, dy, options: { routing, ...(sequenceOffsets && { sequenceOffsets }) } }
}

function digest(results) {
  const hash = createHash('sha256')
  for (const { data } of results) hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  return hash.digest('hex')
}

export function runSync() {
  return digest(
    problems.flatMap((problem) => {
      const { inputs, dy, options } = operands(problem)
      const [forward, backward] = problem.routing === 'none' ? [loraForward, loraBackward] : [lilyForward, lilyBackward]
      const { y, saved } = forward(inputs, options)
      return [y, ...Object.values(backward({ dy }, saved))]
    }),
  )
}

export async function runAsync() {
  const results = await Promise.all(
    problems.map(async (problem) => {
      const { inputs, dy, options } = operands(problem)
      const [forward, backward] =
        problem.routing === 'none' ? [loraForwardAsync, loraBackwardAsync] : [lilyForwardAsync, lilyBackwardAsync]
      const { y, saved } = await forward(inputs, options)
      return [y, ...Object.values(await backward({ dy }, saved))]
    }),
  )
  return digest(results.flat())
}

/** Long calls with almost no time between them, so that terminating the thread interrupts a call. */
export function longCalls() {
  const { inputs, dy, options } = operands(long)
  return {
    sync: () => lilyBackward({ dy }, lilyForward(inputs, options).saved),
    async: async () => lilyBackwardAsync({ dy }, (await lilyForwardAsync(inputs, options)).saved),
  }
}
