/**
 * Tensors of DLPack in device memory, on a GPU or the emulator, exchanged with a second addon.
 *
 * @project cuda
 */
import { fileURLToPath } from 'node:url'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { native } from '../../lib/binding/native.js'
import {
  captureGraph,
  DeviceBuffer,
  fromDLPack,
  lilyBackward,
  lilyForward,
  memoryStats,
  Stream,
  tensor,
  toDLPack,
} from '../../lib/index.js'
import { collect } from '../support/collect.js'
import { expectSameBits } from '../support/compare.js'
import { buildAddon, loadAddon, type Made, made } from './exchange.js'
import { expectRefused } from '../refusals/refused.js'
import { type HostTensor, sizes, smallOperands } from '../support/small.js'
import { temporaryFolder } from '../support/temporary.js'

const source = fileURLToPath(new URL('./programs/dlpack.c', import.meta.url))
const addon = loadAddon(buildAddon(source, temporaryFolder()))
const device = { type: 'cuda', id: 0 } as const
const { tokens, dIn, dOut } = sizes
const host = smallOperands()
const onDevice = ({ data, shape }: HostTensor) => tensor(data, shape).to(device)
const { a, router, b, dy } = Object.fromEntries(
  Object.entries(host).map(([name, value]) => [name, onDevice(value as HostTensor)]),
) as Record<keyof typeof host, ReturnType<typeof onDevice>>
const rest = { a, router, b }

/** A capsule of the second addon with memory of a buffer. */
const produce = (memory: DeviceBuffer, changes: Partial<Made> = {}) =>
  addon.produce({
    ...made(new Float32Array(0), memory.shape, { deviceType: 2, ...changes }),
    data: undefined,
    address: changes.address ?? memory.ptr,
  })
const take = (capsule: object) => addon.take(capsule) ?? expect.fail('the capsule has no tensor')
const buffer = ({ data, shape }: HostTensor) => DeviceBuffer.allocate(shape).upload(data)
/** What the producer of memory does before it gives it away: its last write is done. */
const ready = async (memory: DeviceBuffer) => {
  await Stream.default(device).synchronize()
  return memory
}

afterEach(() => {
  vi.restoreAllMocks()
})

describe('fromDLPack', () => {
  it('takes device memory, which backward uses, and gives it back when nothing uses it', async () => {
    const memory = await ready(buffer(host.x))
    const before = addon.deletions().length
    const values = await pass(produce(memory))
    const [y, da] = await pass(null)
    expectSameBits('y', values[0], y)
    expectSameBits('da', values[1], da)
    for (let i = 0; i < 4; i++) await collect()
    expect(addon.deletions().slice(before)).toEqual([1])
  })

  async function pass(capsule: object | null) {
    const x = capsule === null ? onDevice(host.x) : fromDLPack(capsule)
    expect([x.shape, x.dtype, x.device]).toEqual([host.x.shape, 'float32', device])
    const { y, saved } = lilyForward({ x, ...rest })
    await collect()
    const { da } = lilyBackward({ dy }, saved)
    return [(await y.toHost()).data, (await da.toHost()).data] as const
  }

  it('takes rows with a pitch from a byte offset on', async () => {
    const memory = await ready(buffer({ data: Float32Array.of(0, 1, 2, 3, 4, 5, 6, 7), shape: [8] }))
    const window = fromDLPack(produce(memory, { shape: [2, 2], strides: [4, 1], byteOffset: 4 }))
    expect(Array.from((await window.toHost()).data)).toEqual([1, 2, 5, 6])
  })

  it('refuses what is not memory of the device; the capsule keeps the tensor', async () => {
    const memory = buffer(host.x)
    const before = addon.deletions().length
    const address = BigInt(native.hostAddress(new Uint8Array(64)))
    for (const [changes, code, message] of [
      [{ address }, 'DEVICE', 'expected memory of cuda:0'],
      [{ deviceId: 9 }, 'BACKEND_UNAVAILABLE', 'cuda:9 is not available'],
      [{ shape: [2 ** 40, 1] }, 'SHAPE', 'it ends in'],
      [{ byteOffset: 2 }, 'ARGUMENT', 'multiples of 4'],
    ] as const) {
      const capsule = produce(memory, changes)
      await expectRefused(`ERR_LILY_${code}`, message, () => fromDLPack(capsule))
      expect(addon.take(capsule)).toBeDefined()
    }
    expect(addon.deletions().slice(before)).toEqual([0, 0, 0, 0])
  })

  it('a read-only tensor is no output', async () => {
    const memory = await ready(DeviceBuffer.allocate([tokens, dOut]).fill(0))
    const y = fromDLPack(produce(memory, { flags: 1 }))
    await expectRefused('ERR_LILY_ARGUMENT', 'y: its memory is read-only', () =>
      lilyForward({ x: onDevice(host.x), ...rest, y }),
    )
    expect(take(toDLPack(y)).flags).toBe(1)
  })

  it('runs a call in the stream that the producer names', () => {
    const stream = Stream.create(device)
    const x = fromDLPack(produce(buffer(host.x)), { stream: stream.handle })
    const order = vi.spyOn(native, 'streamOrder')
    lilyForward({ x, ...rest })
    expect(order.mock.calls.some(([, first]) => BigInt(first) === stream.handle)).toBe(true)
  })
})

describe('toDLPack', () => {
  it('gives the memory, and orders the consumer after the work on it', async () => {
    const memory = buffer(host.x)
    const own = Number(memory.stream)
    const consumer = Stream.create(device)
    const order = vi.spyOn(native, 'streamOrder')
    const taken = take(toDLPack(memory))
    expect(taken).toMatchObject({
      address: memory.ptr,
      deviceType: 2,
      deviceId: 0,
      shape: [tokens, dIn],
      strides: [dIn, 1],
      flags: 0,
    })
    toDLPack(memory, { stream: consumer })
    toDLPack(memory, { stream: consumer.handle })
    toDLPack(memory, { stream: memory.stream })
    const handle = Number(consumer.handle)
    expect(order.mock.calls).toEqual([
      [0, own, 0, 1], // the legacy stream
      [0, own, 0, handle],
      [0, own, 0, handle],
    ])
    await consumer.synchronize()
  })

  it.each([0, 1])('keeps the memory until the deleter runs, in another thread: %d', async (inThread) => {
    await collect()
    const { blocksInUse } = memoryStats(device)
    const memory = buffer(host.x)
    const { index } = take(toDLPack(memory))
    memory.dispose()
    expect(memoryStats(device).blocksInUse).toBe(blocksInUse + 1)
    addon.giveBack(index, inThread)
    await collect()
    expect(memoryStats(device).blocksInUse).toBe(blocksInUse)
  })

  it('a tensor that comes back overlaps the memory that it came from', async () => {
    const x = onDevice(host.x)
    const square = {
      a: onDevice({ data: new Float32Array(dIn), shape: [1, dIn] }),
      b: onDevice({ data: new Float32Array(dIn), shape: [1, 1, dIn] }),
    }
    const y = fromDLPack(addon.passOn(take(toDLPack(x)).index))
    await expectRefused('ERR_LILY_ARGUMENT', 'y: its memory overlaps that of x', () =>
      lilyForward({ x, ...square, y }, { routing: 'uniform' }),
    )
  })

  it('is no part of a graph', async () => {
    const memory = buffer(host.x)
    await expectRefused('ERR_LILY_ARGUMENT', 'toDLPack() cannot be part of a graph', () =>
      captureGraph(() => toDLPack(memory)),
    )
  })
})
