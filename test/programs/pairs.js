// Runs pairs of forward and backward, `node pairs.js WAY COUNT`, and prints the memory of the process before, after and at peak.
import {
  foldB,
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  lilyForwardAsync,
  loraBackward,
  loraForward,
} from 'lily-kernels'

// y and dx have 64 KB each.
const [tokens, dIn, dOut, rank, experts] = [128, 128, 128, 8, 2]
const matrix = (...shape) => ({ data: new Float32Array(shape.reduce((p, q) => p * q)).fill(0.1), shape })
const [x, a, router, dy] = [matrix(tokens, dIn), matrix(rank, dIn), matrix(experts, rank), matrix(tokens, dOut)]
const lily = { x, a, router, b: matrix(experts, rank, dOut) }
const lora = { x, a, b: matrix(dOut, rank) }

const ways = {
  disposed() {
    const { y, saved } = lilyForward(lily)
    for (const tensor of [y, ...Object.values(lilyBackward({ dy }, saved))]) tensor.dispose()
    saved.dispose()
  },
  dropped() {
    lilyBackward({ dy }, lilyForward(lily).saved)
  },
  async promised() {
    const { saved } = await lilyForwardAsync(lily)
    await lilyBackwardAsync({ dy }, saved)
  },
  folded() {
    const { saved } = lilyForward(lily)
    lilyBackward({ dy }, saved, { deferB: true })
    foldB(saved)
  },
  lora() {
    loraBackward({ dy }, loraForward(lora).saved)
  },
  refused() {
    try {
      lilyBackward({ dy: { ...dy, shape: [dOut] } }, lilyForward(lily).saved)
    } catch (error) {
      if (error.code !== 'ERR_LILY_SHAPE') throw error
    }
  },
}
const way = ways[process.argv[2]]

/** Finalizers run in a later turn of the event loop. */
async function held() {
  for (let i = 0; i < 3; i++) {
    globalThis.gc()
    await new Promise(setImmediate)
  }
  const { arrayBuffers, external, heapUsed, rss } = process.memoryUsage()
  return { arrayBuffers, external, heapUsed, rss }
}

async function repeat(count) {
  for (let i = 0; i < count; i++) await way()
}

// Warm up caches and compiled code.
await repeat(500)
const before = await held()
await repeat(Number(process.argv[3]))
const peak = process.resourceUsage().maxRSS * 1024
const after = await held()
const kept = Array.from({ length: 100 }, () => lilyForward(lily).y)
const keeping = await held()
console.log(JSON.stringify({ before, after, peak, keeping, keptBytes: kept.length * tokens * dOut * 4 }))
