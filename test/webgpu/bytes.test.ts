/** Copies and fills of any bytes, against the same copies on the host. */
import { expect, it } from 'vitest'
import { ByteCopies } from '../../lib/webgpu/bytes.js'
import { testGpu } from '../support/gpu-device.js'
import { randomFrom } from '../support/random.js'

const { device } = testGpu()
const { STORAGE, COPY_DST, COPY_SRC, MAP_READ, UNIFORM } = GPUBufferUsage
const ALL = STORAGE | COPY_DST | COPY_SRC
const copies = new ByteCopies(device)

function bufferOf(bytes: Uint8Array, usage: number): GPUBuffer {
  const buffer = device.createBuffer({ size: bytes.byteLength, usage, mappedAtCreation: true })
  new Uint8Array(buffer.getMappedRange()).set(bytes)
  buffer.unmap()
  return buffer
}

/** Encodes work and returns the bytes of a buffer after it, read by a kernel of this package's other suites: a copy. */
async function after(buffer: GPUBuffer, encode: (encoder: GPUCommandEncoder) => void): Promise<Uint8Array> {
  const encoder = device.createCommandEncoder()
  encode(encoder)
  const staging = device.createBuffer({ size: buffer.size, usage: MAP_READ | COPY_DST })
  encoder.copyBufferToBuffer(buffer, 0, staging, 0, buffer.size)
  device.queue.submit([encoder.finish()])
  await staging.mapAsync(GPUMapMode.READ)
  return new Uint8Array(staging.getMappedRange()).slice()
}

const allocate = (size: number) => device.createBuffer({ size, usage: ALL | UNIFORM })
const random = randomFrom(1)
const bytes = (length: number) => Uint8Array.from({ length }, () => Math.floor(random() * 256))

const places = [
  ...[0, 1, 2, 3, 4, 257].flatMap((to) => [0, 1, 2, 3, 514].map((from) => [to, from, 1 + ((7 * to + 3 * from) % 40)])),
  ...[1, 2, 3, 4, 1000].map((length) => [6, 3, length]),
]

it.each(places)('to byte %i from byte %i: %i bytes', async (to, from, length) => {
  const [target, source] = [bytes(2048), bytes(2048)]
  const buffer = bufferOf(target, ALL)
  const result = await after(buffer, (encoder) => {
    const read = bufferOf(source, STORAGE)
    copies.copy(encoder, { buffer, byteOffset: to }, { buffer: read, byteOffset: from }, length, allocate)
  })
  target.set(source.subarray(from, from + length), to)
  expect(result).toEqual(target)
})

it.each(places)('zeros from byte %i (%i) on: %i bytes', async (to, _, length) => {
  const target = bytes(2048)
  const buffer = bufferOf(target, ALL)
  const result = await after(buffer, (encoder) => {
    copies.copy(encoder, { buffer, byteOffset: to }, null, length, allocate)
  })
  target.fill(0, to, to + length)
  expect(result).toEqual(target)
})

/** WebGPU copies these itself if both buffers have the usages, and to, from and length are multiples of 4. */
it.each([
  ...[0, 2].flatMap((to) => [0, 1].flatMap((from) => [6, 8].map((length) => [to, from, length, ALL]))),
  [4, 8, 12, STORAGE | COPY_SRC],
])('to byte %i from byte %i of a buffer that can be copied, or zeros: %i bytes, usage %i', async (...place) => {
  const [to, from, length, usage] = place
  const [target, source] = [bytes(64), bytes(64)]
  const [copied, filled] = [1, 2].map(() => bufferOf(target, usage))
  const read = bufferOf(source, ALL)
  target.set(source.subarray(from, from + length), to)
  const afterCopy = await after(copied, (encoder) => {
    copies.copy(encoder, { buffer: copied, byteOffset: to }, { buffer: read, byteOffset: from }, length, allocate)
  })
  expect(afterCopy).toEqual(target)
  target.fill(0, to, to + length)
  const afterFill = await after(filled, (encoder) => {
    copies.copy(encoder, { buffer: filled, byteOffset: to }, null, length, allocate)
  })
  expect(afterFill).toEqual(target)
})

it('more than one dispatch writes', async () => {
  const [target, source] = [new Uint8Array(20 * 2 ** 20), bytes(20 * 2 ** 20)]
  const buffer = bufferOf(target, ALL)
  const length = 17 * 2 ** 20 + 1
  const result = await after(buffer, (encoder) => {
    const read = bufferOf(source, STORAGE)
    copies.copy(encoder, { buffer, byteOffset: 5 }, { buffer: read, byteOffset: 258 }, length, allocate)
  })
  target.set(source.subarray(258, 258 + length), 5)
  expect(Buffer.compare(result, target)).toBe(0)
})
