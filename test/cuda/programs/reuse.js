// Memory that is released while work on it is queued, on one stream or several, is reused immediately.
import { DeviceBuffer, memoryStats, Stream } from 'lily-kernels'

const device = { type: 'cuda', id: 0 }
const streams = [Stream.create(device), Stream.create(device), undefined]
const results = []
for (let i = 0; i < 60; i++) {
  const buffer = DeviceBuffer.allocate([64], 'uint8', device, { stream: streams[i % 3] }).fill(i)
  results.push(buffer.download())
  buffer.dispose()
  if (i === 30) streams[0].dispose()
  if (i >= 30) streams[0] = undefined
}
const wrong = (await Promise.all(results)).findIndex((data, i) => data.some((byte) => byte !== i))
const { blocksInUse, allocations } = memoryStats(device)
console.log(
  wrong < 0 && blocksInUse === 0 && allocations < 20 ? 'right' : JSON.stringify({ wrong, blocksInUse, allocations }),
)
