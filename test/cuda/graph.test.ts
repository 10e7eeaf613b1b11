/** Graphs, on a GPU or the emulator. */
import { describe, expect, it, vi } from 'vitest'
import {
  AdamW,
  backends,
  captureGraph,
  DeviceBuffer,
  dropoutState,
  emptyCache,
  Event,
  lilyBackward,
  lilyForward,
  lilyForwardAsync,
  type LilyForwardOptions,
  LilyModel,
  type LilySaved,
  memoryStats,
  Stream,
  type Tensor,
  tensor,
} from '../../lib/index.js'
import { native } from '../../lib/binding/native.js'
import { collect } from '../support/collect.js'
import { expectSameBits } from '../support/compare.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'
import { type HostTensor, sizes, smallOperands } from '../support/small.js'

const device = { type: 'cuda', id: 0 } as const
const { tokens, dIn, dOut, rank, experts } = sizes

const onDevice = ({ data, shape }: HostTensor) => tensor(data, shape).to(device)
const buffer = ({ data, shape }: HostTensor) => DeviceBuffer.allocate(shape).upload(data)
const contents = async (of: Tensor) => (await of.toHost()).data as Float32Array
const blocks = () => memoryStats(device).blocksInUse

/** Inputs that depend on a seed. */
function inputs(seed: number) {
  const random = randomFrom(seed)
  return { x: gaussian(random, tokens * dIn), dy: gaussian(random, tokens * dOut) }
}

/** Operands whose inputs are buffers that can be overwritten. */
function operands() {
  const { x, a, router, b, dy } = smallOperands()
  const logits = tensor(
    Float32Array.from({ length: experts }, (_, e) => e / 4),
    [experts],
  ).to(device)
  return { x: buffer(x), dy: buffer(dy), a: onDevice(a), router: onDevice(router), logits, b: onDevice(b) }
}

type Operands = ReturnType<typeof operands>
type Options = Omit<LilyForwardOptions, 'save'>

function pair({ x, dy, a, router, logits, b }: Operands, options: Options = {}) {
  const given = options.routing === 'learned' ? { router: logits } : options.routing !== 'uniform' && { router }
  const { y, saved } = lilyForward({ x, a, b, ...given }, options)
  const { dx, da, dRouter, db } = lilyBackward({ dy }, saved)
  const { hidden } = saved
  saved.dispose()
  return { y, hidden, dx, da, db, ...(dRouter !== undefined && { dRouter }) }
}

async function values(results: Readonly<Record<string, Tensor>>): Promise<Map<string, Float32Array>> {
  const found = new Map<string, Float32Array>()
  for (const [name, result] of Object.entries(results)) found.set(name, await contents(result))
  return found
}

/** Captures forward and backward, replays them on other inputs, and compares with direct calls. */
async function expectReplays(options: Options): Promise<void> {
  const all = operands()
  let results: ReturnType<typeof pair> | undefined
  const graph = captureGraph(() => {
    results = pair(all, options)
  })
  for (const seed of [1, 2, 3]) {
    const { x, dy } = inputs(seed)
    all.x.upload(x)
    all.dy.upload(dy)
    graph.replay()
    const expected = await values(pair(all, options))
    for (const [name, value] of await values(results!)) expectSameBits(`${name}, ${seed}`, value, expected.get(name)!)
  }
  graph.dispose()
}

describe('forward and backward replayed on other inputs are bit-equal to direct calls', () => {
  it.each<[string, Options]>([
    ['batch', {}],
    ['a mask on the host', { mask: [1, 0, 1, 1, 0, 1] }],
    ['sequences', { routing: 'sequence', sequenceOffsets: [0, 2, 2, 6], mask: [1, 0, 1, 1, 0, 1] }],
    ['token', { routing: 'token', activation: 'relu' }],
    ['uniform', { routing: 'uniform' }],
    ['learned', { routing: 'learned' }],
  ])('%s', async (_, options) => {
    await expectReplays(options)
  })
})

describe('dropout', () => {
  const rate = 0.5
  const [seed, position] = [3, 2 ** 32 - 1] // the low word of the position overflows
  const upload = (words: Int32Array) => DeviceBuffer.allocate([4], 'int32').upload(words)

  it('a state in device memory: each replay takes the next position', async () => {
    const all = operands()
    const state = upload(dropoutState(seed, position))
    let results: ReturnType<typeof pair> | undefined
    const graph = captureGraph(() => {
      results = pair(all, { dropout: { rate, state } })
    })
    expect(await state.download(), 'a capture draws nothing').toEqual(dropoutState(seed, position))
    const replayed: Map<string, Float32Array>[] = []
    for (let i = 0; i < 2; i++) {
      const expected = await values(pair(all, { dropout: { rate, state: dropoutState(seed, position + i) } }))
      graph.replay()
      replayed.push(await values(results!))
      for (const [name, value] of replayed[i]) expectSameBits(`${name}, ${i}`, value, expected.get(name)!)
      expect(await state.download()).toEqual(dropoutState(seed, position + i + 1))
    }
    for (const name of ['y', 'dx', 'da']) expect(replayed[1].get(name)).not.toEqual(replayed[0].get(name))
    expect((await contents(pair(all).y)).every((value, i) => value === replayed[0].get('y')![i])).toBe(false)
    graph.dispose()
  })

  it('a state on the host is refused, and has not advanced', async () => {
    const { x, a, b } = operands()
    const state = dropoutState(seed, position)
    const call = () => lilyForward({ x, a, b }, { routing: 'uniform', dropout: { rate, state } })
    await expectRefused('ERR_LILY_ARGUMENT', 'dropout.state', () => captureGraph(call))
    expect(state).toEqual(dropoutState(seed, position))
  })
})

describe('captureGraph', () => {
  it('runs nothing; a replay runs everything', async () => {
    const target = DeviceBuffer.allocate([4], 'uint8').fill(1)
    const source = DeviceBuffer.allocate([4], 'uint8').fill(7)
    const graph = captureGraph(() => target.copyFrom(source))
    expect(Array.from(await target.download())).toEqual([1, 1, 1, 1])
    graph.replay()
    expect(Array.from(await target.download())).toEqual([7, 7, 7, 7])
    source.fill(8)
    graph.replay()
    expect(Array.from(await target.download())).toEqual([8, 8, 8, 8])
  })

  it('each replay accumulates once into given outputs', async () => {
    const { x, a, b } = operands()
    const once = await contents(lilyForward({ x, a, b }, { routing: 'uniform' }).y)
    const y = DeviceBuffer.allocate([tokens, dOut])
    const graph = captureGraph(() => {
      lilyForward({ x, a, b, y }, { routing: 'uniform', save: false })
    })
    y.fill(0)
    for (let i = 0; i < 3; i++) graph.replay()
    const sum = await y.download<Float32Array>()
    sum.forEach((value, i) => {
      expect(value).toBeCloseTo(3 * once[i], 5)
    })
  })

  it('a replay is ordered with the work on the streams of its operands', async () => {
    const [first, second] = [Stream.create(device), Stream.create(device)]
    const source = DeviceBuffer.allocate([70000], 'uint8', device, { stream: first })
    const target = DeviceBuffer.allocate([70000], 'uint8', device, { stream: second })
    const graph = captureGraph(() => target.copyFrom(source))
    const seen = []
    for (let i = 1; i <= 5; i++) {
      source.fill(i)
      graph.replay()
      seen.push(target.download())
      if (i === 3) first.dispose()
    }
    expect((await Promise.all(seen)).map((data) => new Set(data))).toEqual([1, 2, 3, 4, 5].map((i) => new Set([i])))
  })

  it('holds the memory that it uses, and releases all of it', async () => {
    await Stream.default().synchronize()
    await collect() // of earlier tests
    emptyCache()
    await collect()
    const before = blocks()
    const all = operands()
    let results: ReturnType<typeof pair> | undefined
    const graph = captureGraph(() => {
      results = pair(all, { mask: [1, 1, 1, 1, 1, 0] })
    })
    graph.replay()
    const expected = await values(results!)
    const { y, ...others } = results!
    // Operands and intermediate results. Other allocations do not reuse this memory.
    for (const each of [...Object.values(others), ...Object.values(all)]) each.dispose()
    emptyCache()
    const strangers = Array.from({ length: 40 }, (_, i) => DeviceBuffer.allocate([8 << (i % 8)], 'uint8').fill(255))
    graph.replay().replay()
    expectSameBits('y', await contents(y), expected.get('y')!)
    for (const each of strangers) expect(new Set(await each.download())).toEqual(new Set([255]))
    for (const each of strangers) each.dispose()
    await graph.synchronize()
    graph.dispose()
    graph.dispose()
    expectSameBits('y, which outlives the graph', await contents(y), expected.get('y')!)
    y.dispose()
    expect(blocks()).toBe(before)
  })

  it('an unreachable graph releases its memory', async () => {
    await collect()
    const before = blocks()
    const make = () => {
      const all = operands()
      captureGraph(() => {
        for (const each of Object.values(pair(all))) each.dispose()
      }).replay()
      // The graph still holds them.
      for (const each of Object.values(all)) each.dispose()
    }
    make()
    expect(blocks()).toBeGreaterThan(before + 5)
    await collect()
    expect(blocks()).toBe(before)
  })

  it('captures the layers of a model: gradients accumulate, and zeroGrad clears them', async () => {
    const options = {
      layers: ['0.q', '1.q'].map((name) => ({ name, inFeatures: dIn, outFeatures: dIn })),
      config: { r: rank, numB: experts, strideA: 2, initWeights: false },
      seed: 1,
    }
    const x = buffer({ data: inputs(1).x, shape: [tokens, dIn] })
    const step = (model: LilyModel) => {
      model.zeroGrad()
      for (const name of ['0.q', '1.q', '0.q']) {
        const { saved } = model.layer(name).forward({ x })
        model.layer(name).backward({ dy: x, saved })
      }
    }
    const [recorded, called] = [1, 2].map(() => LilyModel.create(options).to(device))
    const graph = captureGraph(() => {
      step(recorded)
    })
    for (const seed of [2, 3]) {
      x.upload(inputs(seed).x)
      graph.replay()
      step(called)
      const pairs = [...recorded.parameters()].map(
        ([name, { grad }]) => [name, grad, called.parameters().get(name)!] as const,
      )
      for (const [name, grad, other] of pairs) {
        // One of them may defer dB to a fold, which sums in another order.
        const [actual, expected] = [await contents(grad), await contents(other.grad)]
        actual.forEach((value, i) => {
          expect(value, name).toBeCloseTo(expected[i], 4)
        })
      }
    }
  })

  it('omits the initial zeroing of gradients, and holds the state of an optimiser', async () => {
    const options = {
      layers: [{ name: '0.q', inFeatures: dIn, outFeatures: dIn }],
      config: { r: rank, numB: experts, initWeights: false },
      seed: 1,
    }
    const x = buffer({ data: inputs(1).x, shape: [tokens, dIn] })
    const [recorded, called] = [1, 2].map(() => LilyModel.create(options).to(device))
    const step = (model: LilyModel) => {
      const { saved } = model.layer('0.q').forward({ x })
      model.layer('0.q').backward({ dy: x, saved })
    }
    let optimiser: AdamW | undefined
    const graph = captureGraph(() => {
      optimiser ??= new AdamW(recorded.parameters(), { lr: 0 })
      step(recorded)
    })
    for (const [, { grad }] of recorded.parameters()) {
      expect(new Set(await contents(grad)), 'before the first replay').toEqual(new Set([0]))
    }
    graph.replay().replay()
    for (let i = 0; i < 2; i++) step(called)
    for (const [name, { grad }] of recorded.parameters()) {
      expectSameBits(name, await contents(grad), await contents(called.parameters().get(name)!.grad))
    }
    optimiser!.step()
    graph.replay()
    for (const { expAvg } of Object.values(optimiser!.state().parameters)) {
      expect((await contents(expAvg)).some((value) => value !== 0)).toBe(true)
    }
  })

  it('captures a forward whose backward follows each replay, also after steps of an optimiser', async () => {
    const options = {
      layers: [{ name: '0.q', inFeatures: dIn, outFeatures: dIn }],
      config: { r: rank, numB: experts, initWeights: false },
      seed: 1,
    }
    const x = buffer({ data: inputs(1).x, shape: [tokens, dIn] })
    const [recorded, called] = [1, 2].map(() => LilyModel.create(options).to(device))
    const [layer, other] = [recorded, called].map((model) => model.layer('0.q'))
    const optimisers = [recorded, called].map((model) => new AdamW(model.parameters(), { lr: 0.1 }))
    let saved: LilySaved
    const graph = captureGraph(() => {
      saved = layer.forward({ x }).saved
    })
    for (let step = 0; step < 2; step++) {
      graph.replay()
      layer.backward({ dy: x, saved: saved! }, { retain: true })
      other.backward({ dy: x, saved: other.forward({ x }).saved })
      for (const optimiser of optimisers) {
        optimiser.step()
        optimiser.zeroGrad()
      }
    }
    for (const [name, { value }] of recorded.parameters()) {
      expectSameBits(name, await contents(value), await contents(called.parameters().get(name)!.value))
    }
  })

  it('holds the source of a copy', async () => {
    const target = DeviceBuffer.allocate([4096], 'uint8')
    const source = DeviceBuffer.allocate([4096], 'uint8').fill(7)
    const graph = captureGraph(() => target.copyFrom(source))
    source.dispose()
    emptyCache()
    const strangers = Array.from({ length: 8 }, () => DeviceBuffer.allocate([4096], 'uint8').fill(255))
    graph.replay()
    expect(new Set(await target.download())).toEqual(new Set([7]))
    for (const each of [...strangers, target]) each.dispose()
  })

  it('holds the owners of foreign memory until its replays have completed', async () => {
    const { x, a, b } = operands()
    // Stands for an object of another library, which frees its memory when it is collected.
    const record = () => {
      const { ptr, shape, dtype, byteLength } = x
      const owner = { name: 'of x' }
      const foreign = { ptr, shape, dtype, byteLength, device, owner }
      const graph = captureGraph(() => {
        lilyForward({ x: foreign, a, b }, { routing: 'uniform', save: false })
      })
      return { graph, owner: new WeakRef(owner) }
    }
    const { graph, owner } = record()
    await collect()
    expect(owner.deref()).toBeDefined()
    graph.replay().dispose()
    await Stream.default().synchronize()
    await collect()
    expect(owner.deref()).toBeUndefined()
  })

  it('events measure the time of replays', async () => {
    const target = DeviceBuffer.allocate([1 << 16], 'uint8')
    const graph = captureGraph(() => target.fill(1))
    const [start, end] = [Event.create().record(), Event.create()]
    graph.replay().replay()
    end.record()
    await end.synchronize()
    expect(start.elapsedTime(end)).toBeGreaterThanOrEqual(0)
    expect(new Set(await target.download())).toEqual(new Set([1]))
  })

  it('captures an empty function', async () => {
    const graph = captureGraph(() => undefined)
    await graph.replay().synchronize()
    graph[Symbol.dispose]()
    expect(graph.isDisposed).toBe(true)
    await expectRefused('ERR_LILY_DISPOSED', 'disposed', () => graph.replay())
    await expectRefused('ERR_LILY_DISPOSED', 'disposed', () => graph.synchronize())
  })
})

describe('rejects work that cannot be captured, without side effects', () => {
  const all = operands()
  const other = Stream.create(device)
  const parameters = [{ value: all.a, grad: onDevice({ data: new Float32Array(rank * dIn), shape: [rank, dIn] }) }]
  const optimiser = new AdamW(new Map(parameters.map((each) => ['a', each])), { lr: 1 })
  const state = optimiser.state()
  const event = Event.create()
  const layers = [{ name: '0.q', inFeatures: dIn, outFeatures: dIn }]
  const model = LilyModel.create({ layers, config: { r: rank, numB: experts } }).to(device)
  const graph = captureGraph(() => undefined)
  const uniform = { routing: 'uniform' } as const
  const { x, a, b } = all

  it.each<[string, string, () => void]>([
    ['another stream', 'stream', () => lilyForward({ x, a, b }, { ...uniform, stream: other })],
    [
      "an optimiser's step",
      'fn',
      () => {
        optimiser.step()
      },
    ],
    ['a capture', 'fn', () => captureGraph(() => undefined)],
    ['a replay', 'fn', () => graph.replay()],
    ["an event's record", 'fn', () => event.record()],
    ['waiting for an event', 'fn', () => Stream.default().waitEvent(event)],
    [
      "an optimiser's state",
      'fn',
      () => {
        optimiser.load(state)
      },
    ],
  ])('%s', async (_, argument, call) => {
    await collect()
    const before = blocks()
    await expectRefused('ERR_LILY_ARGUMENT', argument, () => captureGraph(call))
    expect(blocks()).toBe(before)
    // The next capture works.
    captureGraph(() => x.fill(0))
      .replay()
      .dispose()
  })

  it.each<[string, () => Promise<unknown>]>([
    ['the async functions', () => lilyForwardAsync({ x, a, b }, uniform)],
    ['a download', () => x.download()],
    ['toHost', () => a.toHost()],
  ])('%s', async (_, call) => {
    let pending: Promise<unknown> | undefined
    const empty = captureGraph(() => {
      pending = call()
    })
    await expectRefused('ERR_LILY_ARGUMENT', 'cannot be part of a graph', () => pending)
    empty.replay().dispose()
  })

  it('a gradient that is deferred to a fold', async () => {
    const layer = model.layer('0.q')
    await expectRefused('ERR_LILY_ARGUMENT', 'fn', () =>
      captureGraph(() => layer.backward({ dy: x, saved: layer.forward({ x }).saved }, { deferB: true })),
    )
  })

  it('an async function', async () => {
    const asynchronous: () => unknown = async () => {
      await Promise.resolve()
      throw new Error('after the capture')
    }
    await expectRefused('ERR_LILY_ARGUMENT', 'fn', () => captureGraph(asynchronous))
  })

  it('a value that is not a function, and unknown options', async () => {
    await expectRefused('ERR_LILY_ARGUMENT', 'fn', () => captureGraph(1 as never))
    await expectRefused('ERR_LILY_ARGUMENT', 'stream', () => captureGraph(() => undefined, { stream: other } as never))
    await expectRefused('ERR_LILY_BACKEND_UNAVAILABLE', 'cuda:99', () =>
      captureGraph(() => undefined, { device: { type: 'cuda', id: 99 } }),
    )
  })

  it('a function that throws', async () => {
    await collect()
    const before = blocks()
    const failure = new Error('mine')
    const failing = () => {
      lilyForward({ x, a, b }, { ...uniform, save: false }).y.dispose()
      throw failure
    }
    // The emulator does not notice a capture that is never ended.
    const [ended, destroyed] = [vi.spyOn(native, 'captureEnd'), vi.spyOn(native, 'graphDestroy')]
    expect(() => captureGraph(failing)).toThrow(failure)
    expect([ended.mock.calls.length, destroyed.mock.calls.length]).toEqual([1, 1])
    vi.restoreAllMocks()
    expect(blocks()).toBe(before)
    await expectRefused('ERR_LILY_SHAPE', 'a', () => captureGraph(() => lilyForward({ x: b, a, b }, uniform)))
    await collect()
    expect(blocks()).toBe(before)
  })

  it('operands of another device', async (context) => {
    if (backends()[1].devices.length < 2) context.skip('there is only one device')
    const there = DeviceBuffer.allocate([4], 'uint8', { type: 'cuda', id: 1 })
    await expectRefused('ERR_LILY_DEVICE', 'device', () => captureGraph(() => there.fill(1)))
  })
})
