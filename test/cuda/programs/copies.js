// Two copies of the package in one process: device memory, streams, events and graphs of one copy, used by the other.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import * as imported from 'lily-kernels'

const required = createRequire(import.meta.url)('lily-kernels')
const device = { type: 'cuda', id: 0 }

async function check(made, used) {
  assert.notEqual(made.Tensor, used.Tensor, 'the copies are one')
  const stream = made.Stream.create(device)
  assert(stream instanceof used.Stream)
  const x = made.DeviceBuffer.allocate([2, 2], 'float32', device, { stream }).upload(Float32Array.of(1, 0, 0, 1))
  const y = used.DeviceBuffer.allocate([2, 2], 'float32', device, { stream }).fill(0)
  const a = made.tensor([1, 1], [1, 2]).to(device)
  const b = used.tensor([1, 2], [1, 1, 2]).to(device)
  const options = { routing: 'uniform', save: false, stream }

  // hidden = [1, 1], y += [1, 2] for both tokens
  const result = used.lilyForward({ x, a, b, y }, options)
  const [start, end] = [made.Event.create(device).record(stream), used.Event.create(device).record(stream)]
  used.Stream.default(device).waitEvent(start)
  await end.synchronize()
  assert(start.elapsedTime(end) >= 0)
  assert.deepEqual([...(await result.y.toHost()).data], [1, 2, 1, 2])

  // A graph of one copy captures the calls of both.
  const graph = made.captureGraph(() => {
    used.lilyForward({ x, a, b, y }, { routing: 'uniform', save: false })
    made.lilyForward({ x, a, b, y }, { routing: 'uniform', save: false })
    assert.throws(() => used.captureGraph(() => undefined), used.LilyError)
  })
  assert.deepEqual([...(await y.download())], [1, 2, 1, 2])
  graph.replay()
  graph.replay()
  assert.deepEqual([...(await y.download())], [5, 10, 5, 10])
  graph.dispose()

  const copy = used.DeviceBuffer.allocate([2, 2]).copyFrom(y)
  const again = made.DeviceBuffer.allocate([2, 2]).copyFrom(copy)
  assert.deepEqual([...(await again.download())], [5, 10, 5, 10])
  const overlapping = { x, a, b, y: x.tensor() }
  assert.throws(() => used.lilyForward(overlapping, options), { code: 'ERR_LILY_ARGUMENT', argument: 'y' })
  x.dispose()
  assert.throws(() => used.lilyForward({ x, a, b, y }, options), { code: 'ERR_LILY_DISPOSED', argument: 'x' })
  stream.dispose()
  assert.throws(() => end.record(stream), { code: 'ERR_LILY_DISPOSED', argument: 'stream' })
  for (const each of [y, a, b, copy, again, start, end]) each.dispose()
}

await check(imported, required)
await check(required, imported)
console.log('right')
