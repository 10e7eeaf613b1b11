// Makes calls of every kind, one at a time, eagerly and from a graph. It announces each in stderr, where the emulator
// prints the launches.
import { writeSync } from 'node:fs'
import {
  AdamW,
  captureGraph,
  DeviceBuffer,
  foldB,
  lilyBackward,
  lilyForward,
  linearForward,
  Stream,
  tensor,
} from 'lily-kernels'

const device = { type: 'cuda', id: 0 }
const [d, rank, experts] = [136, 16, 2]

const kept = []
const ones = (...shape) => {
  const count = shape.reduce((product, size) => product * size, 1)
  const placed = tensor(new Float32Array(count).fill(0.125), shape).to(device)
  kept.push(placed)
  return placed
}

async function announce(name, call) {
  await Stream.default(device).synchronize()
  writeSync(2, `call ${name}\n`)
  const result = await call()
  await Stream.default(device).synchronize()
  writeSync(2, 'call nothing\n')
  return result
}

for (const [name, tokens, options] of [
  ['batch', 70, {}],
  ['sequence', 70, { routing: 'sequence', sequenceOffsets: Int32Array.of(0, 20, 70) }],
  ['few tokens', 5, { routing: 'token' }],
  ['large rank', 70, { rank: 132 }],
]) {
  const { rank: r = rank, ...call } = options
  const operands = { x: ones(tokens, d), a: ones(r, d), router: ones(experts, r), b: ones(experts, r, d) }
  const dy = ones(tokens, d)
  const { y, saved } = await announce(`forward, ${name}`, () => lilyForward(operands, call))
  const gradients = await announce(`backward, ${name}`, () => lilyBackward({ dy }, saved, { deferB: true }))
  const db = await announce(`fold, ${name}`, () => foldB(saved))
  const graph = captureGraph(() => {
    lilyForward({ ...operands, y }, { ...call, save: false })
  })
  await announce(`graph, ${name}`, () => graph.replay())
  const parameters = new Map([
    ['a', { value: operands.a, grad: gradients.da }],
    ['b', { value: operands.b, grad: db }],
  ])
  const optimiser = new AdamW(parameters, { lr: 0.5, maxNorm: 1 })
  await announce(`AdamW, ${name}`, () => optimiser.step())
  for (const each of [graph, optimiser, db, y, saved, ...Object.values(gradients)]) each.dispose()
}
// CUDA's default streams: the legacy one, and that of the thread.
for (const stream of [1, 2]) {
  const operands = { x: ones(70, d), a: ones(rank, d), b: ones(experts, rank, d) }
  const call = () => lilyForward(operands, { routing: 'uniform', save: false, stream }).y
  const y = await announce(`stream ${stream}`, async () => {
    const made = call()
    await made.toHost()
    return made
  })
  y.dispose()
}
const y = DeviceBuffer.allocate([3, d], 'float32', device).fill(0)
await announce('linear', () => linearForward({ x: ones(3, d), weight: ones(d, d), y }))
for (const each of [y, ...kept]) each.dispose()
