// A stream ends while its work is queued: the default stream reuses its memory after that work.
import { DeviceBuffer, Stream } from 'lily-kernels'

const device = { type: 'cuda', id: 0 }
const stream = Stream.create(device)
const [first, copy] = [1, 0].map((byte) => DeviceBuffer.allocate([4096], 'uint8', device, { stream }).fill(byte))
copy.copyFrom(first)
first.dispose()
console.error('the stream ends')
try {
  stream.dispose()
} catch (error) {
  console.error(error.code)
}
const reused = DeviceBuffer.allocate([4096], 'uint8', device).fill(2)
// The test lets the first creation of an event fail.
const bytes = await copy.download().catch(() => copy.download())
console.log(bytes.every((byte) => byte === 1) ? 'right' : `wrong: ${bytes[0]}`)
reused.dispose()
copy.dispose()
