/** Device memory, streams and events, on a GPU or the emulator. */
import { describe, expect, it } from 'vitest'
import {
  backends,
  cast,
  DeviceBuffer,
  deviceTensor,
  type DeviceTensorLike,
  type DType,
  emptyCache,
  Event,
  foldB,
  type HostData,
  lilyBackward,
  lilyForward,
  lilyForwardAsync,
  loraBackward,
  loraForward,
  memoryStats,
  Stream,
  tensor,
  type TensorLike,
} from '../../lib/index.js'
import { collect, gc } from '../support/collect.js'
import { expectSameBits } from '../support/compare.js'
import { expectRefused } from '../refusals/refused.js'
import { type HostTensor, sizes, smallOperands } from '../support/small.js'

const device = { type: 'cuda', id: 0 } as const
const [, cuda] = backends()
const { tokens, dIn, dOut, experts } = sizes

const onDevice = ({ data, shape }: HostTensor) => tensor(data, shape).to(device)
const buffer = ({ data, shape }: HostTensor) => DeviceBuffer.allocate(shape).upload(data)

/** A buffer in the form of device memory of another library. */
function foreign(memory: DeviceBuffer, changes: Partial<DeviceTensorLike> = {}): DeviceTensorLike {
  const { ptr, shape, dtype, stream } = memory
  return { ptr, shape, dtype, device: memory.device, stream, owner: memory, ...changes }
}

describe('backends()', () => {
  it('lists the devices', () => {
    expect(cuda.available).toBe(true)
    expect(cuda.reason).toBeUndefined()
    for (const [id, found] of cuda.devices.entries()) {
      expect(found.id).toBe(id)
      expect(found.computeCapability).toMatch(/^\d+\.\d+$/)
      expect(found.memory).toBeGreaterThan(2 ** 30)
    }
  })

  it('rejects a device that does not exist', async () => {
    const id = cuda.devices.length
    const use = [
      () => tensor(new Float32Array(1), [1]).to({ type: 'cuda', id }),
      () => DeviceBuffer.allocate([1], 'float32', { type: 'cuda', id }),
      () => Stream.create({ type: 'cuda', id }),
      () => memoryStats({ type: 'cuda', id }),
    ]
    for (const each of use) await expectRefused('ERR_LILY_BACKEND_UNAVAILABLE', `cuda:${id} is not available`, each)
  })
})

describe('Tensor', () => {
  const samples: [DType, HostData][] = [
    ['float32', Float32Array.of(1, -2, NaN, 4, 5, 6)],
    ['bfloat16', Uint16Array.of(1, 2, 3, 4, 5, 0xffff)],
    ['float16', Uint16Array.of(1, 2, 3, 4, 5, 0xffff)],
    ['int32', Int32Array.of(1, -2, 3, 4, 5, 2 ** 31 - 1)],
    ['uint8', Uint8Array.of(1, 2, 3, 4, 5, 255)],
  ]
  it.each(samples)('copies %s to the device and back', async (dtype, data) => {
    const moved = tensor(data, [2, 3], dtype).to(device)
    expect(moved.device).toEqual(device)
    expect(moved.dtype).toBe(dtype)
    expect(moved.to(device)).toBe(moved)
    const back = await moved.toHost()
    expect(back.shape).toEqual([2, 3])
    expect(back.dtype).toBe(dtype)
    expectSameBits(dtype, back.data, data)
  })

  it.each([[[0, 3]], [[1]], [[7, 33, 1]], [[3, 70001]]])('shape %j', async (shape) => {
    const data = Float32Array.from({ length: shape.reduce((p, n) => p * n, 1) }, (_, i) => i)
    expectSameBits('values', (await tensor(data, shape).to(device).toHost()).data, data)
  })

  it('changes after the copy do not affect it', async () => {
    const data = new Float32Array(5000).fill(1)
    const moved = tensor(data, [5000]).to(device)
    data.fill(2)
    expect(new Set((await moved.toHost()).data)).toEqual(new Set([1]))
  })

  it('rows with a pitch come back contiguous', async () => {
    const memory = buffer({ data: Float32Array.from({ length: 15 }, (_, i) => i), shape: [15] })
    const { y } = lilyForward(
      {
        x: foreign(memory, { shape: [3, 2], strides: [5, 1] }),
        a: onDevice({ data: new Float32Array(2), shape: [1, 2] }),
        b: onDevice({ data: new Float32Array(2), shape: [1, 1, 2] }),
        y: foreign(memory, { shape: [3, 2], strides: [5, 1], byteOffset: 8 }),
      },
      { routing: 'uniform' },
    )
    expect(Array.from((await y.toHost()).data)).toEqual([2, 3, 7, 8, 12, 13])
  })

  it('has no data property on the device, and the error names the alternative', async () => {
    const moved = tensor(new Float32Array(2), [2]).to(device)
    await expectRefused('ERR_LILY_DEVICE', 'toHost()', () => moved.data)
    await expectRefused('ERR_LILY_DEVICE', 'toHost()', () => moved.to({ type: 'cpu' }))
  })

  it('rejects any use after dispose', async () => {
    const moved = tensor(new Float32Array(2), [2]).to(device)
    moved.dispose()
    moved.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'disposed', () => moved.toHost())
    const { x, a, router, b } = smallOperands()
    const gone = onDevice(x)
    gone[Symbol.dispose]()
    const rest = { a: onDevice(a), router: onDevice(router), b: onDevice(b) }
    await expectRefused('ERR_LILY_DISPOSED', 'x', () => lilyForward({ x: gone, ...rest }))
  })

  it('exposes its memory to other libraries', () => {
    const moved = tensor(new Float32Array(6), [2, 3]).to(device)
    const offered = moved[deviceTensor]() as DeviceTensorLike
    expect(offered).toMatchObject({ shape: [2, 3], dtype: 'float32', device, byteLength: 24, owner: moved })
    expect(typeof offered.ptr).toBe('bigint')
  })
})

describe('DeviceBuffer', () => {
  it('has the fields of device memory', () => {
    const memory = DeviceBuffer.allocate([2, 3], 'bfloat16')
    expect(memory).toMatchObject({ shape: [2, 3], dtype: 'bfloat16', device, byteLength: 12 })
    expect(memory.ptr).toBeGreaterThan(0n)
    expect(memory.ptr % 64n).toBe(0n)
    expect(memory.stream).toBe(Stream.default(device).handle)
  })

  it('uploads and downloads sections', async () => {
    const memory = DeviceBuffer.allocate([6]).fill(0)
    memory.upload(Float32Array.of(1, 2), 1).upload(Float32Array.of(3), 5)
    expect(Array.from(await memory.download())).toEqual([0, 1, 2, 0, 0, 3])
    const part = new Float32Array(2)
    expect(await memory.download(part, 1)).toBe(part)
    expect(Array.from(part)).toEqual([1, 2])
  })

  it('refuses a download to memory that can shrink, and rejects one to memory that was transferred', async () => {
    const memory = DeviceBuffer.allocate([6]).fill(0)
    const Resizable = ArrayBuffer as unknown as new (length: number, options: { maxByteLength: number }) => ArrayBuffer
    const resizable = new Float32Array(new Resizable(24, { maxByteLength: 24 }))
    await expectRefused('ERR_LILY_ARGUMENT', 'into: expected memory that cannot shrink', () =>
      memory.download(resizable),
    )
    const into = new Float32Array(6)
    const pending = memory.download(into)
    const received = structuredClone(into.buffer, { transfer: [into.buffer] })
    await expectRefused('ERR_LILY_ARGUMENT', 'into: its ArrayBuffer was transferred', () => pending)
    expect(received.byteLength).toBe(24)
  })

  it('fills and copies', async () => {
    const from = DeviceBuffer.allocate([5], 'uint8').fill(7)
    const to = DeviceBuffer.allocate([5], 'uint8').copyFrom(from)
    from.fill(8)
    expect(Array.from(await to.download())).toEqual([7, 7, 7, 7, 7])
  })

  it('copies between devices', async (context) => {
    if (cuda.devices.length < 2) context.skip('there is only one device')
    const other = { type: 'cuda', id: 1 } as const
    const stream = Stream.create(other)
    const there = DeviceBuffer.allocate([5], 'uint8', other, { stream }).copyFrom(
      DeviceBuffer.allocate([5], 'uint8').fill(9),
    )
    expect(Array.from(await there.download())).toEqual([9, 9, 9, 9, 9])
    const moved = tensor(Float32Array.of(1, 2), [2]).to(device).to(other)
    expect(moved.device).toEqual(other)
    expect(Array.from((await moved.toHost()).data)).toEqual([1, 2])
    await expectRefused('ERR_LILY_DEVICE', 'stream', () => DeviceBuffer.allocate([1], 'uint8', device, { stream }))
  })

  it('rejects data that does not fit', async () => {
    const memory = DeviceBuffer.allocate([4])
    await expectRefused('ERR_LILY_SHAPE', 'data', () => memory.upload(new Float32Array(5)))
    await expectRefused('ERR_LILY_SHAPE', 'data', () => memory.upload(new Float32Array(2), 3))
    await expectRefused('ERR_LILY_DTYPE', 'data', () => memory.upload(new Uint16Array(2)))
    await expectRefused('ERR_LILY_DTYPE', 'data', () => memory.upload([1] as never))
    await expectRefused('ERR_LILY_ARGUMENT', 'offset', () => memory.upload(new Float32Array(1), -1))
    await expectRefused('ERR_LILY_SHAPE', 'into', () => memory.download(new Float32Array(5)))
    await expectRefused('ERR_LILY_ARGUMENT', 'offset', () => memory.download(undefined, -1e12))
    await expectRefused('ERR_LILY_ARGUMENT', 'strem', () =>
      DeviceBuffer.allocate([1], 'uint8', device, { strem: Stream.default() } as never),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'byte', () => memory.fill(256))
    await expectRefused('ERR_LILY_SHAPE', 'source', () => memory.copyFrom(DeviceBuffer.allocate([3])))
    await expectRefused('ERR_LILY_ARGUMENT', 'source', () => memory.copyFrom(new Float32Array(4) as never))
    await expectRefused('ERR_LILY_SHAPE', 'shape', () => DeviceBuffer.allocate([-1]))
    await expectRefused('ERR_LILY_DTYPE', 'dtype', () => DeviceBuffer.allocate([1], 'float64' as never))
    await expectRefused('ERR_LILY_DEVICE', 'device', () =>
      DeviceBuffer.allocate([1], 'uint8', { type: 'cpu' } as never),
    )
  })

  it('rejects more memory than the device has', async () => {
    const error = await expectRefused('ERR_LILY_OUT_OF_MEMORY', 'shape', () => DeviceBuffer.allocate([2 ** 50]))
    expect(error.message).toContain('emptyCache()')
    expect(DeviceBuffer.allocate([8]).byteLength).toBe(32)
  })

  it('rejects any use after dispose; a tensor over it stays valid', async () => {
    const memory = DeviceBuffer.allocate([3]).upload(Float32Array.of(1, 2, 3))
    const view = memory.tensor()
    memory.dispose()
    memory[Symbol.dispose]()
    expect(memory.isDisposed).toBe(true)
    for (const use of [() => memory.ptr, () => memory.fill(0), () => memory.tensor(), () => memory.download()]) {
      await expectRefused('ERR_LILY_DISPOSED', 'disposed', use)
    }
    const others = Array.from({ length: 4 }, () => DeviceBuffer.allocate([3]).fill(255))
    expect(Array.from((await view.toHost()).data)).toEqual([1, 2, 3])
    others.forEach((other) => {
      other.dispose()
    })
  })
})

describe('forms of operands', () => {
  const { x, a, router, b, dy } = smallOperands()
  const forms: Record<string, (plain: HostTensor) => TensorLike> = {
    'a Tensor': onDevice,
    'a DeviceBuffer': buffer,
    'an address': (plain) => foreign(buffer(plain)),
    'an address as a number': (plain) => {
      const memory = buffer(plain)
      return foreign(memory, { ptr: Number(memory.ptr), stream: Number(memory.stream) })
    },
    'an address with an offset': ({ data, shape }) => {
      const memory = DeviceBuffer.allocate([data.length + 3]).upload(data, 3)
      return foreign(memory, { shape, byteOffset: 12, byteLength: memory.byteLength })
    },
    'a provider': (plain) => ({ [deviceTensor]: () => foreign(buffer(plain)) }),
  }
  async function results(make: (plain: HostTensor) => TensorLike) {
    const { y, saved } = lilyForward({ x: make(x), a: make(a), router: make(router), b: make(b) })
    const { dx, da, dRouter, db } = lilyBackward({ dy: make(dy) }, saved)
    const { hidden, probabilities, weights } = saved
    const all = { y, dx, da, dRouter, db, hidden, probabilities, weights }
    const values = new Map<string, HostData>()
    for (const [name, value] of Object.entries(all)) {
      expect(value?.device, name).toEqual(device)
      values.set(name, (await value!.toHost()).data)
    }
    return values
  }

  for (const [form, make] of Object.entries(forms))
    it(form, async () => {
      const [actual, expected] = [await results(make), await results(onDevice)]
      for (const [name, value] of expected) expectSameBits(name, actual.get(name)!, value)
    })

  it('small operands in device memory', async () => {
    const lengths = Int32Array.of(0, 2, 2, 6)
    const flags = Uint8Array.of(1, 0, 1, 1, 1, 1)
    const moved = { x: onDevice(x), a: onDevice(a), router: onDevice(router), b: onDevice(b) }
    const small = (data: HostData, shape: number[], dtype: DType) => DeviceBuffer.allocate(shape, dtype).upload(data)
    const host = lilyForward(moved, { routing: 'sequence', mask: flags, sequenceOffsets: lengths })
    const mask = small(flags, [tokens], 'uint8')
    const sequenceOffsets = small(lengths, [4], 'int32')
    const there = lilyForward(moved, { routing: 'sequence', mask, sequenceOffsets })
    const [one, two] = [lilyBackward({ dy: onDevice(dy) }, host.saved), lilyBackward({ dy: onDevice(dy) }, there.saved)]
    expectSameBits('y', (await there.y.toHost()).data, (await host.y.toHost()).data)
    expectSameBits('dx', (await two.dx.toHost()).data, (await one.dx.toHost()).data)

    const given = Float32Array.of(0.25, 0.75)
    const { router: _, ...routerless } = moved
    const fixed = lilyForward(routerless, { routing: 'fixed', weights: given })
    const weights = small(given, [experts], 'float32')
    const same = lilyForward(routerless, { routing: 'fixed', weights })
    expectSameBits('y', (await same.y.toHost()).data, (await fixed.y.toHost()).data)
    expectSameBits('weights', (await same.saved.weights.toHost()).data, given)
    await expectRefused('ERR_LILY_SHAPE', 'mask', () =>
      lilyForward(moved, { mask: DeviceBuffer.allocate([tokens + 1], 'uint8') }),
    )
    await expectRefused('ERR_LILY_DTYPE', 'mask', () => lilyForward(moved, { mask: DeviceBuffer.allocate([tokens]) }))
    const noSequence = small(Int32Array.of(0), [1], 'int32')
    await expectRefused('ERR_LILY_SHAPE', 'sequenceOffsets', () =>
      lilyForward(moved, { routing: 'sequence', sequenceOffsets: noSequence }),
    )
    const noWeights = DeviceBuffer.allocate([0, experts])
    await expectRefused('ERR_LILY_SHAPE', 'sequenceOffsets', () =>
      lilyForward(routerless, { routing: 'fixed', weights: noWeights, sequenceOffsets: noSequence }),
    )
  })

  it('is not cast', async () => {
    await expectRefused('ERR_LILY_DEVICE', 'x: expected a tensor in host memory', () => cast(onDevice(x), 'bfloat16'))
  })

  it('returns the given outputs', async () => {
    const y = DeviceBuffer.allocate([tokens, dOut]).fill(0)
    const moved = { x: onDevice(x), a: onDevice(a), router: onDevice(router), b: onDevice(b) }
    const result = lilyForward({ ...moved, y })
    expectSameBits('y', await y.download(), (await lilyForward(moved).y.toHost()).data)
    y.dispose()
    expect((await result.y.toHost()).data).toHaveLength(tokens * dOut)
    const dx = onDevice({ data: new Float32Array(tokens * dIn), shape: [tokens, dIn] })
    expect(lilyBackward({ dy: onDevice(dy), dx }, result.saved).dx).toBe(dx)
  })

  it('saved releases its memory; tensors taken from it stay valid', async () => {
    await collect()
    emptyCache()
    const moved = { x: onDevice(x), a: onDevice(a), router: onDevice(router), b: onDevice(b) }
    const { saved, y } = lilyForward(moved, { mask: [1, 1, 1, 0, 1, 1] })
    const { hidden } = saved
    const expected = (await hidden.toHost()).data
    const before = memoryStats(device).blocksInUse
    saved.dispose()
    // This frees the mask; `hidden` still holds the rest.
    expect(memoryStats(device).blocksInUse).toBe(before - 1)
    expectSameBits('hidden', (await hidden.toHost()).data, expected)
    hidden.dispose()
    y.dispose()
    expect(memoryStats(device).blocksInUse).toBe(before - 3)
    await expectRefused('ERR_LILY_DISPOSED', 'saved', () => lilyBackward({ dy: onDevice(dy) }, saved))
  })

  it('a call with two adapters releases its memory', async () => {
    await collect()
    const operands = {
      x: onDevice(x),
      a: onDevice(a),
      b: onDevice({ data: b.data.slice(0, dOut * 3), shape: [dOut, 3] }),
    }
    const given = onDevice(dy)
    const before = memoryStats(device).blocksInUse
    const adapterOf = Array.from({ length: tokens }, (_, t) => (t % 3) - 1)
    const { y, saved } = loraForward(operands, { rankOffsets: [0, 1, 3], adapterOf })
    const { dx, da, db } = loraBackward({ dy: given }, saved)
    saved.dispose()
    for (const output of [y, dx, da, db]) output.dispose()
    expect(memoryStats(device).blocksInUse).toBe(before)
  })
})

describe('validates memory of other libraries before the call runs', () => {
  const { x, a, router, b } = smallOperands()
  const moved = { x: onDevice(x), a: onDevice(a), router: onDevice(router), b: onDevice(b) }
  const like = { shape: x.shape, dtype: 'float32', device } as const
  const refusals: [string, string, () => DeviceTensorLike][] = [
    ['an address outside all allocations', 'ERR_LILY_DEVICE', () => ({ ...like, ptr: 0x1000 })],
    ['rows that end beyond the allocation', 'ERR_LILY_SHAPE', () => ({ ...like, ptr: 0n, strides: [2 ** 45, 1] })],
    ['a byteLength that is too short', 'ERR_LILY_SHAPE', () => ({ ...foreign(buffer(x)), byteLength: 8 })],
    ['an address within an element', 'ERR_LILY_ARGUMENT', () => foreign(buffer(x), { ptr: buffer(x).ptr + 1n })],
    ['an invalid stream', 'ERR_LILY_ARGUMENT', () => foreign(buffer(x), { stream: 0 })],
    ['another device', 'ERR_LILY_DEVICE', () => foreign(buffer(x), { device: { type: 'cuda', id: 1 } })],
  ]
  it.each(refusals)('%s', async (name, code, make) => {
    const y = DeviceBuffer.allocate([tokens, dOut]).fill(1)
    const given = make()
    if (name.startsWith('rows')) Object.assign(given, { ptr: buffer(x).ptr })
    // The others are compared with x, before its memory is looked at.
    const argument = name === 'another device' ? 'a' : 'x'
    await expectRefused(code, argument, () => lilyForward({ ...moved, x: given, y }))
    const bytes = new Float32Array(tokens * dOut)
    await y.download(bytes)
    expect(new Set(new Uint8Array(bytes.buffer))).toEqual(new Set([1]))
  })

  it('rejects memory of another device', async (context) => {
    if (cuda.devices.length < 2) context.skip('there is only one device')
    const there = DeviceBuffer.allocate(x.shape, 'float32', { type: 'cuda', id: 1 })
    await expectRefused('ERR_LILY_DEVICE', 'x', () => lilyForward({ ...moved, x: foreign(there, { device }) }))
    await expectRefused('ERR_LILY_DEVICE', 'a', () => lilyForward({ ...moved, x: there }))
  })

  it('rejects a fold of layers on the host and on a device', async () => {
    const layer = (place: (operand: HostTensor) => TensorLike) => {
      const { dy, x, a, router, b } = smallOperands()
      const { saved } = lilyForward({ x: place(x), a: place(a), router: place(router), b: place(b) })
      lilyBackward({ dy: place(dy) }, saved, { deferB: true })
      return saved
    }
    const layers = [layer(onDevice), layer((operand) => operand)]
    const error = await expectRefused('ERR_LILY_DEVICE', 'as the b of saved[0] has', () => foldB(layers))
    expect(error.argument).toBe('saved[1]')
    for (const saved of layers) foldB(saved)
  })

  it('rejects operands on the host together with operands on a device', async () => {
    await expectRefused('ERR_LILY_DEVICE', 'a', () => lilyForward({ ...moved, a }))
    await expectRefused('ERR_LILY_DEVICE', 'y', () => lilyForward({ x, a, router, b, y: foreign(buffer(x)) }))
    await expectRefused('ERR_LILY_ARGUMENT', 'stream', () =>
      lilyForward({ x, a, router, b }, { stream: Stream.default(device) }),
    )
  })

  it('rejects an output that overlaps an input', async () => {
    const memory = DeviceBuffer.allocate([tokens, dIn + dOut]).fill(0)
    const pitch = dIn + dOut
    const window = (first: number, columns: number) =>
      foreign(memory, { shape: [tokens, columns], strides: [pitch, 1], byteOffset: 4 * first })
    const { y } = lilyForward({ ...moved, x: window(0, dIn), y: window(dIn, dOut) })
    expect(y.shape).toEqual([tokens, dOut])
    await expectRefused('ERR_LILY_ARGUMENT', 'y', () =>
      lilyForward({ ...moved, x: window(0, dIn), y: window(dIn - 1, dOut) }),
    )
  })

  it('keeps owners alive until the stream has completed the work', async () => {
    let owner: object | undefined = {}
    const reference = new WeakRef(owner)
    const memory = buffer(x)
    const { y } = lilyForward({ ...moved, x: { ...foreign(memory), owner } })
    owner = undefined
    gc()
    expect(reference.deref()).toBeDefined()
    await y.toHost()
    await Stream.default(device).synchronize()
    y.dispose()
    await collect()
    // The unreachable saved call held it until now.
    expect(reference.deref()).toBeUndefined()
  })
})

describe('Stream', () => {
  it('runs work in order, and waits for events of other streams', async () => {
    const [first, second] = [Stream.create(), Stream.create()]
    const memory = DeviceBuffer.allocate([4], 'uint8', device, { stream: first }).fill(3)
    const event = Event.create().record(first)
    second.waitEvent(event)
    await second.synchronize()
    expect(event.query()).toBe(true)
    expect(Array.from(await memory.download())).toEqual([3, 3, 3, 3])
    expect(first.handle).not.toBe(second.handle)
    expect(first.device).toEqual(device)
  })

  it('leaves its memory to the default stream when it is disposed of', async () => {
    const stream = Stream.create()
    const memory = DeviceBuffer.allocate([4], 'uint8', device, { stream }).fill(3)
    expect(memory.stream).toBe(stream.handle)
    stream.dispose()
    stream.dispose()
    expect(memory.stream).toBe(Stream.default().handle)
    expect(Array.from(await memory.fill(4).download())).toEqual([4, 4, 4, 4])
    await expectRefused('ERR_LILY_DISPOSED', 'stream', () => stream.synchronize())
    await expectRefused('ERR_LILY_DISPOSED', 'stream', () => DeviceBuffer.allocate([1], 'uint8', device, { stream }))
  })

  it('the default stream cannot be disposed of', async () => {
    Stream.default().dispose()
    await Stream.default().synchronize()
  })

  it('synchronize does not block the event loop', async () => {
    const { x, a, router, b } = smallOperands()
    const pending = lilyForwardAsync({ x: onDevice(x), a: onDevice(a), router: onDevice(router), b: onDevice(b) })
    let turned = false
    setImmediate(() => (turned = true))
    await Promise.all([pending, Stream.default().synchronize()])
    await new Promise(setImmediate)
    expect(turned).toBe(true)
  })
})

describe('Event', () => {
  it('measures the time between two events', async () => {
    const [start, end] = [Event.create(), Event.create()]
    start.record()
    DeviceBuffer.allocate([1 << 20], 'uint8')
      .fill(1)
      .fill(2)
    end.record()
    await end.synchronize()
    expect(start.query() && end.query()).toBe(true)
    expect(start.elapsedTime(end)).toBeGreaterThanOrEqual(0)
    expect(start.elapsedTime(start)).toBe(0)
  })

  it('rejects events that were not recorded or are disposed of, and other values', async () => {
    const [start, end] = [Event.create().record(), Event.create()]
    await start.synchronize()
    await expectRefused('ERR_LILY_ARGUMENT', 'end', () => start.elapsedTime(end))
    await expectRefused('ERR_LILY_ARGUMENT', 'end', () => start.elapsedTime({} as never))
    await expectRefused('ERR_LILY_ARGUMENT', 'event', () => Stream.default().waitEvent(7 as never))
    end[Symbol.dispose]()
    expect([start.isDisposed, end.isDisposed]).toEqual([false, true])
    await expectRefused('ERR_LILY_DISPOSED', 'event', () => end.record())
    await expectRefused('ERR_LILY_DISPOSED', 'event', () => Stream.default().waitEvent(end))
  })
})

describe('memory', () => {
  it('is counted, cached and released', async () => {
    await collect()
    emptyCache()
    const before = memoryStats(device)
    expect(before.bytesCached).toBe(0)
    const first = DeviceBuffer.allocate([100_000])
    expect(memoryStats(device).bytesInUse - before.bytesInUse).toBeGreaterThanOrEqual(400_000)
    const { ptr } = first
    first.dispose()
    expect(memoryStats(device).bytesInUse).toBe(before.bytesInUse)
    expect(memoryStats(device).blocksCached).toBe(1)
    // The same stream can reuse it immediately.
    const second = DeviceBuffer.allocate([100_000])
    expect(second.ptr).toBe(ptr)
    expect(memoryStats(device).allocations).toBe(before.allocations + 1)
    second.dispose()
    emptyCache()
    const after = memoryStats(device)
    expect([after.bytesCached, after.blocksCached, after.bytesInUse]).toEqual([0, 0, before.bytesInUse])
    expect(after.peakBytesInUse).toBeGreaterThanOrEqual(before.bytesInUse + 400_000)
  })

  it('of one stream is reused by another only after its work has completed', async () => {
    await collect()
    emptyCache()
    const [mine, other] = [Stream.create(), Stream.create()]
    const allocate = (stream: Stream) => DeviceBuffer.allocate([5000], 'uint8', device, { stream })
    const first = allocate(mine).fill(1)
    const { ptr } = first
    first.dispose()
    await mine.synchronize()
    const second = allocate(other)
    expect(second.ptr).toBe(ptr)
  })

  it('is freed when it is unreachable', async () => {
    await collect()
    const before = memoryStats(device).blocksInUse
    for (let i = 0; i < 3; i++) tensor(new Float32Array(10), [10]).to(device)
    await collect()
    expect(memoryStats(device).blocksInUse).toBeLessThanOrEqual(before)
  })

  it('counts as external memory for the garbage collector', async () => {
    // More than the device has. The use of the heap alone would not trigger a collection.
    const bytes = 64 << 20
    const count = Math.ceil(cuda.devices[0].memory! / bytes) + 1
    for (let i = 0; i < count; i++) {
      DeviceBuffer.allocate([bytes], 'uint8')
      await new Promise(setImmediate)
    }
    emptyCache()
  })

  it('a loop of calls allocates no more of it', () => {
    const { x, a, router, b, dy } = smallOperands()
    const moved = { x: onDevice(x), a: onDevice(a), router: onDevice(router), b: onDevice(b) }
    const gradient = onDevice(dy)
    const step = () => {
      const { y, saved } = lilyForward(moved)
      const gradients = lilyBackward({ dy: gradient }, saved)
      const { dx, da, dRouter, db } = gradients
      for (const each of [y, saved, dx, da, dRouter, db]) each.dispose()
    }
    step()
    const { allocations } = memoryStats(device)
    for (let i = 0; i < 5; i++) step()
    expect(memoryStats(device).allocations).toBe(allocations)
  })

  it('of the cpu backend is counted, too', async () => {
    const { x, a, router, b } = smallOperands()
    lilyForward({ x, a, router, b })
    expect(memoryStats({ type: 'cpu' }).allocations).toBeGreaterThan(0)
    await expectRefused('ERR_LILY_DEVICE', 'device', () => memoryStats({ type: 'tpu' } as never))
  })
})
