// While sixteen waits are pending, Node.js reads a file; then the work runs, and all of them resolve.
import { readFile } from 'node:fs/promises'
import { DeviceBuffer, Event, lilyBackwardAsync, lilyForward, lilyForwardAsync, Stream, tensor } from 'lily-kernels'
import { hold, release } from './control.js'

const device = { type: 'cuda', id: 0 }
const host = (values, shape) => tensor(Float32Array.from(values), shape).to(device)
const [x, a, b, dy] = [host([1, 2], [2, 1]), host([3], [1, 1]), host([4], [1, 1, 1]), host([1, 1], [2, 1])]
const { saved } = lilyForward({ x, a, b }, { routing: 'uniform' })
const stream = Stream.create(device)
const event = Event.create(device)

hold()
const bytes = DeviceBuffer.allocate([4], 'uint8', device, { stream }).fill(7)
event.record(stream)
let settled = 0
const waits = [
  lilyForwardAsync({ x, a, b }, { routing: 'uniform', save: false }).then(({ y }) => y.toHost()),
  lilyBackwardAsync({ dy }, saved).then(({ dx }) => dx.toHost()),
  bytes.download(),
  event.synchronize(),
  ...Array.from({ length: 12 }, (_, i) => (i % 2 === 0 ? stream : Stream.default(device)).synchronize()),
].map((wait) => wait.finally(() => settled++))
const text = await readFile(new URL('waiting.js', import.meta.url), 'utf8')
const early = settled
release()
const [y, dx, data] = await Promise.all(waits)
const seen = JSON.stringify([waits.length, early, text.length > 0, [...y.data], [...dx.data], [...data]])
console.log(seen === '[16,0,true,[12,24],[12,12],[7,7,7,7]]' ? 'right' : seen)
