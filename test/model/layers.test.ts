/**
 * Layers that share parameters, forward and backward.
 *
 * @project cpu wasm webgpu cuda
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import {
  AdamW,
  type AdapterForwardResult,
  type AdapterLayer,
  type AdapterModel,
  foldB,
  lilyBackward,
  lilyForward,
  LilyModel,
  type LilySaved,
  linearBackward,
  linearForward,
  LoraModel,
  packLinear,
  type Parameter,
  type Tensor,
  tensor,
} from '../../lib/index.js'
import { readConfig } from '../../lib/model/lily-config.js'
import { forward } from '../support/reference.js'
import { isWebGpu } from '../support/backend.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { createLora, createModel, numbersOf, place, runChain } from '../support/model.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'
import { readSafetensors } from '../support/safetensors.js'

const golden = fileURLToPath(new URL('../fixtures/golden', import.meta.url))

describe('compared with PEFT', () => {
  const index = JSON.parse(readFileSync(join(golden, 'index.json'), 'utf8')) as {
    multi_layer: {
      file: string
      d: number
      r: number
      num_B: number
      scaling: number
      layers: number
      stride_A: number
    }[]
  }
  for (const { file, d, r, num_B: numB, scaling, layers, stride_A: strideA } of index.multi_layer) {
    it.each([undefined, true, false])(`${file}, deferB %s`, async (deferB) => {
      const tensors = readSafetensors(join(golden, file))
      const stored = (name: string) => tensors.get(name)?.data ?? new Float32Array()
      const config = readConfig({ r, numB, scaling, strideA })
      const shapes = Array.from({ length: layers }, (_, l) => ({ name: `${l}.proj`, inFeatures: d, outFeatures: d }))
      // The names of each parameter and its gradient in the golden file.
      const names = new Map([['0.proj.lily_B.weight', 'Bs']])
      for (let l = 0; l < layers; l += strideA) names.set(`${l}.proj.lily_A.weight`, `A${l / strideA}`)
      for (let l = 0; l < layers; l++) names.set(`${l}.proj.lily_router.weight`, `R${l}`)
      const shapeOf = (name: string) => tensors.get(name)?.shape ?? []
      const values = new Map(Array.from(names, ([name, key]) => [name, place(stored(key), shapeOf(key))]))
      const model = LilyModel.fromParts({ config, layers: shapes, values, seed: 1 })

      const { outputs, dx } = await runChain(model, stored('x'), [...shapeOf('x')], stored('dy'), { deferB })
      const results = new Map(outputs.map((y, l) => [`y${l}`, y])).set('dx', dx)
      for (const [name, { grad }] of model.parameters()) {
        const key = names.get(name) ?? ''
        results.set(`d${key === 'Bs' ? 'B' : key}`, await numbersOf(grad))
      }
      expect(results.size).toBe(layers + 1 + names.size)
      for (const [name, actual] of results) {
        // As in golden.test.ts: four times the error of PEFT's own float32 run, or 2e-6.
        const exact = stored(`f64.${name}`)
        const limit = Math.max(4 * relativeError(stored(`f32.${name}`), exact), 2e-6)
        expect(relativeError(actual, exact), name).toBeLessThanOrEqual(limit)
      }
    })
  }
})

describe('gradients of shared parameters', () => {
  const [tokens, dIn, rank, experts, scaling] = [6, 5, 3, 2, 1.5]
  const shapes = ['0.q', '1.q'].map((name) => ({ name, inFeatures: dIn, outFeatures: dIn }))
  const config = { r: rank, numB: experts, strideA: 2, scaling, initWeights: false }
  const random = randomFrom(5)
  const x = gaussian(random, tokens * dIn)
  const dy = gaussian(random, tokens * dIn)

  /** <dy, x_2> in float64, where x_l+1 = x_l + adapter_l(x_l). */
  function loss(values: Readonly<Record<string, Float64Array>>): number {
    const { x, a, b } = values
    let value = Float64Array.from(x)
    for (const router of [values.router0, values.router1]) {
      const sizes = { tokens, dIn, dOut: dIn, rank, experts }
      const { y } = forward({ routing: 'batch', scaling, ...sizes, x: value, a, router, b })
      value = value.map((number, i) => number + y.value[i])
    }
    return value.reduce((sum, number, i) => sum + number * dy[i], 0)
  }

  it.each([undefined, true, false])('agree with finite differences over two layers, deferB %s', async (deferB) => {
    const model = createModel({ layers: shapes, config, seed: 11 })
    const { dx } = await runChain(model, x, [tokens, dIn], dy, { deferB })
    const parameters = model.parameters()
    const names = {
      a: '0.q.lily_A.weight',
      router0: '0.q.lily_router.weight',
      router1: '1.q.lily_router.weight',
      b: '0.q.lily_B.weight',
    }
    const values: Record<string, Float64Array> = { x: Float64Array.from(x) }
    const gradients: Record<string, Float32Array> = { x: dx }
    for (const [key, name] of Object.entries(names)) {
      const parameter = parameters.get(name)
      values[key] = Float64Array.from(await numbersOf(parameter?.value))
      gradients[key] = await numbersOf(parameter?.grad)
    }
    const step = 1e-5
    for (const [key, gradient] of Object.entries(gradients)) {
      const differences = Float64Array.from(values[key], (_, i) => {
        const at = (shift: number) => {
          const shifted = values[key].slice()
          shifted[i] += shift
          return loss({ ...values, [key]: shifted })
        }
        return (at(step) - at(-step)) / (2 * step)
      })
      // The rounding of float32 in sums of a few dozen terms; the differences are accurate to 1e-9.
      expect(relativeError(gradient, differences), key).toBeLessThan(2e-6)
    }
  })

  it('zeroes no gradient before all are checked', async () => {
    const model = createModel({ layers: shapes, config, seed: 11 })
    await runChain(model, x, [tokens, dIn], dy)
    const parameters = [...model.parameters().values()]
    const last = parameters.at(-1) as Parameter
    last.grad.dispose()
    const others = parameters.slice(0, -1).map(({ grad }) => grad)
    const before = await Promise.all(others.map(numbersOf))
    await expectRefused('ERR_LILY_DISPOSED', `${last.name}.grad`, () => {
      model.zeroGrad()
    })
    for (const [i, after] of (await Promise.all(others.map(numbersOf))).entries()) {
      expectSameBits(parameters[i].name, after, before[i])
    }
  })

  it('accumulate over calls until zeroGrad, in the same memory', async () => {
    const model = createModel({ layers: shapes, config, seed: 11 })
    const grads = Array.from(model.parameters().values(), ({ grad }) => grad)
    const numbers = () => Promise.all(grads.map(numbersOf))
    await runChain(model, x, [tokens, dIn], dy)
    const once = await Promise.all(Array.from(model.parameters().values(), ({ grad }) => numbersOf(grad)))
    await runChain(model, x, [tokens, dIn], dy)
    expect(Array.from(model.parameters().values(), ({ grad }) => grad)).toEqual(grads)
    for (const [i, twice] of (await numbers()).entries()) {
      expect(
        relativeError(
          twice,
          once[i].map((value) => 2 * value),
        ),
      ).toBeLessThan(1e-6)
    }
    model.zeroGrad()
    for (const zero of await numbers()) expect(zero.every((value) => Object.is(value, 0))).toBe(true)
    // zeroGrad discards deferred gradients, too.
    await runChain(model, x, [tokens, dIn], dy, { deferB: true })
    model.zeroGrad()
    for (const { grad } of model.parameters().values()) expect((await numbersOf(grad)).every((v) => v === 0)).toBe(true)
    // So does that of an optimiser.
    await runChain(model, x, [tokens, dIn], dy, { deferB: true })
    new AdamW(model.parameters()).zeroGrad()
    for (const { grad } of model.parameters().values()) expect((await numbersOf(grad)).every((v) => v === 0)).toBe(true)
    await runChain(model, x, [tokens, dIn], dy)
    // Reading the gradients folds them.
    expect(Array.from(model.parameters().values(), ({ grad }) => grad)).toEqual(grads)
    for (const [i, again] of (await numbers()).entries()) expectSameBits(`gradient ${i}`, again, once[i])
  })

  it('equal those of the plain operations, for any number of deferred calls', async () => {
    const model = createModel({ layers: shapes, config, seed: 11 })
    const layer = model.layer('1.q')
    const place2 = (values: Float32Array) => place(values, [tokens, dIn])
    const [a, router, b] = [layer.a, layer.router, layer.b].map(({ value }) => value)
    const saved: LilySaved[] = []
    // A fold starts when the number of deferred calls reaches four times the number of experts.
    for (let call = 0; call < 4 * experts + 3; call++) {
      const inputs = gaussian(randomFrom(call), tokens * dIn)
      const one = layer.forward({ x: place2(inputs) })
      layer.backward({ dy: place2(dy), saved: one.saved }, { deferB: true, needs: { dx: false } })
      one.saved.dispose()
      const two = lilyForward({ x: place2(inputs), a, router, b }, { scaling })
      lilyBackward({ dy: place2(dy) }, two.saved, { deferB: true })
      saved.push(two.saved)
    }
    expect(relativeError(await numbersOf(layer.b.grad), await numbersOf(foldB(saved)))).toBeLessThan(1e-6)
  })

  it.each([false, true])('rejects a dx that is the gradient of b, deferB %s', async (deferB) => {
    // Of one shape: as many tokens as rows of b, and as many features on both sides.
    const model = createModel({ layers: [{ name: 'q', inFeatures: dIn, outFeatures: dIn }], config, seed: 11 })
    const layer = model.layer('q')
    const shape = [experts * rank, dIn]
    const rows = () => place(gaussian(randomFrom(5), shape[0] * dIn), shape)
    layer.backward({ dy: rows(), saved: layer.forward({ x: rows() }).saved })
    const before = await numbersOf(layer.b.grad)
    const { saved } = layer.forward({ x: rows() })
    await expectRefused('ERR_LILY_ARGUMENT', 'memory overlaps that of', () =>
      layer.backward({ dy: rows(), saved, dx: layer.b.grad }, { deferB }),
    )
    expectSameBits('gradient of b', await numbersOf(layer.b.grad), before)
  })

  it('are not added a second time for one saved, unless it is retained', async () => {
    const layer = createModel({ layers: shapes, config, seed: 11 }).layer('0.q')
    const gradient = place(dy, [tokens, dIn])
    const { saved } = layer.forward({ x: place(x, [tokens, dIn]) })
    for (const retain of [true, false]) layer.backward({ dy: gradient, saved }, { retain, needs: { dx: false } })
    const before = await numbersOf(layer.a.grad)
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => layer.backward({ dy: gradient, saved }))
    expectSameBits('gradient of a', await numbersOf(layer.a.grad), before)
  })

  describe('after a step of an optimiser', () => {
    const models = {
      LilyModel: () => createModel({ layers: shapes, config, seed: 11 }),
      LoraModel: () => createLora({ layers: shapes, config: { r: rank }, seed: 11 }),
    }
    const cases = [
      ['LilyModel', 'a', '0.q.lily_A.weight'],
      ['LilyModel', 'router', '1.q.lily_router.weight'],
      ['LilyModel', 'b', '0.q.lily_B.weight'],
      ['LoraModel', 'a', '1.q.lora_A.weight'],
      ['LoraModel', 'b', '1.q.lora_B.weight'],
    ] as const
    it.each(cases)('are refused to a call from before: %s, %s', async (of, kind, name) => {
      const model: AdapterModel = models[of]()
      const layer = model.layer('1.q')
      const inputs = place(x, [tokens, dIn])
      const [first, second] = [layer.forward({ x: inputs }), layer.forward({ x: inputs })]
      layer.backward({ dy: inputs, saved: first.saved })
      const before = await numbersOf(layer.a.grad)
      // As other objects than the parameters themselves.
      const trained = [...model.parameters()].filter(([, parameter]) => parameter.kind === kind)
      const optimiser = new AdamW(new Map(trained.map(([name, { value, grad }]) => [name, { value, grad }])))
      optimiser.step()
      const message = `${name}: expected the values of forward, but an optimiser has changed them since; run backward before`
      await expectRefused('ERR_LILY_ARGUMENT', message, () => layer.backward({ dy: inputs, saved: second.saved }))
      expectSameBits('gradient of a', await numbersOf(layer.a.grad), before)
      model.zeroGrad()
      layer.backward({ dy: inputs, saved: layer.forward({ x: inputs }).saved })
    })

    it('are not refused if no parameter of the layer has changed', () => {
      const model = createModel({ layers: shapes, config, seed: 11 })
      const [layer, other] = [model.layer('0.q'), model.layer('1.q')]
      const { saved } = layer.forward({ x: place(x, [tokens, dIn]) })
      new AdamW(new Map([[other.router.name, other.router]])).step()
      layer.backward({ dy: place(dy, [tokens, dIn]), saved })
    })

    it('are refused to a plain operation', async () => {
      const { a, router, b } = createModel({ layers: shapes, config, seed: 11 }).layer('0.q')
      const operands = { x: place(x, [tokens, dIn]), a: a.value, router: router.value, b: b.value }
      const { saved } = lilyForward(operands)
      new AdamW(new Map([['r', router]])).step()
      await expectRefused('ERR_LILY_ARGUMENT', 'router: expected the values of forward', () =>
        lilyBackward({ dy: operands.x }, saved),
      )
    })
  })

  it('are computed only as needs specifies', async () => {
    const model = createModel({ layers: shapes, config, seed: 11 })
    const layer = model.layer('0.q')
    const { saved } = layer.forward({ x: place(x, [tokens, dIn]) })
    const needs = { dx: false, da: false, db: false }
    expect(layer.backward({ dy: place(dy, [tokens, dIn]), saved }, { needs })).toBeUndefined()
    const isZero = async (name: 'a' | 'b' | 'router') =>
      (await numbersOf(layer[name].grad)).every((value) => value === 0)
    expect([await isZero('a'), await isZero('b'), await isZero('router')]).toEqual([true, true, false])
  })

  it.each(['bfloat16', 'float16'] as const)('are float32 with %s parameters', async (dtype) => {
    const model = createModel({ layers: shapes, config, seed: 11, dtype })
    const layer = model.layer('0.q')
    const inputs = place(x, [tokens, dIn], dtype)
    const { y, saved } = layer.forward({ x: inputs })
    const dx = layer.backward({ dy: place(dy, [tokens, dIn], dtype), saved })
    expect([y.dtype, dx.dtype]).toEqual([dtype, dtype])
    const [a, router, b] = await Promise.all([layer.a, layer.router, layer.b].map(({ value }) => numbersOf(value)))
    const problem = { routing: 'batch', scaling, tokens, dIn, dOut: dIn, rank, experts } as const
    const exact = forward({ ...problem, x: await numbersOf(inputs), a, router, b })
    expect(relativeError(await numbersOf(y), exact.y.value)).toBeLessThan(2 ** -7)
    for (const { grad } of [layer.a, layer.router, layer.b]) {
      const numbers = await numbersOf(grad)
      expect(grad.dtype).toBe('float32')
      // More precision than 16 bits have.
      expect(numbers.some((value) => (new Uint32Array(Float32Array.of(value).buffer)[0] & 0xffff) !== 0)).toBe(true)
    }
  })
})

describe('a model', () => {
  const layers = ['0.q', '1.q'].map((name) => ({ name, inFeatures: 4, outFeatures: 3 }))
  const config = { r: 2, numB: 2, strideA: 2, initWeights: false }
  const x = Float32Array.from({ length: 8 }, (_, i) => i / 8 - 0.5)
  const shape = [2, 4]
  const dy = place(Float32Array.of(1, -1, 2, 0.5, 3, -2), [2, 3])
  const model = () => createModel({ layers, config, seed: 1 })

  it('releases its memory', async () => {
    const gone = model()
    const layer = gone.layer('0.q')
    const { value, grad } = layer.a
    const { saved } = layer.forward({ x: place(x, shape) })
    gone.dispose()
    gone.dispose()
    expect([value.isDisposed, grad.isDisposed]).toEqual([true, true])
    await expectRefused('ERR_LILY_DISPOSED', 'lily_A', () => layer.forward({ x: place(x, shape) }))
    await expectRefused('ERR_LILY_DISPOSED', 'lily_A', () => layer.backward({ dy, saved }))
    await expectRefused('ERR_LILY_DISPOSED', 'model', () => gone.parameters())
    await expectRefused('ERR_LILY_DISPOSED', 'model', () => gone.zeroGrad())
  })

  it('rejects unknown names and options, and saved calls of other layers and models', async () => {
    const [one, two] = [model(), model()]
    const { saved } = one.layer('0.q').forward({ x: place(x, shape) })
    await expectRefused('ERR_LILY_ARGUMENT', 'k_proj', () => one.layer('k_proj'))
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => one.layer('1.q').backward({ dy, saved }))
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => two.layer('0.q').backward({ dy, saved }))
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => one.layer('0.q').backward({ dy, saved: {} as never }))
    await expectRefused('ERR_LILY_ARGUMENT', 'scaling', () =>
      one.layer('0.q').forward({ x: place(x, shape) }, { scaling: 2 } as never),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'encoder: is not a property of options', () =>
      one.layer('0.q').forward({ x: place(x, shape) }, { encoder: {} } as never),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'routng', () =>
      one.layer('0.q').forward({ x: place(x, shape) }, { routng: 'batch' } as never),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'routing: is not a property', () =>
      one.layer('0.q').backward({ dy, saved }, { routing: 'batch' } as never),
    )
    for (const kind of [one, LoraModel.create({ layers, config: { r: 2 } }).to(one.device)]) {
      const layer: AdapterLayer = kind.layer('0.q')
      if (one.device.type !== 'cpu') {
        const message = `x: expected device ${one.device.type}:0, as the model has, got cpu:0`
        await expectRefused('ERR_LILY_DEVICE', message, () => layer.forward({ x: tensor(x, shape) }))
      }
      await expectRefused('ERR_LILY_SHAPE', 'x: expected 2 rows of 4', () =>
        layer.forward({ x: place(x.slice(0, 6), [2, 3]) }),
      )
    }
    const halves = createModel({ layers, config, dtype: 'bfloat16' }).layer('0.q')
    await expectRefused('ERR_LILY_DTYPE', 'x: expected bfloat16, got float32', () =>
      halves.forward({ x: place(x, shape) }),
    )
    await expectRefused('ERR_LILY_SHAPE', 'dy', () => one.layer('0.q').backward({ dy: place(x, shape), saved }))
    await expectRefused('ERR_LILY_ARGUMENT', 'deferB: leaves db to', () =>
      one.layer('0.q').backward({ dy, saved }, { needs: { db: false }, deferB: true }),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'sed', () => LilyModel.create({ layers, config, sed: 1 } as never))
  })

  it('forwards options to the operations', async () => {
    const layer = model().layer('0.q')
    const [a, router, b] = [layer.a, layer.router, layer.b].map(({ value }) => value)
    const rows = place([...x, ...x], [2, 2, 4])
    for (const options of [
      { routing: 'sequence' },
      { routing: 'token' },
      { mask: [1, 0, 1, 1] },
      { activation: 'relu' },
    ] as const) {
      const { y } = layer.forward({ x: rows }, { ...options, save: false })
      const plain = lilyForward({ x: rows, a, router, b }, options)
      expectSameBits(JSON.stringify(options), await numbersOf(y), await numbersOf(plain.y))
    }
  })
})

describe('operands of a layer', () => {
  const shapes = [{ name: 'q', inFeatures: 4, outFeatures: 5 }]
  const kinds = {
    Lily: () => createModel({ layers: shapes, config: { r: 2, numB: 2, initWeights: false }, seed: 1 }),
    LoRA: () => createLora({ layers: shapes, config: { r: 2, initLoraWeights: false }, seed: 1 }),
  }
  const random = randomFrom(3)
  const [x, dy, weight, bias] = [12, 15, 20, 5].map((length) => gaussian(random, length))
  const of = () => ({ x: place(x, [3, 4]), weight: place(weight, [5, 4]), bias: place(bias, [5]) })
  const gradient = () => place(dy, [3, 5])

  it.each(Object.entries(kinds))('%s: the frozen layer in the same call', async (_, make) => {
    const operands = of()
    const results = async (
      forward: (layer: AdapterLayer) => Pick<AdapterForwardResult<object>, 'y' | 'saved'>,
      dx?: Tensor,
    ) => {
      const model: AdapterModel = make()
      const layer = model.layer('q')
      const { y, saved } = forward(layer)
      const computed = layer.backward({ dy: gradient(), saved, dx })
      const grads = Array.from(model.parameters().values(), ({ grad }) => grad)
      return Promise.all([y, computed, ...grads].map(numbersOf))
    }
    const baseDx = linearBackward({ dy: gradient(), weight: operands.weight }).dx
    const expected = await results((layer) => layer.forward({ x: operands.x, y: linearForward(operands).y }), baseDx)
    const actual = await results((layer) => layer.forward(operands))
    for (const [i, values] of expected.entries()) expectSameBits(`result ${i}`, actual[i], values)
    // A GPUDevice has no packed weights.
    const packed = isWebGpu ? operands : { ...operands, weight: packLinear(operands.weight) }
    const y = place(new Float32Array(15).fill(NaN), [3, 5])
    const model: AdapterModel = make()
    model.layer('q').forward({ ...packed, y }, { accumulate: false })
    expectSameBits('overwritten y', await numbersOf(y), expected[0])

    const twice = make()
    const layer: AdapterLayer = twice.layer('q')
    for (const fill of [NaN, 1]) {
      const dx = place(new Float32Array(12).fill(fill), [3, 4])
      layer.backward({ dy: gradient(), saved: layer.forward(operands).saved, dx }, { accumulate: false })
      expectSameBits('overwritten dx', await numbersOf(dx), expected[1])
    }
    const grads = await Promise.all(Array.from(twice.parameters().values(), ({ grad }) => numbersOf(grad)))
    for (const [i, values] of expected.slice(2).entries()) {
      expectSameBits(
        `gradient ${i}, which adds up`,
        grads[i],
        values.map((value) => 2 * value),
      )
    }
  })

  it.each(Object.entries(kinds))(
    '%s: a frozen weight of 16 bits has the bits of the same one in float32',
    async (_, make) => {
      const run = (dtype: 'bfloat16' | 'float32') => {
        const layer: AdapterLayer = make().layer('q')
        // Numbers of bfloat16.
        const rounded = Float32Array.from(weight, (value) => Math.round(value * 16) / 16)
        const { y, saved } = layer.forward({ ...of(), weight: place(rounded, [5, 4], dtype) })
        return Promise.all([y, layer.backward({ dy: gradient(), saved })].map(numbersOf))
      }
      const [narrow, wide] = [await run('bfloat16'), await run('float32')]
      for (const [i, values] of wide.entries()) expectSameBits(`result ${i}`, narrow[i], values)
    },
  )

  it.each(Object.entries(kinds))('%s: an error shows their form', async (_, make) => {
    const layer: AdapterLayer = make().layer('q')
    const { x } = of()
    const { saved } = layer.forward({ x })
    const forward = layer.forward.bind(layer) as (...args: unknown[]) => unknown
    const backward = layer.backward.bind(layer) as (...args: unknown[]) => unknown
    const form =
      'operands: expected { x, y?, weight?, bias? }, got an object of type Tensor; call layer.forward({ x, y }, options)'
    await expectRefused('ERR_LILY_ARGUMENT', form, () => forward(x))
    await expectRefused('ERR_LILY_ARGUMENT', form, () => forward(x, gradient(), { save: false }))
    const form2 = 'call layer.backward({ dy, saved, dx }, options)'
    await expectRefused('ERR_LILY_ARGUMENT', form2, () => backward(gradient(), saved))
    await expectRefused('ERR_LILY_ARGUMENT', form2, () => backward({ data: dy, shape: [3, 5] }, saved, { dx: x }))
    await expectRefused('ERR_LILY_ARGUMENT', 'dx: is not a property of options', () =>
      backward({ dy: gradient(), saved }, { dx: x }),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'bias: is given without a weight', () => forward({ x, bias: gradient() }))
    layer.backward({ dy: gradient(), saved })
  })
})
