// While the device holds its work, nothing says that the work is complete, and what it uses is kept.
import { captureGraph, DeviceBuffer, Event, lilyForward, LilyError, Stream, tensor } from 'lily-kernels'
import { hold, release } from './control.js'

const device = { type: 'cuda', id: 0 }
const memory = DeviceBuffer.allocate([1, 2], 'float32', device).upload(Float32Array.of(1, 2))
const a = tensor([1, 1], [1, 2]).to(device)
const b = tensor([1, 2], [1, 1, 2]).to(device)

/** Calls with the memory as that of another library, once directly and once in a graph, and drops everything. */
function enqueue() {
  const owners = [{ of: 'a call' }, { of: 'a graph' }]
  const [call, captured] = owners.map((owner) => () => {
    const { ptr, shape, dtype } = memory
    lilyForward({ x: { ptr, shape, dtype, device, owner }, a, b }, { routing: 'uniform', save: false }).y.dispose()
  })
  call()
  captureGraph(captured).replay().dispose()
  return owners.map((owner) => new WeakRef(owner))
}

const complete = []
const graph = captureGraph(() => memory.fill(0))
const [start, end] = [Event.create(device), Event.create(device)]
const elapsed = () => {
  try {
    return start.elapsedTime(end) >= 0
  } catch (error) {
    if (!(error instanceof LilyError)) throw error
    return error.message
  }
}

hold()
const owners = enqueue()
start.record()
graph.replay()
end.record()
const waits = { stream: Stream.default(device), graph, event: end, memory: { synchronize: () => memory.download() } }
const pending = Object.entries(waits).map(async ([name, waited]) => {
  await waited.synchronize()
  complete.push(name)
})

async function state() {
  for (let i = 0; i < 12; i++) {
    globalThis.gc()
    await new Promise(setImmediate)
  }
  const kept = owners.flatMap((owner) => owner.deref()?.of ?? [])
  return { kept, complete: complete.toSorted(), query: end.query(), elapsed: elapsed() }
}

const held = await state()
release()
await Promise.all(pending)
console.log(JSON.stringify({ held, released: await state() }))
