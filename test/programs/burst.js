// The memory of the process before many results exist at once, with them, and after emptyCache() without them.
import { emptyCache, lilyForwardAsync, tensor } from 'lily-kernels'

const [tokens, d, rank] = [256, 1024, 32]
const ones = (...shape) => tensor(new Float32Array(shape.reduce((product, size) => product * size)).fill(1), shape)
const operands = { x: ones(tokens, d), a: ones(rank, d), router: ones(2, rank), b: ones(2, rank, d) }

async function rss() {
  // Finalizers run in a later turn of the event loop.
  for (let i = 0; i < 3; i++) {
    globalThis.gc()
    await new Promise(setImmediate)
  }
  return process.memoryUsage().rss
}

async function manyResults() {
  const results = await Promise.all(Array.from({ length: 300 }, () => lilyForwardAsync(operands)))
  const during = await rss()
  if (results.some(({ y }) => y.data[0] !== results[0].y.data[0])) throw new Error('results differ')
  return during
}

await lilyForwardAsync(operands)
const before = await rss()
const during = await manyResults()
const afterwards = await rss()
emptyCache()
console.log(JSON.stringify({ before, during, afterwards, emptied: await rss() }))
