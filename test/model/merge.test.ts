/**
 * Merging the update of a frozen layer into its base weight, and exporting it as LoRA, compared with float64.
 *
 * @project cpu wasm webgpu cuda
 */
import { describe, expect, it } from 'vitest'
import {
  deviceTensor,
  type LilyLayer,
  type LilyModel,
  loraForward,
  LoraModel,
  packLinear,
  tensor,
} from '../../lib/index.js'
import { backend } from '../support/backend.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { type Float, pack, quantum, roundAll } from '../support/dtypes.js'
import { createModel, moved, numbersOf, place } from '../support/model.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'

// More rows than one block, and sizes that are no multiples of a tile.
const [dIn, dOut, rank, experts, scaling] = [19, 301, 5, 3, 0.75]
const layers = ['0.q', '1.q'].map((name) => ({ name, inFeatures: dIn, outFeatures: dOut }))
const config = { r: rank, numB: experts, strideA: 2, scaling, initWeights: false }
const weights = { '0.q': [0.5, -0.25, 1.5], '1.q': [0.1, 0.2, 0.7] }

function frozenModel(dtype: Float = 'float32'): LilyModel {
  const model = createModel({ layers, config, seed: 3, dtype })
  model.freeze(weights)
  return model
}

const baseWeight = (dtype: Float = 'float32') => roundAll(dtype, gaussian(randomFrom(4), dOut * dIn, 0.05))

/** scaling * C^T A, [d_out, d_in], in float64. */
async function updateOf(layer: LilyLayer, w: ArrayLike<number>): Promise<Float64Array> {
  const [a, b] = [await numbersOf(layer.a.value), await numbersOf(layer.b.value)]
  const update = new Float64Array(dOut * dIn)
  for (let o = 0; o < dOut; o++) {
    for (let k = 0; k < rank; k++) {
      let c = 0
      for (let e = 0; e < experts; e++) c += Math.fround(w[e]) * b[(e * rank + k) * dOut + o]
      for (let i = 0; i < dIn; i++) update[o * dIn + i] += scaling * c * a[k * dIn + i]
    }
  }
  return update
}

describe('merge', () => {
  it('adds the update of fixed weights, and unmerge subtracts it', async () => {
    const model = frozenModel()
    for (const [name, w] of Object.entries(weights)) {
      const before = baseWeight()
      const weight = place(before, [dOut, dIn])
      const update = await updateOf(model.layer(name), w)
      model.merge(name, weight)
      expect(model.layer(name).isMerged).toBe(true)
      const merged = await numbersOf(weight)
      const exact = update.map((value, i) => value + before[i])
      // The rounding of the sum, at most 6e-8, and that of the update, which is about as large.
      expect(relativeError(merged, exact)).toBeLessThan(2e-7)

      model.unmerge(name, weight)
      expect(model.layer(name).isMerged).toBe(false)
      checkRestored('float32', await numbersOf(weight), merged, before)
    }
  })

  it('unmerge subtracts exactly the numbers that merge added', async () => {
    const model = frozenModel()
    const weight = place(new Float32Array(dOut * dIn), [dOut, dIn])
    model.merge('0.q', weight)
    expect((await numbersOf(weight)).every((value) => value !== 0)).toBe(true)
    model.unmerge('0.q', weight)
    expect((await numbersOf(weight)).every((value) => value === 0)).toBe(true)
  })

  it('of uniform weights agrees with forward', async () => {
    const model = createModel({ layers, config, seed: 3 })
    model.freeze('uniform')
    const x = gaussian(randomFrom(6), 4 * dIn)
    const { y, saved } = model.layer('1.q').forward({ x: place(x, [4, dIn]) })
    expect(saved.routing).toBe('fixed')
    const uniform = model.layer('1.q').forward({ x: place(x, [4, dIn]) }, { routing: 'uniform', save: false }).y
    const weight = place(new Float32Array(dOut * dIn), [dOut, dIn])
    model.merge('1.q', weight)
    const merged = await numbersOf(weight)
    const product = Float64Array.from({ length: 4 * dOut }, (_, at) => {
      const [t, o] = [Math.floor(at / dOut), at % dOut]
      let sum = 0
      for (let i = 0; i < dIn; i++) sum += x[t * dIn + i] * merged[o * dIn + i]
      return sum
    })
    expect(relativeError(await numbersOf(y), product)).toBeLessThan(1e-6)
    expect(relativeError(await numbersOf(uniform), product)).toBeLessThan(1e-6)
  })

  it.each<[Float, Float]>([
    ['bfloat16', 'float32'],
    ['float16', 'float32'],
    ['bfloat16', 'bfloat16'],
    ['float16', 'float16'],
    ['float32', 'bfloat16'],
    ['bfloat16', 'float16'],
  ])('rounds a %s weight once, with %s parameters', async (dtype, parameters) => {
    const model = frozenModel(parameters)
    const before = baseWeight(dtype)
    const weight = place(before, [dOut, dIn], dtype)
    if (backend !== 'cpu' && parameters !== 'float32' && parameters !== dtype) {
      await expectRefused('ERR_LILY_DTYPE', 'weight', () => model.merge('0.q', weight))
      expectSameBits('weight', await numbersOf(weight), before)
      return
    }
    const update = await updateOf(model.layer('0.q'), weights['0.q'])
    model.merge('0.q', weight)
    const merged = await numbersOf(weight)
    // The cuda backend uses 16-bit parameters and the combined B as 16-bit operands; the cpu backend does not.
    const operands = backend === 'cuda' && parameters !== 'float32' ? 2 ** -8 : 1e-6
    const size = Math.hypot(...update) / Math.sqrt(update.length)
    merged.forEach((value, i) => {
      const exact = update[i] + before[i]
      const limit = quantum(dtype, exact) * (0.5 + 2 ** -10) + operands * 4 * size
      if (!(Math.abs(value - exact) <= limit)) expect(value, `element ${i}, within ${limit}`).toBe(exact)
    })
    model.unmerge('0.q', weight)
    checkRestored(dtype, await numbersOf(weight), merged, before)
  })

  it('does not write between the rows of a weight', async () => {
    const model = frozenModel()
    const values = gaussian(randomFrom(8), dOut * (dIn + 3))
    const whole = place(values, [dOut, dIn + 3])
    const memory = backend !== 'cpu' ? whole[deviceTensor]() : { data: whole.data }
    model.merge('0.q', { ...memory, shape: [dOut, dIn], strides: [dIn + 3, 1] })
    const merged = await numbersOf(whole)
    values.forEach((value, i) => {
      if (i % (dIn + 3) >= dIn) expect(merged[i]).toBe(value)
    })
    const update = await updateOf(model.layer('0.q'), weights['0.q'])
    const exact = Float64Array.from(values, (value, i) => {
      const [o, j] = [Math.floor(i / (dIn + 3)), i % (dIn + 3)]
      return j < dIn ? value + update[o * dIn + j] : value
    })
    expect(relativeError(merged, exact)).toBeLessThan(2e-7)
  })

  it('rejects invalid calls and writes nothing', async () => {
    const model = createModel({ layers, config, seed: 3 })
    const before = baseWeight()
    const weight = place(before, [dOut, dIn])
    const x = place(new Float32Array(dIn), [1, dIn])
    await expectRefused('ERR_LILY_ARGUMENT', 'freeze it first', () => model.merge('0.q', weight))
    await expectRefused('ERR_LILY_ARGUMENT', 'not merged', () => model.unmerge('0.q', weight))
    model.freeze(weights)
    await expectRefused('ERR_LILY_ARGUMENT', '2.q', () => model.merge('2.q', weight))
    await expectRefused('ERR_LILY_SHAPE', 'weight', () => model.merge('0.q', place(before, [dIn, dOut])))
    await expectRefused('ERR_LILY_SHAPE', 'weight', () => model.merge('0.q', place(before, [1, dOut, dIn])))
    await expectRefused('ERR_LILY_DTYPE', 'weight', () =>
      model.merge('0.q', { data: new Int32Array(dOut * dIn), shape: [dOut, dIn] }),
    )
    if (backend !== 'cpu') {
      await expectRefused('ERR_LILY_DEVICE', 'weight', () => model.merge('0.q', { data: before, shape: [dOut, dIn] }))
    }
    const gone = place(before, [dOut, dIn])
    gone.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'weight', () => model.merge('0.q', gone))
    const packed = packLinear(tensor(before, [dOut, dIn])) as never
    await expectRefused('ERR_LILY_ARGUMENT', 'weight: expected a tensor', () => model.merge('0.q', packed))
    await expectRefused('ERR_LILY_ARGUMENT', 'got a PackedLinear; pass the weight itself, and pack it after', () =>
      model.merge('0.q', packed),
    )
    expectSameBits('weight', await numbersOf(weight), before)
    expect(model.layer('0.q').isMerged).toBe(false)

    model.merge('0.q', weight)
    const merged = await numbersOf(weight)
    await expectRefused('ERR_LILY_ARGUMENT', 'is merged', () => model.merge('0.q', weight))
    await expectRefused('ERR_LILY_ARGUMENT', 'is merged', () => model.layer('0.q').forward({ x }))
    await expectRefused('ERR_LILY_ARGUMENT', 'is merged', () => model.unfreeze())
    await expectRefused('ERR_LILY_ARGUMENT', 'is merged', () => model.freeze('uniform'))
    expect(model.layer('1.q').frozenWeights).toEqual(Float32Array.from(weights['1.q']))
    expectSameBits('weight', await numbersOf(weight), merged)
    model.unmerge('0.q', weight)
    model.unfreeze()
    expect(model.layer('0.q').frozenWeights).toBeUndefined()
  })

  it.for<[Float, number]>([
    ['float32', NaN],
    ['float32', -Infinity],
    ['bfloat16', NaN],
    ['float16', Infinity],
  ])('rejects parameters that are not finite and writes nothing: %s %d', async ([dtype, bad], { skip }) => {
    if (backend !== 'cpu') skip('device memory is not looked at before a merge')
    const lora = LoraModel.create({ layers, config: { r: rank, targetModules: ['q'] }, seed: 3, dtype })
    for (const model of [frozenModel(dtype), lora]) {
      const before = baseWeight()
      const weight = place(before, [dOut, dIn])
      const { name, value } = model.layer('0.q').b
      value.data[value.shape[1] + 2] = pack(dtype, [bad])[0]
      await expectRefused(
        'ERR_LILY_ARGUMENT',
        `${name}: expected finite numbers, got an infinity or NaN at [1, 2]`,
        () => model.merge('0.q', weight),
      )
      expectSameBits('weight', await numbersOf(weight), before)
      expect(model.layer('0.q').isMerged).toBe(false)
    }
  })

  it('rejects a weight in the memory of a parameter', async () => {
    const shape = [{ name: 'q', inFeatures: 2, outFeatures: 2 }]
    const model = createModel({ layers: shape, config: { r: 2, numB: 2 } })
    model.freeze('uniform')
    const { a, router, b } = model.layer('q')
    await expectRefused('ERR_LILY_ARGUMENT', 'lily_A', () => model.merge('q', a.value))
    await expectRefused('ERR_LILY_ARGUMENT', 'lily_router', () => model.merge('q', router.value))
    b.value.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'lily_B.weight.value', () => model.merge('q', place([1, 2, 3, 4], [2, 2])))
  })
})

describe('freeze', () => {
  it.each<[string, string, unknown]>([
    ['ERR_LILY_ARGUMENT', 'weights', 'unform'],
    ['ERR_LILY_ARGUMENT', 'weights', undefined],
    ['ERR_LILY_ARGUMENT', "weights: expected an adapted layer, such as '0.q', got '3.q'", { '3.q': [1, 2, 3] }],
    ['ERR_LILY_SHAPE', '1.q', { '0.q': [1, 2, 3], '1.q': [1, 2] }],
    ['ERR_LILY_SHAPE', '1.q', { '1.q': [1, 2, 3, 4] }],
    ['ERR_LILY_SHAPE', '1.q', new Map([['1.q', 3]])],
    ['ERR_LILY_SHAPE', 'expected an array or a Float32Array of 3 numbers', { '1.q': Float64Array.of(1, 2, 3) }],
    ['ERR_LILY_ARGUMENT', '1.q', { '1.q': [1, 2, NaN] }],
    ['ERR_LILY_ARGUMENT', '1.q', { '1.q': [1, 2, 1e39] }],
  ])('rejects with %s of %s: %o', async (code, argument, bad) => {
    const model = createModel({ layers, config, seed: 3 })
    await expectRefused(code, argument, () => model.freeze(bad as 'uniform'))
    expect(model.layer('0.q').frozenWeights).toBeUndefined()
  })

  it('copies the weights, and a layer gives copies of them', () => {
    const model = createModel({ layers, config, seed: 3 })
    const given = Float32Array.of(1, 2, 3)
    model.freeze({ '0.q': given })
    given.fill(7)
    model.layer('0.q').frozenWeights?.fill(7)
    expect(model.layer('0.q').frozenWeights).toEqual(Float32Array.of(1, 2, 3))
  })

  it('gives way to weights of a call', async () => {
    const model = createModel({ layers, config, seed: 3 })
    model.freeze({ '0.q': [1, 2, 3], '1.q': [3, 2, 1] })
    const x = place(gaussian(randomFrom(1), dIn), [1, dIn])
    const layer = model.layer('0.q')
    const given = await numbersOf(layer.forward({ x }, { weights: [3, 2, 1] }).y)
    model.freeze({ '0.q': [3, 2, 1] })
    expectSameBits('y', given, await numbersOf(layer.forward({ x }).y))
  })

  it('and unfreeze reject a model that is disposed of', async () => {
    const model = createModel({ layers, config })
    model.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'this model', () => model.freeze('uniform'))
    await expectRefused('ERR_LILY_DISPOSED', 'this model', () => model.unfreeze())
  })
})

describe('the routers of frozen layers', () => {
  const routersOf = (model: LilyModel) =>
    [...model.parameters().values()].filter(({ kind }) => kind === 'router').map(({ name }) => name)

  it('are no trainable parameters until unfreeze', async () => {
    const model = createModel({ layers, config, seed: 3 })
    const all = model.parameters()
    model.freeze({ '0.q': [1, 2, 3] })
    expect(routersOf(model)).toEqual(['1.q.lily_router.weight'])
    const some = model.parameters()
    expect(all.size - some.size).toBe(1)
    model.freeze({ '0.q': [3, 2, 1] })
    expect(model.parameters(), 'the map stays the same with other weights').toBe(some)
    model.freeze('uniform')
    expect(routersOf(model)).toEqual([])
    await model.toHost()
    moved(model)
    model.unfreeze()
    expect(model.parameters()).toBe(all)
    const devices = new Set(Array.from(all.values(), ({ value }) => value.device.type))
    expect([...devices], 'moved with the others').toEqual([model.device.type])
  })

  it('keep no gradient of a call with a router after zeroGrad', async () => {
    const model = createModel({ layers, config, seed: 3 })
    const [layer, all] = [model.layer('0.q'), model.parameters()]
    model.freeze('uniform')
    const x = place(gaussian(randomFrom(9), 6 * dIn), [6, dIn])
    const { saved } = layer.forward({ x }, { routing: 'batch' })
    layer.backward({ dy: place(gaussian(randomFrom(8), 6 * dOut), [6, dOut]), saved })
    const router = all.get('0.q.lily_router.weight')
    expect((await numbersOf(router?.grad)).some((value) => value !== 0)).toBe(true)
    model.zeroGrad()
    expect((await numbersOf(router?.grad)).every((value) => value === 0)).toBe(true)
  })
})

describe('exportLora', () => {
  it.each<Float>(['float32', 'bfloat16'])('agrees with forward of the frozen layer, %s parameters', async (dtype) => {
    const model = frozenModel(dtype)
    const { r, scaling: s, layers: matrices } = await model.exportLora()
    expect([r, s, [...matrices.keys()]]).toEqual([rank, scaling, ['0.q', '1.q']])
    const x = roundAll(dtype, gaussian(randomFrom(9), 6 * dIn))
    for (const [name, { a, b }] of matrices) {
      expect([a.shape, b.shape, a.dtype, b.dtype]).toEqual([[rank, dIn], [dOut, rank], 'float32', 'float32'])
      const { y } = model.layer(name).forward({ x: place(x, [6, dIn], dtype) })
      const lora = loraForward({ x: { data: x, shape: [6, dIn] }, a, b }, { scaling: s }).y
      expect(relativeError(await numbersOf(y), lora.data as Float32Array)).toBeLessThan(
        dtype === 'float32' ? 1e-6 : 2 ** -7,
      )
    }
    // Each layer has separate memory.
    const [first, second] = [...matrices.values()]
    expect(first.a.data.buffer).not.toBe(second.a.data.buffer)
    expectSameBits('the shared A', first.a.data, second.a.data)
  })

  it('rejects a layer with a router, and a model that is disposed of', async () => {
    const model = createModel({ layers, config, seed: 3 })
    model.freeze({ '0.q': [1, 2, 3] })
    await expectRefused('ERR_LILY_ARGUMENT', '1.q', () => model.exportLora())
    model.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'model', () => model.exportLora())
  })
})

/** Within half a unit in the last place of the merged number plus half a unit of the restored one. */
function checkRestored(dtype: Float, restored: Float32Array, merged: Float32Array, before: Float32Array): void {
  restored.forEach((value, i) => {
    const limit = (quantum(dtype, merged[i]) + quantum(dtype, value)) / 2
    if (!(Math.abs(value - before[i]) <= limit)) expect(value, `element ${i}, within ${limit}`).toBe(before[i])
  })
}
