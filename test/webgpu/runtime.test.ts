/** Memory, operands, errors and devices of WebGPU. What the kernels compute is in the suites of all backends. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, it, vi } from 'vitest'
import * as main from '../../lib/index.js'
import { AdamW, emptyCache, memoryStats, tensor, Tensor, type TensorLike } from '../../lib/index.js'
import { createLily, type Lily } from '../../lib/webgpu/index.js'
import { expectSameBits } from '../support/compare.js'
import { testGpu } from '../support/gpu-device.js'
import { expectRefused } from '../refusals/refused.js'
import { type HostTensor, smallOperands } from '../support/small.js'

const { gpu: instance, device, lily } = testGpu()
const { STORAGE, COPY_DST, COPY_SRC, MAP_READ, UNIFORM } = GPUBufferUsage
const ALL = STORAGE | COPY_DST | COPY_SRC
const ARGUMENT = 'ERR_LILY_ARGUMENT'

function bufferOf(data: ArrayBufferView, usage = ALL, on = device): GPUBuffer {
  const size = Math.ceil(data.byteLength / 4) * 4
  const buffer = on.createBuffer({ size, usage, mappedAtCreation: true })
  new Uint8Array(buffer.getMappedRange()).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  buffer.unmap()
  return buffer
}

async function otherDevice(): Promise<GPUDevice> {
  const adapter = await instance.requestAdapter()
  return adapter!.requestDevice()
}

const uint16 = (length: number) => Uint16Array.from({ length }, (_, i) => i + 1)
const numbersOf = async (value: Tensor) => (await value.toHost()).data

/** Replaces what the error scopes of a device report. */
function interceptScopes(
  gpu: GPUDevice,
  report: (filter: GPUErrorFilter, error: GPUError | null) => GPUError | null | Promise<GPUError | null>,
): void {
  const [push, pop] = [gpu.pushErrorScope.bind(gpu), gpu.popErrorScope.bind(gpu)]
  const filters: GPUErrorFilter[] = []
  gpu.pushErrorScope = (filter) => {
    filters.push(filter)
    push(filter)
  }
  gpu.popErrorScope = async () => report(filters.pop()!, await pop())
}

/** The small operands on the device. */
function onDevice(of: Lily = lily) {
  const { x, a, router, b, dy } = smallOperands()
  const move = ({ data, shape }: HostTensor) => of.tensor(data, shape)
  return { x: move(x), a: move(a), router: move(router), b: move(b), dy: move(dy) }
}

describe('copies', () => {
  it.each([1, 2, 3, 7, 8])('%i 16-bit numbers to the device and back', async (length) => {
    const moved = lily.tensor(uint16(length), [length], 'bfloat16')
    expect(await numbersOf(moved)).toEqual(uint16(length))
    expect(moved.device).toBe(lily.device)
  })

  it('masks, offsets, numbers and nothing', async () => {
    expect(await numbersOf(lily.tensor(Uint8Array.of(1, 2, 3, 4, 5), [5]))).toEqual(Uint8Array.of(1, 2, 3, 4, 5))
    expect(await numbersOf(lily.tensor(Int32Array.of(-1, 5), [2]))).toEqual(Int32Array.of(-1, 5))
    expect(await numbersOf(lily.tensor([0.5, 2], [2]))).toEqual(Float32Array.of(0.5, 2))
    expect((await lily.tensor([], [0, 3]).toHost()).shape).toEqual([0, 3])
  })

  it.each([
    ['that can be copied', ALL],
    ['that only kernels can read', STORAGE],
  ])('rows with a pitch of a buffer %s', async (_, usage) => {
    const zeros = () => lily.tensor(new Float32Array(15), [3, 5])
    const optimiser = new AdamW(new Map([['p', { value: zeros(), grad: zeros() }]]))
    // A state is copied from any operand of its device.
    const buffer = bufferOf(
      Float32Array.from({ length: 40 }, (_, i) => i),
      usage,
    )
    const moments: TensorLike = { buffer, shape: [3, 5], dtype: 'float32', byteOffset: 12, pitch: 9 }
    optimiser.load({ step: 1, parameters: { p: { expAvg: moments, expAvgSq: moments } } })
    const data = await numbersOf(optimiser.state().parameters.p.expAvg)
    expect([...data]).toEqual([0, 1, 2].flatMap((row) => [0, 1, 2, 3, 4].map((column) => 3 + row * 9 + column)))
  })

  it('zeroGrad leaves what surrounds a gradient at an odd place', async () => {
    const buffer = bufferOf(uint16(12))
    const grad = { buffer, shape: [5], dtype: 'bfloat16' as const, byteOffset: 6 }
    const value = lily.tensor(uint16(5), [5], 'bfloat16')
    new AdamW(new Map([['p', { value, grad }]])).zeroGrad()
    const all = { buffer, shape: [12], dtype: 'bfloat16' as const }
    // The tensor of an output is over the memory that was given.
    const { y } = await outputOver(all)
    expect([...(await numbersOf(y))]).toEqual([1, 2, 3, 0, 0, 0, 0, 0, 9, 10, 11, 12])
  })

  /** A tensor over memory of the caller: the result of a call with no tokens, which writes nothing. */
  async function outputOver({ buffer, shape, dtype }: { buffer: GPUBuffer; shape: number[]; dtype: main.DType }) {
    const staging = device.createBuffer({ size: buffer.size, usage: MAP_READ | COPY_DST })
    const encoder = device.createCommandEncoder()
    encoder.copyBufferToBuffer(buffer, 0, staging, 0, buffer.size)
    device.queue.submit([encoder.finish()])
    await staging.mapAsync(GPUMapMode.READ)
    return { y: tensor(new Uint16Array(staging.getMappedRange().slice(0)), shape, dtype) }
  }

  it.each([ALL, STORAGE])(
    'an output at an odd place in memory of the caller, with usage %i, to the host',
    async (usage) => {
      const of = (...shape: number[]) =>
        lily.tensor(new Uint16Array(shape[0] * shape[1]).fill(0x3f80), shape, 'bfloat16')
      const buffer = bufferOf(new Uint16Array(20), usage)
      const y = { buffer, shape: [3, 5], dtype: 'bfloat16' as const, byteOffset: 6 }
      const { y: over } = lily.loraForward({ x: of(3, 2), a: of(1, 2), b: of(5, 1), y })
      expect(await numbersOf(over)).toEqual(new Uint16Array(15).fill(0x4000))
    },
  )

  it('between devices they are refused', async () => {
    const other = await otherDevice()
    using second = createLily(other)
    await expectRefused('ERR_LILY_DEVICE', 'await its toHost()', () => lily.tensor([1], [1]).to(second.device))
    other.destroy()
  })
})

describe('tensors', () => {
  it('have a buffer and an offset', () => {
    const moved = lily.tensor(uint16(6), [2, 3], 'float16')
    expect(moved.buffer).toBeInstanceOf(GPUBuffer)
    expect(moved).toMatchObject({ byteOffset: 0, shape: [2, 3], dtype: 'float16', device: { type: 'webgpu' } })
    expect(String(lily.device.id)).toMatch(/^\d+$/)
  })

  it('on the host have no buffer', async () => {
    await expectRefused(
      'ERR_LILY_DEVICE',
      'buffer: is available for tensors on a GPUDevice only',
      () => tensor([1], [1]).buffer,
    )
  })
})

describe('operands', () => {
  const good = () => ({ buffer: bufferOf(new Float32Array(30)), shape: [6, 5], dtype: 'float32' as const })
  const refusals: [string, string, string, (x: ReturnType<typeof good>) => object][] = [
    ['no GPUBuffer', ARGUMENT, 'x: expected', (x) => ({ ...x, buffer: new ArrayBuffer(120) })],
    [
      'no usage STORAGE',
      ARGUMENT,
      'x: expected a GPUBuffer with GPUBufferUsage.STORAGE',
      (x) => ({ ...x, buffer: bufferOf(new Float32Array(30), UNIFORM) }),
    ],
    [
      'a mapped buffer',
      ARGUMENT,
      'x: its GPUBuffer is mapped',
      (x) => ({ ...x, buffer: device.createBuffer({ size: 120, usage: STORAGE, mappedAtCreation: true }) }),
    ],
    [
      'a short buffer',
      'ERR_LILY_SHAPE',
      'x: expected a GPUBuffer of at least 120 bytes',
      (x) => ({ ...x, buffer: bufferOf(new Float32Array(29)) }),
    ],
    [
      'a buffer that ends within a word of 32 bits',
      'ERR_LILY_SHAPE',
      'x: expected a GPUBuffer of at least 120 bytes, a multiple of 4, for its shape and byteOffset, got 118',
      (x) => ({ ...x, dtype: 'bfloat16', byteOffset: 58, buffer: device.createBuffer({ size: 118, usage: STORAGE }) }),
    ],
    [
      'an offset beyond it',
      'ERR_LILY_SHAPE',
      'x: expected a GPUBuffer of at least 124 bytes',
      (x) => ({ ...x, byteOffset: 4 }),
    ],
    [
      'an odd offset',
      ARGUMENT,
      'x: expected byteOffset to be a non-negative multiple of 4',
      (x) => ({ ...x, byteOffset: 2 }),
    ],
    [
      'a pitch below the row',
      'ERR_LILY_SHAPE',
      'x: expected pitch to be an integer from 5',
      (x) => ({ ...x, pitch: 4 }),
    ],
    ['pitch and strides', ARGUMENT, 'x: expected pitch or strides', (x) => ({ ...x, pitch: 5, strides: [5, 1] })],
    ['no dtype', 'ERR_LILY_DTYPE', 'x: expected dtype', ({ dtype: _, ...x }) => x],
    ['an unknown field', ARGUMENT, "x: unknown field 'offset'", (x) => ({ ...x, offset: 1 })],
    [
      'a CUDA device',
      'ERR_LILY_DEVICE',
      'x: expected the `device` of a createLily object',
      (x) => ({ ...x, device: { type: 'cuda', id: 0 } }),
    ],
    [
      'a device that is none',
      'ERR_LILY_BACKEND_UNAVAILABLE',
      'x: webgpu:99 is not a registered device',
      (x) => ({ ...x, device: { type: 'webgpu', id: 99 } }),
    ],
    ['memory of the host', 'ERR_LILY_DEVICE', 'x: expected webgpu:', () => smallOperands().x],
  ]

  it.each(refusals)('%s', async (_, code, message, change) => {
    const { a, router, b } = onDevice()
    const y = lily.tensor(new Float32Array(24).fill(7), [6, 4])
    await expectRefused(code, message, () => lily.lilyForward({ x: change(good()) as TensorLike, a, router, b, y }))
    expect(await numbersOf(y)).toEqual(new Float32Array(24).fill(7))
  })

  it('all on the host', async () => {
    const { x, a, router, b } = smallOperands()
    await expectRefused('ERR_LILY_DEVICE', `x: expected webgpu:${lily.device.id}`, () =>
      lily.lilyForward({ x, a, router, b }),
    )
  })

  it('of another device', async () => {
    const other = await otherDevice()
    using second = createLily(other)
    const { x, a, router, b } = onDevice(second)
    await expectRefused('ERR_LILY_DEVICE', `x: expected webgpu:${lily.device.id}`, () =>
      lily.lilyForward({ x, a, router, b }),
    )
    await expectRefused('ERR_LILY_DEVICE', '2 GPUDevices are registered', () =>
      main.lilyForward({ x: good(), a, router, b }),
    )
    // An encoder does not tell its device, and has no place for one.
    const encoder = other.createCommandEncoder()
    await expectRefused('ERR_LILY_DEVICE', 'encoder: 2 GPUDevices are registered; call a function of the right', () =>
      main.lilyForward({ x, a, router, b }, { encoder }),
    )
    second.lilyForward({ x, a, router, b }, { encoder }).saved.dispose()
    other.destroy()
  })

  it('options that belong to other backends', async () => {
    const { x, a, router, b } = onDevice()
    const call = (options: object) => () => lily.lilyForward({ x, a, router, b }, options)
    await expectRefused(ARGUMENT, 'stream: expected none', call({ stream: 1 }))
    await expectRefused(ARGUMENT, 'encoder: expected a GPUCommandEncoder', call({ encoder: {} }))
    const encoder = device.createCommandEncoder()
    await expectRefused(ARGUMENT, 'encoder: is given beside stream', call({ encoder, stream: 1 }))
    const host = smallOperands()
    await expectRefused(ARGUMENT, 'encoder: expected none', () =>
      main.lilyForward({ x: host.x, a: host.a, router: host.router, b: host.b }, { encoder }),
    )
  })
})

describe('what WebGPU does not have', () => {
  const x = () => lily.tensor(new Float32Array(6), [2, 3])
  it.each<[string, string, () => unknown]>([
    ['packed weights', 'weight: packLinear does not run', () => main.packLinear(x())],
    ['DLPack', 'tensor: toDLPack does not run', () => main.toDLPack(x())],
    ['graphs', 'device: expected', () => main.captureGraph(() => undefined, { device: lily.device as never })],
    ['streams', 'device: expected', () => main.Stream.create(lily.device as never)],
    ['events', 'device: expected', () => main.Event.create(lily.device as never)],
    ['DeviceBuffers', 'device: expected', () => main.DeviceBuffer.allocate([1], 'float32', lily.device as never)],
  ])('%s', async (_, message, call) => {
    await expectRefused('ERR_LILY_DEVICE', message, call)
  })
})

describe('memory', () => {
  it('is used again, counted, and released', async () => {
    const gpu = await otherDevice()
    using own = createLily(gpu)
    const first = own.tensor(new Float32Array(1000), [1000])
    const { buffer } = first
    expect(own.memoryStats()).toMatchObject({ bytesInUse: 4096, blocksInUse: 1, allocations: 1, bytesCached: 0 })
    first.dispose()
    expect(own.memoryStats()).toMatchObject({ bytesInUse: 0, blocksInUse: 0, blocksCached: 1, bytesCached: 4096 })
    const second = own.tensor(new Float32Array(1001), [1001])
    expect(second.buffer).toBe(buffer)
    expect(memoryStats(own.device)).toEqual(own.memoryStats())
    expect(own.memoryStats()).toMatchObject({ bytesInUse: 4096, blocksInUse: 1, blocksCached: 0, bytesCached: 0 })
    second.dispose()
    const destroy = vi.spyOn(buffer, 'destroy')
    emptyCache()
    expect(destroy).toHaveBeenCalledOnce()
    expect(own.memoryStats()).toMatchObject({ bytesCached: 0, blocksCached: 0, peakBytesInUse: 4096, allocations: 1 })
    expect(await numbersOf(own.tensor([5], [1]))).toEqual(Float32Array.of(5))
    gpu.destroy()
  })

  it('of a workspace and of operands is free after a call', async () => {
    const gpu = await otherDevice()
    using own = createLily(gpu)
    const { x, a, router, b } = onDevice(own)
    const { bytesInUse } = own.memoryStats()
    own.lilyForward({ x, a, router, b }, { save: false }).y.dispose()
    const done = vi.spyOn(gpu.queue, 'onSubmittedWorkDone')
    const { y } = await own.lilyForwardAsync({ x, a, router, b }, { save: false })
    expect(done).toHaveBeenCalledOnce()
    y.dispose()
    expect(own.memoryStats().bytesInUse).toBe(bytesInUse)
    const { blocksCached } = own.memoryStats()
    x.dispose()
    expect(own.memoryStats().blocksCached).toBe(blocksCached + 1)
    gpu.destroy()
  })

  it('is cached up to the most that was in use at once', async () => {
    const gpu = await otherDevice()
    using own = createLily(gpu)
    for (const length of [1000, 2000]) own.tensor(new Float32Array(length), [length]).dispose()
    expect(own.memoryStats()).toMatchObject({ peakBytesInUse: 8192, bytesCached: 4096, blocksCached: 1 })
    own.emptyCache()
    const both = [1000, 2000].map((length) => own.tensor(new Float32Array(length), [length]))
    for (const each of both) each.dispose()
    expect(own.memoryStats()).toMatchObject({ peakBytesInUse: 12288, bytesCached: 12288, blocksCached: 2 })
    gpu.destroy()
  })

  it('is at most an eighth more than what was asked for', async () => {
    const gpu = await otherDevice()
    using own = createLily(gpu)
    for (const length of [700, 5000, 8193, 70_000]) {
      using value = own.tensor(new Float32Array(length), [length])
      expect(value.buffer.size).toBe(own.memoryStats().bytesInUse)
      expect(value.buffer.size % 256).toBe(0)
      expect(value.buffer.size).toBeLessThanOrEqual(Math.ceil((4 * length * 9) / 8 / 256) * 256)
    }
    gpu.destroy()
  })

  it('of a tensor that is unreachable is used again', async () => {
    setFlagsFromString('--expose-gc')
    const gc = runInNewContext('gc') as () => void
    const gpu = await otherDevice()
    using own = createLily(gpu)
    for (let i = 0; i < 20; i++) own.tensor(new Float32Array(8), [8])
    expect(own.memoryStats().blocksInUse).toBe(20)
    await vi.waitFor(() => {
      gc()
      // The last few may be on the stack still.
      expect(own.memoryStats().blocksInUse).toBeLessThan(10)
    })
    const { blocksInUse, blocksCached, allocations } = own.memoryStats()
    expect(blocksInUse + blocksCached).toBe(allocations)
    gpu.destroy()
  })

  it('of an impossible size names the limit', async () => {
    const shape = [device.limits.maxBufferSize / 4 + 1]
    const value = { data: new Float32Array(1), shape: [1] }
    expect(value.shape).toEqual([1])
    await expectRefused(
      'ERR_LILY_OUT_OF_MEMORY',
      'maxBufferSize',
      () => new AdamW(new Map([['p', { value: fakeOf(shape), grad: fakeOf(shape) }]])),
    )
  })

  it('that the host shares is copied: WebAssembly has such memory', async () => {
    const shared = new Uint16Array(new SharedArrayBuffer(10)).fill(0x3f80)
    expect(await numbersOf(lily.tensor(shared, [5], 'bfloat16'))).toEqual(new Uint16Array(5).fill(0x3f80))
    const words = new Float32Array(new SharedArrayBuffer(8)).fill(3)
    expect(await numbersOf(lily.tensor(words, [2]))).toEqual(Float32Array.of(3, 3))
  })

  it('that the host may resize is copied: browsers refuse it', async () => {
    const Resizable = ArrayBuffer as new (length: number, options: { maxByteLength: number }) => ArrayBuffer
    const numbers = new Float32Array(new Resizable(8, { maxByteLength: 16 }), 0, 2).fill(3)
    const write = device.queue.writeBuffer.bind(device.queue)
    const spy = vi.spyOn(device.queue, 'writeBuffer').mockImplementation((buffer, offset, data) => {
      const memory = (ArrayBuffer.isView(data) ? data.buffer : data) as { readonly resizable?: boolean }
      if (memory.resizable === true) throw new TypeError('The provided ArrayBufferView value must not be resizable.')
      write(buffer, offset, data)
    })
    try {
      expect(await numbersOf(lily.tensor(numbers, [2]))).toEqual(Float32Array.of(3, 3))
    } finally {
      spy.mockRestore()
    }
  })

  it('is released with dispose() of the createLily object, also what is in use then', async () => {
    const gpu = await otherDevice()
    const own = createLily(gpu)
    const inUse = own.tensor([1], [1])
    const { buffer } = inUse
    own.dispose()
    inUse.dispose()
    gpu.pushErrorScope('validation')
    gpu.queue.writeBuffer(buffer, 0, new Uint8Array(4))
    const encoder = gpu.createCommandEncoder()
    encoder.clearBuffer(buffer)
    gpu.queue.submit([encoder.finish()])
    expect((await gpu.popErrorScope())?.message).toContain('destroyed')
    gpu.destroy()
  })

  it('whose buffer outlives its tensor has one owner at a time', async () => {
    const gpu = await otherDevice()
    using own = createLily(gpu)
    const { a, router, b } = onDevice(own)
    // The cache has room for more than this test needs, and x has a size that nothing else has.
    own.tensor(new Float32Array(100_000), [100_000]).dispose()
    own.emptyCache()
    const x = own.tensor(new Float32Array(3000), [600, 5])
    const { buffer } = x
    x.dispose()
    await own.lilyForwardAsync({ x: { buffer, shape: [600, 5], dtype: 'float32' }, a, router, b }, { save: false })
    const [first, second] = [1, 2].map((value) => own.tensor(new Float32Array(3000).fill(value), [3000]))
    expect(first.buffer).not.toBe(second.buffer)
    expect(await numbersOf(first)).toEqual(new Float32Array(3000).fill(1))
    gpu.destroy()
  })

  it('that WebGPU does not have is reported by the next promise, to nobody else, and not used again', async () => {
    const gpu = await otherDevice()
    using own = createLily(gpu)
    const uncaptured: string[] = []
    gpu.addEventListener('uncapturederror', ({ error }) => uncaptured.push(error.message))
    const { x, a, router, b } = onDevice(own)
    // A device without memory: it gives invalid buffers, and says so later.
    const [create, push, pop] = [gpu.createBuffer.bind(gpu), gpu.pushErrorScope.bind(gpu), gpu.popErrorScope.bind(gpu)]
    const failed: GPUBuffer[] = []
    gpu.createBuffer = ({ size }) => {
      push('validation')
      const buffer = create({ size, usage: MAP_READ | STORAGE })
      void pop()
      failed.push(buffer)
      return buffer
    }
    interceptScopes(gpu, async (filter, error) => {
      // Later than what the queue has to do: whoever awaits that gets the report, too.
      await new Promise((resolve) => setTimeout(resolve, 200))
      return filter === 'out-of-memory' ? { message: 'no memory' } : error
    })
    const [freed, inUse] = [own.tensor([1], [1]), own.tensor([2], [1])]
    freed.dispose() // it is in the cache when WebGPU reports
    own.lilyForward({ x, a, router, b })
    Object.assign(gpu, { createBuffer: create, pushErrorScope: push, popErrorScope: pop })
    await expectRefused('ERR_LILY_OUT_OF_MEMORY', 'no memory', () => x.toHost())
    await expectRefused(ARGUMENT, 'WebGPU refused a call', () => inUse.toHost())
    inUse.dispose()
    const later = [3, 4].map((value) => own.tensor([value], [1]))
    for (const { buffer } of later) expect(failed).not.toContain(buffer)
    expect(await numbersOf(later[1])).toEqual(Float32Array.of(4))
    expect(uncaptured).toEqual([])
    gpu.destroy()
  })

  /** An operand of a buffer that says that it is long. */
  function fakeOf(shape: number[]): TensorLike {
    const buffer = { size: 2 ** 50, usage: ALL, mapState: 'unmapped', destroy: () => undefined } as unknown as GPUBuffer
    return { buffer, shape, dtype: 'float32', device: lily.device as never }
  }
})

describe('devices', () => {
  it('a device has one ID and one pool', () => {
    const again = createLily(device)
    expect(again.device).toBe(lily.device)
    const before = lily.memoryStats().bytesInUse
    const given = again.tensor(new Float32Array(64), [64])
    expect(lily.memoryStats().bytesInUse).toBe(before + 256)
    given.dispose()
    again.dispose()
    again.dispose()
    expect(again.isDisposed).toBe(true)
    expect(lily.memoryStats().bytesInUse).toBe(before)
  })

  it('what is no device', async () => {
    for (const value of [undefined, null, {}, device.queue]) {
      await expectRefused(ARGUMENT, 'device: expected a GPUDevice', () => createLily(value as never))
    }
  })

  it("whose workgroups are too small, as at the level 'compatibility', is refused", async () => {
    const adapter = await instance.requestAdapter({ featureLevel: 'compatibility' })
    const gpu = await adapter!.requestDevice()
    await expectRefused(
      ARGUMENT,
      'device: the kernels require 256 threads of a workgroup, and the device allows 128',
      () => createLily(gpu),
    )
    gpu.destroy()
    const requiredLimits = { maxComputeInvocationsPerWorkgroup: 256, maxComputeWorkgroupSizeX: 256 }
    const again = await instance.requestAdapter({ featureLevel: 'compatibility' })
    const larger = await again!.requestDevice({ requiredLimits })
    using own = createLily(larger)
    const { x, a, router, b } = onDevice(own)
    const small = onDevice()
    const { y } = lily.lilyForward({ x: small.x, a: small.a, router: small.router, b: small.b })
    expectSameBits('y', await numbersOf(own.lilyForward({ x, a, router, b }).y), await numbersOf(y))
    larger.destroy()
  })

  it('compiles the pipelines of the Async forms off the main thread', async () => {
    const gpu = await otherDevice()
    using own = createLily(gpu)
    const { x, a, router, b, dy } = onDevice(own)
    const onMainThread = vi.spyOn(gpu, 'createComputePipeline')
    const { saved } = await own.lilyForwardAsync({ x, a, router, b })
    await own.lilyBackwardAsync({ dy }, saved)
    expect(onMainThread).not.toHaveBeenCalled()
    gpu.destroy()
  })

  it('compiles a pipeline once, and keeps none of a createLily object that is disposed of', async () => {
    setFlagsFromString('--expose-gc')
    const gc = runInNewContext('gc') as () => void
    const gpu = await otherDevice()
    const create = gpu.createComputePipeline.bind(gpu)
    let [created, collected] = [0, 0]
    const registry = new FinalizationRegistry(() => collected++)
    gpu.createComputePipeline = (descriptor) => {
      const pipeline = create(descriptor)
      created++
      registry.register(pipeline, null)
      return pipeline
    }
    const own = createLily(gpu)
    const { x, a, router, b } = onDevice(own)
    const call = { x, a, router, b }
    await numbersOf(own.lilyForward(call).y)
    expect(created).toBeGreaterThan(1)
    const compiled = created
    const compileAsync = vi.spyOn(gpu, 'createComputePipelineAsync')
    own.lilyForward(call)
    await own.lilyForwardAsync(call)
    expect([created, compileAsync.mock.calls.length]).toEqual([compiled, 0])
    own.dispose()
    await vi.waitFor(() => {
      gc()
      expect(collected).toBe(created)
    })
    gpu.destroy()
  })

  it('after dispose', async () => {
    const gpu = await otherDevice()
    const own = createLily(gpu)
    const given = own.tensor([1], [1])
    const place = own.device
    own.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'this createLily object is disposed of', () => own.tensor([1], [1]))
    await expectRefused('ERR_LILY_BACKEND_UNAVAILABLE', `webgpu:${place.id} is not a registered device`, () =>
      given.toHost(),
    )
    await expectRefused('ERR_LILY_BACKEND_UNAVAILABLE', 'call createLily(gpuDevice)', () => tensor([1], [1]).to(place))
    gpu.destroy()
  })

  it('that is disposed of ends every wait', async () => {
    const gpu = await otherDevice()
    const [own, other] = [createLily(gpu), createLily(gpu)]
    const [{ x, a, router, b }, empty] = [onDevice(own), own.tensor([], [0, 3])]
    const call = { x, a, router, b }
    await own.lilyForwardAsync(call)
    other.dispose()
    expect(await numbersOf(own.tensor([1], [1]))).toEqual(Float32Array.of(1))
    const promises = [
      x.toHost(),
      empty.toHost(),
      own.lilyForwardAsync(call),
      own.lilyForwardAsync(call, { routing: 'token' }), // its pipelines compile
    ]
    own.dispose()
    for (const each of promises) {
      await expectRefused('ERR_LILY_DISPOSED', 'await their promises before the last dispose()', () => each)
    }
    gpu.destroy()
  })

  it('that is disposed of between two waits of a call ends it', async () => {
    const gpu = await otherDevice()
    gpu.queue.onSubmittedWorkDone = () => new Promise(() => undefined)
    // In buffers of the caller, since copies to the device have scopes, too.
    const { x, a, router, b } = smallOperands()
    const inBuffer = ({ data, shape }: HostTensor) => ({
      buffer: bufferOf(data, ALL, gpu),
      shape,
      dtype: 'float32' as const,
    })
    const call = { x: inBuffer(x), a: inBuffer(a), router: inBuffer(router), b: inBuffer(b) }
    let own = createLily(gpu)
    let ticks = 0
    interceptScopes(gpu, (filter, error) => {
      // That of the call; those of allocations have the other filter.
      if (filter === 'validation')
        void (async () => {
          for (let tick = 0; tick < ticks; tick++) await Promise.resolve()
          own.dispose()
        })()
      return error
    })
    for (; ticks < 30; ticks++) {
      own.dispose()
      own = createLily(gpu)
      await expectRefused('ERR_LILY_DISPOSED', 'dispose()', () => own.lilyForwardAsync(call))
    }
    gpu.destroy()
  })

  it('that is lost ends every wait', async () => {
    const gpu = await otherDevice()
    using own = createLily(gpu)
    const empty = own.tensor([], [0, 3])
    gpu.queue.onSubmittedWorkDone = () => new Promise(() => undefined)
    const pending = empty.toHost()
    gpu.destroy()
    await expectRefused('ERR_LILY_DEVICE', 'was lost', () => pending)
  })

  it('that is lost', async () => {
    const gpu = await otherDevice()
    using own = createLily(gpu)
    const given = own.tensor([1, 2], [1, 2])
    const inBuffer: TensorLike = { buffer: given.buffer, shape: [1, 2], dtype: 'float32', device: own.device }
    const pending = given.toHost()
    const model = main.LilyModel.create({
      layers: [{ name: 'proj', inFeatures: 2, outFeatures: 2 }],
      config: { r: 2 },
    }).to(own.device)
    gpu.destroy()
    const says = 'request a new GPUDevice, call createLily with it, and load the last checkpoint'
    await expectRefused('ERR_LILY_DEVICE', says, () => pending)
    await expectRefused('ERR_LILY_DEVICE', says, () => given.toHost())
    await expectRefused('ERR_LILY_DEVICE', says, () => own.tensor([1], [1]))
    await expectRefused('ERR_LILY_DEVICE', says, () => tensor([1], [1]).to(own.device))
    await expectRefused('ERR_LILY_DEVICE', says, () => own.loraForward({ x: inBuffer, a: inBuffer, b: given }))
    for (const allocates of [() => new AdamW(model.parameters()), () => model.layer('proj').a.grad]) {
      const { message } = await expectRefused('ERR_LILY_DEVICE', says, allocates)
      expect(message).not.toContain('emptyCache')
    }
    // Memory of a lost device can still be released.
    given.dispose()
  })
})

describe('a model', () => {
  const layers = [{ name: 'proj', inFeatures: 3, outFeatures: 2 }]
  const onDevice = () => main.LilyModel.create({ layers, config: { r: 2 }, seed: 1 }).to(lily.device)

  it('that is disposed of while it moves to the host stays so', async () => {
    const [model, inAdapters] = [onDevice(), onDevice()]
    const adapters = new main.LilyAdapters().addAdapter('one', inAdapters)
    const pending = [model, adapters].map((each) => each.toHost())
    for (const each of [model, inAdapters]) each.dispose()
    for (const each of pending) await expectRefused('ERR_LILY_DISPOSED', 'this model is disposed of', () => each)
    for (const each of [model, inAdapters]) {
      await expectRefused('ERR_LILY_DISPOSED', 'its model is disposed of', () => each.layer('proj').a.value)
    }
  })

  it('takes the state of an optimiser from the host or its own device', async () => {
    const model = onDevice()
    const state = new AdamW(model.parameters()).state()
    await model.toHost()
    const says = 'expAvg: expected device cpu:0, as the parameters have, got webgpu:0; await its toHost() first'
    await expectRefused('ERR_LILY_DEVICE', says, () => {
      new AdamW(model.parameters()).load(state)
    })
  })
})

describe('calls', () => {
  const results = async ({ y, saved }: { y: Tensor; saved: main.LilySaved }) => ({
    y: await numbersOf(y),
    hidden: await numbersOf(saved.hidden),
  })

  it('give the numbers of the cpu backend, by each of the ways to name an operand', async () => {
    const host = smallOperands()
    const { x, a, router, b } = host
    const expected = main.lilyForward({ x, a, router, b }).y.data as Float32Array
    const inBuffer = ({ data, shape }: HostTensor) => ({ buffer: bufferOf(data), shape, dtype: 'float32' as const })
    const moved = onDevice()
    const ofTensor = ({ buffer, byteOffset, shape, dtype }: Tensor) => ({ buffer, byteOffset, shape, dtype })
    for (const place of [
      { x: inBuffer(x), a: inBuffer(a), router: inBuffer(router), b: inBuffer(b) },
      { x: moved.x, a: moved.a, router: moved.router, b: moved.b },
      { x: ofTensor(moved.x), a: ofTensor(moved.a), router: ofTensor(moved.router), b: ofTensor(moved.b) },
    ]) {
      const y = (await numbersOf(lily.lilyForward(place).y)) as Float32Array
      for (const [i, value] of y.entries()) expect(Math.abs(value - expected[i])).toBeLessThan(1e-5)
    }
  })

  it('off the main thread give the same bits', async () => {
    const { x, a, router, b } = onDevice()
    const options = { routing: 'token', activation: 'relu' } as const
    const promise = lily.lilyForwardAsync({ x, a, router, b }, options)
    // Memory that is disposed of before the pipelines are compiled is not given to others.
    const again = onDevice()
    for (const tensor of [x, a, router, b]) tensor.dispose()
    const others = [30, 15, 6, 24].map((length) => lily.tensor(new Float32Array(length).fill(NaN), [length]))
    const after = await results(await promise)
    const before = await results(
      lily.lilyForward({ x: again.x, a: again.a, router: again.router, b: again.b }, options),
    )
    expectSameBits('y', after.y, before.y)
    expectSameBits('hidden', after.hidden, before.hidden)
    for (const other of others) other.dispose()
  })

  it('off the main thread for inference: the hidden state is not kept, whatever its size', async () => {
    const { a, router, b } = onDevice()
    const x = lily.tensor(
      Float32Array.from({ length: 500 }, (_, i) => Math.sin(i)),
      [100, 5],
    )
    const { y, saved } = await lily.lilyForwardAsync({ x, a, router, b }, { save: false })
    expect(saved).toBeUndefined()
    expectSameBits('y', await numbersOf(y), await numbersOf(lily.lilyForward({ x, a, router, b }).y))
  })

  it('with a buffer that is destroyed reject, and leave later calls alone', async () => {
    const { a, router, b } = onDevice()
    const x = { buffer: bufferOf(new Float32Array(30)), shape: [6, 5], dtype: 'float32' as const }
    await lily.lilyForwardAsync({ x, a, router, b })
    x.buffer.destroy()
    await expectRefused(ARGUMENT, 'WebGPU refused a call', () => lily.lilyForwardAsync({ x, a, router, b }))
    expect((await numbersOf(a)).length).toBe(15)
  })

  it.each([
    ['that can be copied', ALL],
    ['that only kernels can read', STORAGE],
  ])('toHost of a result in a destroyed buffer %s rejects, and leaves that of others alone', async (_, usage) => {
    const { x, a, router, b } = onDevice()
    const buffer = bufferOf(new Float32Array(24), usage)
    const { y } = lily.lilyForward({ x, a, router, b, y: { buffer, shape: [6, 4], dtype: 'float32' } })
    buffer.destroy()
    const other = a.toHost()
    await expectRefused(ARGUMENT, 'WebGPU refused a call', () => y.toHost())
    expect((await other).data).toEqual(smallOperands().a.data)
  })

  it('x and y may be columns of one buffer', async () => {
    const { x, a, router, b } = smallOperands()
    // Rows of x [5], a gap of 1, y [4], a gap of 2: as in the fused projection of an attention layer.
    const fused = Float32Array.from({ length: 6 * 12 }, (_, i) => {
      const [row, column] = [Math.floor(i / 12), i % 12]
      return column < 5 ? x.data[row * 5 + column] : 100 * row + column
    })
    const buffer = bufferOf(fused)
    const moved = onDevice()
    const place = (column: number, columns: number) => {
      return { buffer, shape: [6, columns], dtype: 'float32' as const, byteOffset: 4 * column, pitch: 12 }
    }
    const { y } = lily.lilyForward({ x: place(0, 5), a: moved.a, router: moved.router, b: moved.b, y: place(6, 4) })
    const expected = main.lilyForward({ x, a, router, b }).y.data as Float32Array
    const sum = await numbersOf(y)
    for (const [i, value] of expected.entries()) {
      expect(Math.abs(sum[i] - (100 * Math.floor(i / 4) + 6 + (i % 4)) - value)).toBeLessThan(1e-4)
    }
    await expectRefused(ARGUMENT, 'y: its memory overlaps that of x', () =>
      lily.lilyForward({ x: place(0, 5), a: moved.a, router: moved.router, b: moved.b, y: place(4, 4) }),
    )
  })
})

describe('an encoder of the caller', () => {
  it('runs nothing before it is submitted, and keeps its memory', async () => {
    const gpu = await otherDevice()
    using own = createLily(gpu)
    const fresh = () => onDevice(own)
    const { x, a, router, b } = fresh()
    const mask = [1, 0, 1, 1, 0, 1]
    const expected = await numbersOf(own.lilyForward({ x, a, router, b }, { mask }).y)

    const second = fresh()
    const y = own.tensor(new Float32Array(24).fill(3), [6, 4])
    const encoder = gpu.createCommandEncoder()
    const { saved } = own.lilyForward(
      { x: second.x, a: second.a, router: second.router, b: second.b, y },
      { encoder, mask, accumulate: false },
    )
    saved.dispose()
    for (const tensor of [second.x, second.a, second.router, second.b]) tensor.dispose()
    expect(own.memoryStats().blocksCached).toBe(0)
    // Other memory is written meanwhile: none of it is what the encoder uses.
    const others = Array.from({ length: 40 }, () => own.tensor(new Float32Array(30).fill(NaN), [30]))
    expect(await numbersOf(y)).toEqual(new Float32Array(24).fill(3))
    for (const other of others) other.dispose()

    gpu.queue.submit([encoder.finish()])
    expectSameBits('y', await numbersOf(y), expected)
    const { blocksCached } = own.memoryStats()
    own.submitted(encoder)
    expect(own.memoryStats().blocksCached).toBeGreaterThan(blocksCached)
    gpu.destroy()
  })

  it('of several calls keeps the memory of all of them until submitted(), and none after it', async () => {
    const gpu = await otherDevice()
    using own = createLily(gpu)
    // The cache has room for more than this test needs.
    own.tensor(new Float32Array(100_000), [100_000]).dispose()
    own.emptyCache()
    const { x, a, router, b, dy } = onDevice(own)
    const { allocations: before, blocksInUse } = own.memoryStats()
    const encoder = gpu.createCommandEncoder()
    const { y, saved } = own.lilyForward({ x, a, router, b }, { encoder })
    const { dx, da, dRouter, db } = own.lilyBackward({ dy }, saved, { encoder })
    for (const each of [y, saved, dx, da, dRouter, db]) each.dispose()
    expect(own.memoryStats()).toMatchObject({ blocksInUse, blocksCached: 0 })
    gpu.queue.submit([encoder.finish()])
    own.submitted(encoder)
    const { blocksCached, allocations } = own.memoryStats()
    expect(blocksCached).toBe(allocations - before)

    // Once more, it is of no effect: the next encoder keeps an operand.
    own.submitted(encoder)
    const next = gpu.createCommandEncoder()
    own.lilyForward({ x, a, router, b }, { encoder: next }).saved.dispose()
    const { blocksCached: cached } = own.memoryStats()
    x.dispose()
    expect(own.memoryStats().blocksCached).toBe(cached)
    gpu.destroy()
  })

  it('that is dropped without submitted() keeps no memory, though the parameters live on', async () => {
    setFlagsFromString('--expose-gc')
    const gc = runInNewContext('gc') as () => void
    let collected = 0
    const registry = new FinalizationRegistry(() => collected++)
    const { x, a, router, b } = onDevice()
    const step = () => {
      const encoder = device.createCommandEncoder()
      const { y, saved } = lily.lilyForward({ x, a, router, b }, { encoder })
      registry.register(y.buffer, null)
      device.queue.submit([encoder.finish()])
      y.dispose()
      saved.dispose()
    }
    for (let i = 0; i < 10; i++) step()
    await device.queue.onSubmittedWorkDone()
    await vi.waitFor(() => {
      gc()
      // The last few may be on the stack still.
      expect(collected).toBeGreaterThan(5)
    })
    expect(x.isDisposed).toBe(false)
  })

  it('is what submitted() takes, and not the commands that it has finished', async () => {
    for (const wrong of [undefined, null, device.createCommandEncoder().finish(), device]) {
      await expectRefused(ARGUMENT, 'encoder: expected a GPUCommandEncoder', () => lily.submitted(wrong as never))
    }
    lily.submitted(device.createCommandEncoder()) // no call got it
  })

  it('is refused by the Async forms', async () => {
    const { x, a, router, b } = onDevice()
    const encoder = device.createCommandEncoder()
    await expectRefused(ARGUMENT, 'encoder: expected none with the Async form', () =>
      lily.lilyForwardAsync({ x, a, router, b }, { encoder }),
    )
  })
})
