/**
 * Memory that is transferred or resized while a call runs off the main thread, as docs/memory.md describes it.
 *
 * @asan
 */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { inspect, promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { ggufFile } from '../../lib/gguf/index.js'
import {
  analyse,
  type HostData,
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  lilyForwardAsync,
  LilyModel,
  loraBackward,
  loraBackwardAsync,
  loraForward,
  loraForwardAsync,
  LoraModel,
  type Tensor,
  tensor,
} from '../../lib/index.js'
import { expectSameBits } from '../support/compare.js'
import { expectRefused } from '../refusals/refused.js'
import { filled, type HostTensor, sizes, smallLoraB, smallOperands } from '../support/small.js'

const ARGUMENT = 'ERR_LILY_ARGUMENT'
const { tokens, dIn, dOut, rank, experts } = sizes

/** Transfers the memory of an array, as postMessage does, and overwrites it. Returns the receiver's array. */
function transfer({ data }: { readonly data: HostData }): Float32Array {
  const { buffer } = data
  const received = new Float32Array(structuredClone(buffer, { transfer: [buffer as ArrayBuffer] }))
  expect(data.length).toBe(0)
  return received
}

/** Operands that are too large to be copied, but for the router. */
function largeOperands() {
  const [M, d] = [64, 512]
  return {
    x: filled(1, M, d),
    a: filled(1 / 64, 256, d),
    router: filled(0, 2, 256),
    b: filled(1 / 64, 2, 256, d),
  }
}

describe('a small operand', () => {
  it.each(['x', 'a', 'router', 'b'] as const)('%s of forward: the call has read it', async (name) => {
    const { dy: _, ...operands } = smallOperands()
    const expected = lilyForward(operands)
    const pending = lilyForwardAsync(operands)
    transfer(operands[name]).fill(NaN)
    const { y, saved } = await pending
    expectSameBits('y', y.data, expected.y.data)
    expectSameBits('hidden', saved.hidden.data, expected.saved.hidden.data)
    // Backward needs it again.
    await expectRefused(ARGUMENT, `${name}: its ArrayBuffer is detached`, () =>
      lilyBackward({ dy: smallOperands().dy }, saved),
    )
  })

  it.each(['dy', 'x', 'a', 'router', 'b'] as const)('%s of backward: the call has read it', async (name) => {
    const { dy, ...operands } = smallOperands()
    const { saved } = lilyForward(operands)
    const expected = lilyBackward({ dy }, saved, { retain: true })
    const pending = lilyBackwardAsync({ dy }, saved)
    transfer({ dy, ...operands }[name]).fill(NaN)
    const gradients = await pending
    for (const each of ['dx', 'da', 'dRouter', 'db'] as const) {
      expectSameBits(each, gradients[each].data, expected[each].data)
    }
  })

  it('tensors of saved: the call has read them; a later one is refused', async () => {
    const { dy, ...operands } = smallOperands()
    const { saved } = lilyForward(operands)
    const expected = lilyBackward({ dy }, saved, { retain: true })
    const pending = lilyBackwardAsync({ dy }, saved, { retain: true })
    transfer(saved.hidden).fill(NaN)
    expectSameBits('db', (await pending).db.data, expected.db.data)
    await expectRefused(ARGUMENT, 'saved: its ArrayBuffer is detached', () => lilyBackward({ dy }, saved))
    await expectRefused(ARGUMENT, 'saved: its ArrayBuffer is detached', () => lilyBackwardAsync({ dy }, saved))
    await expectRefused(ARGUMENT, 'hidden: its ArrayBuffer is detached', () => saved.hidden)
    await expectRefused(ARGUMENT, 'weights: its ArrayBuffer is detached', () => saved.weights)
    expect(saved.routing).toBe('batch')
  })

  it('the memory of saved, with other routings than batch: a later call is refused', async () => {
    const { x, a, router, b, dy } = smallOperands()
    const token = lilyForward({ x, a, router, b }, { routing: 'token' }).saved
    const fixed = lilyForward({ x, a, b }, { routing: 'fixed', weights: [0.5, 0.5] }).saved
    const lora = loraForward({ x, a, b: smallLoraB() }).saved
    for (const memory of [token.hidden, fixed.weights, lora.hidden]) transfer(memory)
    for (const run of [
      () => lilyBackward({ dy }, token),
      () => lilyBackward({ dy }, fixed),
      () => loraBackward({ dy }, lora),
    ]) {
      const error = await expectRefused(ARGUMENT, 'saved: its ArrayBuffer is detached', run)
      expect(error.argument).toBe('saved')
    }
  })

  it('of a tensor: its data are refused, and no others', async () => {
    const x = tensor(Float32Array.of(1, 2), [2])
    const empty = tensor(new Float32Array(0), [0])
    for (const { data } of [x, empty]) structuredClone(data.buffer, { transfer: [data.buffer as ArrayBuffer] })
    await expectRefused(ARGUMENT, 'data: its ArrayBuffer is detached', () => x.data)
    expect([x.shape, empty.data.length]).toEqual([[2], 0])
    expect([x, empty].map((each) => inspect(each))).toEqual([
      'Tensor { float32 [2] on cpu:0 }',
      'Tensor { float32 [0] on cpu:0 }',
    ])
  })

  it('of LoRA: the call has read it', async () => {
    const { x, a, dy } = smallOperands()
    const operands = { x, a, b: smallLoraB() }
    const expected = loraForward(operands)
    const gradients = loraBackward({ dy }, expected.saved, { retain: true })
    const [forward, backward] = [loraForwardAsync(operands), loraBackwardAsync({ dy }, expected.saved)]
    for (const operand of [x, a, operands.b, dy]) transfer(operand).fill(NaN)
    expectSameBits('y', (await forward).y.data, expected.y.data)
    expectSameBits('db', (await backward).db.data, gradients.db.data)
  })

  it('y: the call rejects and writes nothing', async () => {
    const { dy: _, ...operands } = smallOperands()
    const y = filled(3, tokens, dOut)
    const pending = lilyForwardAsync({ ...operands, y })
    const received = transfer(y)
    const error = await expectRefused(ARGUMENT, 'y: its ArrayBuffer was transferred', () => pending)
    expect(error.argument).toBe('y')
    expect(received.every((value) => value === 3)).toBe(true)
  })

  it('a gradient: the call rejects and writes none of the small ones', async () => {
    const { dy, ...operands } = smallOperands()
    const { saved } = lilyForward(operands)
    const [dx, da, dRouter, db] = [
      filled(3, tokens, dIn),
      filled(3, rank, dIn),
      filled(3, experts, rank),
      filled(3, experts, rank, dOut),
    ]
    const pending = lilyBackwardAsync({ dy, dx, da, dRouter, db }, saved)
    const received = transfer(da)
    await expectRefused(ARGUMENT, 'da: its ArrayBuffer was transferred', () => pending)
    for (const data of [received, dx.data, dRouter.data, db.data]) expect(new Set(data)).toEqual(new Set([3]))
  })

  it('an output with a pitch: the call writes its own columns only', async () => {
    const { dy: _, ...operands } = smallOperands()
    const width = 2 * dOut + 1
    const fused = filled(1, tokens, width).data
    const columns = (from: number) => ({
      data: fused,
      shape: [tokens, dOut],
      strides: [width, 1],
      byteOffset: 4 * from,
    })
    const twice = { ...operands, b: { ...operands.b, data: operands.b.data.map((value) => 2 * value) } }
    const pending = [
      lilyForwardAsync({ ...operands, y: columns(0) }),
      lilyForwardAsync({ ...twice, y: columns(dOut) }, { accumulate: false }),
    ]
    for (let t = 0; t < tokens; t++) fused[t * width + 2 * dOut] = 7
    await Promise.all(pending)
    const left = lilyForward({ ...operands, y: filled(1, tokens, dOut) }).y.data
    const right = lilyForward(twice).y.data
    for (let t = 0; t < tokens; t++) {
      const row = fused.subarray(t * width, (t + 1) * width)
      expectSameBits('left', row.slice(0, dOut), left.subarray(t * dOut, (t + 1) * dOut))
      expectSameBits('right', row.slice(dOut, 2 * dOut), right.subarray(t * dOut, (t + 1) * dOut))
      expect(row[2 * dOut]).toBe(7)
    }
  })
})

describe('a frozen layer and its adapter: both have read a small operand', () => {
  const frozen = () => ({ weight: filled(1, dOut, dIn), bias: filled(2, dOut) })

  it.each(['x', 'weight', 'bias', 'a', 'router', 'b'] as const)('%s of forward', async (name) => {
    const { dy: _, ...adapter } = smallOperands()
    const operands = { ...adapter, ...frozen() }
    const expected = lilyForward({ ...operands, y: filled(3, tokens, dOut) })
    const pending = lilyForwardAsync({ ...operands, y: filled(3, tokens, dOut) })
    transfer(operands[name]).fill(NaN)
    const { y, saved } = await pending
    expectSameBits('y', y.data, expected.y.data)
    expectSameBits('hidden', saved.hidden.data, expected.saved.hidden.data)
  })

  it.each(['dy', 'weight', 'x', 'a', 'router', 'b', 'saved'] as const)('%s of backward', async (name) => {
    const { dy, ...adapter } = smallOperands()
    const { weight } = frozen()
    const { saved } = lilyForward({ ...adapter, weight })
    const given = () => ({ dy, dx: filled(3, tokens, dIn), da: filled(3, rank, dIn) })
    const expected = lilyBackward(given(), saved, { retain: true })
    const pending = lilyBackwardAsync(given(), saved)
    transfer(name === 'saved' ? saved.hidden : { dy, weight, ...adapter }[name]).fill(NaN)
    const gradients = await pending
    for (const each of ['dx', 'da', 'dRouter', 'db'] as const) {
      expectSameBits(each, gradients[each].data, expected[each].data)
    }
  })

  it('of LoRA', async () => {
    const { x, a, dy } = smallOperands()
    const operands = { x, a, b: smallLoraB(), ...frozen() }
    const expected = loraForward(operands)
    const gradients = loraBackward({ dy }, expected.saved, { retain: true })
    const pending = [
      loraForwardAsync(operands).then(({ y }) => y),
      loraBackwardAsync({ dy }, expected.saved).then(({ da }) => da),
    ]
    for (const operand of [dy, ...Object.values(operands)]) transfer(operand).fill(NaN)
    const [y, da] = await Promise.all(pending)
    expectSameBits('y', y.data, expected.y.data)
    expectSameBits('da', da.data, gradients.da.data)
  })

  it('an output: the call rejects and writes none of the small ones', async () => {
    const { dy, ...adapter } = smallOperands()
    const { weight } = frozen()
    const y = filled(3, tokens, dOut)
    const forward = lilyForwardAsync({ ...adapter, weight, y })
    const receivedY = transfer(y)
    await expectRefused(ARGUMENT, 'y: its ArrayBuffer was transferred', () => forward)
    expect(new Set(receivedY)).toEqual(new Set([3]))

    const { saved } = lilyForward({ ...adapter, weight })
    const [dx, da] = [filled(3, tokens, dIn), filled(3, rank, dIn)]
    const backward = lilyBackwardAsync({ dy, dx, da }, saved)
    const received = transfer(da)
    await expectRefused(ARGUMENT, 'da: its ArrayBuffer was transferred', () => backward)
    for (const data of [received, dx.data]) expect(new Set(data)).toEqual(new Set([3]))
  })
})

describe('a large operand', () => {
  it('in shared memory it is used in place', async () => {
    const { x, ...rest } = largeOperands()
    const expected = lilyForward({ x, ...rest }).y
    const shared = new Float32Array(new SharedArrayBuffer(x.data.byteLength))
    shared.set(x.data)
    const y = { data: new Float32Array(new SharedArrayBuffer(4 * 64 * 512)), shape: [64, 512] }
    await lilyForwardAsync({ x: { data: shared, shape: x.shape }, ...rest, y })
    expectSameBits('y', y.data.slice(), expected.data)
  })

  it.each(['x', 'b', 'y', 'dy', 'dx', 'saved'])('%s, whose memory is freed meanwhile', async (name) => {
    const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', 'transfer.js', name], {
      cwd: fileURLToPath(new URL('../programs/', import.meta.url)),
    })
    const isOutput = name === 'y' || name === 'dx'
    expect(stdout).toMatch(isOutput ? new RegExp(`^ERR_LILY_ARGUMENT ${name}: its ArrayBuffer was tr`) : /^the same$/m)
  })
})

describe('a buffer that can be resized', () => {
  interface Resizable<Buffer> {
    new (length: number, options: { maxByteLength: number }): Buffer
  }
  const ResizableArrayBuffer = ArrayBuffer as unknown as Resizable<ArrayBuffer & { resize: (length: number) => void }>
  const GrowableSharedArrayBuffer = SharedArrayBuffer as unknown as Resizable<
    SharedArrayBuffer & { grow: (length: number) => void }
  >
  const resizable = ({ data, shape }: HostTensor) => {
    const copy = new Float32Array(new ResizableArrayBuffer(data.byteLength, { maxByteLength: data.byteLength }))
    copy.set(data)
    return { data: copy, shape }
  }

  it('is refused by the Async forms, and accepted by the others', async () => {
    const { dy, ...operands } = smallOperands()
    const text = (name: string) => `${name}: expected memory that cannot shrink`
    for (const name of ['x', 'a', 'router', 'b', 'y'] as const) {
      const call = { ...operands, y: filled(1, tokens, dOut) }
      call[name] = resizable(call[name])
      const error = await expectRefused(ARGUMENT, text(name), () => lilyForwardAsync(call))
      expect(error.argument).toBe(name)
      expect(new Set(call.y.data)).toEqual(new Set([1]))
      lilyForward(call)
    }
    const { saved } = lilyForward(operands)
    for (const name of ['dy', 'dx', 'da', 'dRouter', 'db'] as const) {
      const call = {
        dy,
        dx: filled(1, tokens, dIn),
        da: filled(1, rank, dIn),
        dRouter: filled(1, experts, rank),
        db: filled(1, experts, rank, dOut),
      }
      call[name] = resizable(call[name])
      await expectRefused(ARGUMENT, text(name), () => lilyBackwardAsync(call, saved))
      for (const each of ['dx', 'da', 'dRouter', 'db'] as const) expect(new Set(call[each].data)).toEqual(new Set([1]))
      lilyBackward(call, saved, { retain: true })
    }
    const x = resizable(operands.x)
    const { saved: savedOfX } = lilyForward({ ...operands, x })
    await expectRefused(ARGUMENT, text('x'), () => lilyBackwardAsync({ dy }, savedOfX))
  })

  it('is refused before the frozen layer below an adapter has written anything', async () => {
    const { dy, ...adapter } = smallOperands()
    const weight = filled(1, dOut, dIn)
    for (const name of ['x', 'weight', 'a', 'router', 'b', 'y'] as const) {
      const call = { ...adapter, weight, y: filled(1, tokens, dOut) }
      call[name] = resizable(call[name])
      await expectRefused(ARGUMENT, `${name}: expected memory that cannot shrink`, () => lilyForwardAsync(call))
      expect(new Set(call.y.data)).toEqual(new Set([1]))
    }
    // Outputs that are not copied.
    const operands = { ...largeOperands(), weight: filled(1, 512, 512), y: filled(1, 64, 512) }
    operands.router = resizable(operands.router)
    await expectRefused(ARGUMENT, 'router: expected memory', () => lilyForwardAsync(operands))
    expect(new Set(operands.y.data)).toEqual(new Set([1]))
    const { saved: ofResizable } = lilyForward({ ...adapter, weight: resizable(weight) })
    await expectRefused(ARGUMENT, 'weight: expected memory', () => lilyBackwardAsync({ dy }, ofResizable))
    const { saved } = lilyForward({ ...adapter, weight })
    for (const name of ['dy', 'dx', 'da'] as const) {
      const call = { dy, dx: filled(1, tokens, dIn), da: filled(1, rank, dIn) }
      call[name] = resizable(call[name])
      await expectRefused(ARGUMENT, `${name}: expected memory`, () => lilyBackwardAsync(call, saved))
      for (const { data } of [call.dx, call.da]) expect(new Set(data)).toEqual(new Set([1]))
    }
  })

  it('is accepted if it is shared, because shared memory only grows, and stays where it is', async () => {
    const { x, ...rest } = largeOperands()
    const expected = lilyForward({ x, ...rest }).y
    const bytes = x.data.byteLength
    const buffer = new GrowableSharedArrayBuffer(bytes, { maxByteLength: 2 * bytes })
    const data = new Float32Array(buffer, 0, x.data.length)
    data.set(x.data)
    const pending = lilyForwardAsync({ x: { data, shape: x.shape }, ...rest })
    buffer.grow(2 * bytes)
    expectSameBits('y', (await pending).y.data, expected.data)
  })
})

describe('a parameter of a model, at any moment of a promise: it rejects, or the result is right', () => {
  const layers = [0, 1].map((l) => ({ name: `model.layers.${l}.self_attn.q_proj`, inFeatures: 4, outFeatures: 6 }))
  function frozenModel(): LilyModel {
    const config = { r: 2, strideA: 1, numB: 2, targetModules: ['q_proj'], initWeights: false }
    const model = LilyModel.create({ layers, config, seed: 1 })
    model.freeze('uniform')
    return model
  }
  const loraModel = () =>
    LoraModel.create({ layers, config: { r: 2, targetModules: ['q_proj'], initLoraWeights: false }, seed: 1 })
  const bytesOf = (files: readonly File[]) =>
    Promise.all(files.map(async (file) => new Uint8Array(await file.arrayBuffer())))

  /** Turns of the queue of promises after which the parameter is taken away, at most. */
  const MOST_TURNS = 60

  /** Runs a call again and again. Its result is compared as far as `resultOf` gives it. */
  async function takeAtEachMoment<M extends LilyModel | LoraModel, R>(
    create: () => M,
    call: (model: M) => Promise<R>,
    resultOf: (result: R) => unknown = (result) => result,
  ): Promise<void> {
    const expected = await resultOf(await call(create()))
    for (const take of [(value: Tensor) => transfer(value).fill(NaN), (value: Tensor) => value.dispose()]) {
      let refusals = 0
      for (const name of create().parameters().keys()) {
        for (let turns = 0; turns < MOST_TURNS; turns++) {
          const model = create()
          const value = model.parameters().get(name)?.value
          const settled = call(model).catch((error: unknown) => error)
          for (let turn = 0; turn < turns; turn++) await Promise.resolve()
          if (value !== undefined) take(value)
          const result = await settled
          if (result instanceof Error) {
            expect(result).toMatchObject({ name: 'LilyError' })
            refusals++
          } else {
            expect(await resultOf(result as R)).toEqual(expected)
          }
        }
      }
      expect(refusals).toBeGreaterThan(0)
    }
  }

  it('exportLora', () =>
    takeAtEachMoment(
      frozenModel,
      (model) => model.exportLora(),
      (exported) => Array.from(exported.layers.values(), ({ a, b }) => [a.data, b.data]),
    ))

  it('pretrainedFiles', () => takeAtEachMoment(frozenModel, (model) => model.pretrainedFiles(), bytesOf))

  it('loraFiles', () => takeAtEachMoment(frozenModel, (model) => model.loraFiles(), bytesOf))

  it('analyse', async () => {
    await takeAtEachMoment(frozenModel, (model) => analyse(model))
    await takeAtEachMoment(loraModel, (model) => analyse(model))
  })

  it('ggufFile', () =>
    takeAtEachMoment(
      loraModel,
      (model) => ggufFile(model, { base: { model_type: 'qwen3' } }),
      (file) => bytesOf([file]),
    ))

  it('calibrate', () => {
    const create = () => {
      const model = frozenModel()
      model.unfreeze()
      return model
    }
    const samples = new Map(layers.map(({ name }) => [name, [filled(1, 3, 4), filled(2, 2, 4)]]))
    return takeAtEachMoment(create, (model) => model.calibrate(samples))
  })

  it('analyse, by the callback for its progress', async () => {
    const model = frozenModel()
    const expected = await analyse(frozenModel())
    // The layers have one B.
    const onProgress = (name: string, done: number) => {
      if (done === 0) transfer(model.layer(name).b.value).fill(NaN)
    }
    // It runs when the numbers of the experts have been read.
    expect(await analyse(model, { onProgress })).toEqual(expected)
  })
})
