// Other code of the process resets the devices. Prints the errors of the calls that follow.
import { captureGraph, DeviceBuffer, emptyCache, Event, Stream } from 'lily-kernels'
import { hold, release, reset } from './control.js'

const device = { type: 'cuda', id: 0 }
const stream = Stream.create(device)
const event = Event.create(device).record(stream)
const buffer = DeviceBuffer.allocate([4], 'uint8', device, { stream }).fill(7)
const other = DeviceBuffer.allocate([4], 'uint8', device).fill(1)
const graph = captureGraph(() => other.fill(2))
await buffer.download()
hold()
const pending = Array.from({ length: 4 }, () => buffer.fill(8).download())
reset(process.env.LILY_TEST_RESET)
const results = await Promise.allSettled(pending)
release()
const errors = results.map(({ reason }) => reason)
const calls = [
  () => buffer.fill(9),
  () => buffer.upload(Uint8Array.of(1, 2, 3, 4)),
  () => buffer.download(),
  () => stream.synchronize(),
  () => event.query(),
  () => event.record(stream),
  () => graph.replay(),
  () => Stream.create(device),
  () => DeviceBuffer.allocate([2 ** 20], 'uint8', device),
  () => captureGraph(() => other.fill(3)),
]
for (const call of calls) {
  try {
    await call()
    errors.push('no error')
  } catch (error) {
    errors.push(error)
  }
}
for (const each of [buffer, other, graph, event, stream]) each.dispose()
emptyCache()
const known = errors.filter((error) => error === undefined || error.code !== undefined)
console.log(
  JSON.stringify({ errors: errors.length, texts: known.map((e) => e && `${e.code} ${e.cudaError} ${e.message}`) }),
)
