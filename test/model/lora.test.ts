/**
 * LoraModel: its layers compared with PyTorch, and what it shares with LilyModel.
 *
 * @project cpu wasm webgpu cuda
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import {
  AdamW,
  type AdapterModel,
  type AdapterModelClass,
  LilyAdapters,
  LilyModel,
  loraBackward,
  loraForward,
  type LoraLayer,
  LoraModel,
  type Tensor,
} from '../../lib/index.js'
import { readLoraConfig } from '../../lib/model/lora-config.js'
import { ranksOf } from '../../lib/model/lora-layout.js'
import { backend } from '../support/backend.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { type Float, quantum, roundAll } from '../support/dtypes.js'
import { createLora, createModel, moved, numbersOf, place, runChain } from '../support/model.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'
import { readSafetensors } from '../support/safetensors.js'

const fixtures = fileURLToPath(new URL('../fixtures/lora', import.meta.url))
const index = JSON.parse(readFileSync(join(fixtures, 'index.json'), 'utf8')) as {
  tokens: number
  cases: Record<string, Record<string, { r: number; scaling: number; d_in: number; d_out: number }>>
  initial: Record<
    'zero' | 'random' | 'gaussian' | 'few gaussian',
    { seed: number; r: number; values: Record<string, number[]> }
  >
}

/** left [m, k] times right [k, n], in float64. */
function product(left: ArrayLike<number>, right: ArrayLike<number>, m: number, k: number, n: number): Float64Array {
  const result = new Float64Array(m * n)
  for (let i = 0; i < m; i++) {
    for (let l = 0; l < k; l++) for (let j = 0; j < n; j++) result[i * n + j] += left[i * k + l] * right[l * n + j]
  }
  return result
}

function transpose(values: ArrayLike<number>, rows: number, columns: number): Float64Array {
  return Float64Array.from(values, (_, i) => values[(i % rows) * columns + Math.floor(i / rows)])
}

describe.each(Object.entries(index.cases))("PEFT's formula in PyTorch: %s", (name, layers) => {
  const { tokens } = index
  const expected = readSafetensors(join(fixtures, name, 'expected.safetensors'))
  const of = (key: string) => expected.get(key)?.data ?? new Float64Array()
  const dtype: Float = name === 'bfloat16' ? 'bfloat16' : 'float32'
  // y, dx and h are rounded to bfloat16, with half a unit in the last place of 2^-8.
  const limit = dtype === 'bfloat16' ? 2 ** -7 : 2e-6
  const load = async () => moved(await LoraModel.fromPretrained(join(fixtures, name)))

  it('gives each layer its rank and scaling', async () => {
    const model = await load()
    expect(model.dtype).toBe(dtype)
    expect([...model.layers.keys()].sort()).toEqual(Object.keys(layers).sort())
    for (const [layer, { r, scaling, d_in: inFeatures, d_out: outFeatures }] of Object.entries(layers)) {
      expect(model.layer(layer)).toMatchObject({ r, scaling, inFeatures, outFeatures })
    }
    expect(model.parameters().size).toBe(2 * Object.keys(layers).length)
  })

  it('forward and backward', async () => {
    const model = await load()
    for (const [layer, { d_in: dIn, d_out: dOut }] of Object.entries(layers)) {
      const weight = of(`${layer}.W`)
      const base = product(of(`${layer}.x`), transpose(weight, dOut, dIn), tokens, dIn, dOut)
      const y = place(roundAll(dtype, base), [tokens, dOut], dtype)
      const adapted = model.layer(layer)
      const { saved } = adapted.forward({ x: place(of(`${layer}.x`), [tokens, dIn], dtype), y }, { precision: 'high' })
      expect(relativeError(await numbersOf(y), of(`f64.${layer}.y`)), `${layer} y`).toBeLessThan(limit)

      const dy = of(`${layer}.dy`)
      const dx = place(roundAll(dtype, product(dy, weight, tokens, dOut, dIn)), [tokens, dIn], dtype)
      expect(adapted.backward({ dy: place(dy, [tokens, dOut], dtype), saved, dx })).toBe(dx)
      saved.dispose()
      const gradients = { dx, dA: adapted.a.grad, dB: adapted.b.grad }
      for (const [key, value] of Object.entries(gradients)) {
        const error = relativeError(await numbersOf(value), of(`f64.${layer}.${key}`))
        expect(error, `${layer} ${key}`).toBeLessThan(limit)
      }
    }
  })

  it('merge and unmerge', async () => {
    const model = await load()
    for (const [layer, { d_in: dIn, d_out: dOut }] of Object.entries(layers)) {
      const before = Float32Array.from(of(`${layer}.W`))
      // On a device, 16-bit parameters require a weight of their type.
      const type = backend !== 'cpu' ? dtype : 'float32'
      const weight = place(before, [dOut, dIn], type)
      model.merge(layer, weight)
      expect(model.layer(layer).isMerged).toBe(true)
      const merged = await numbersOf(weight)
      // The rounding of the sum, at most 6e-8, and that of the update, which is about as large.
      expect(relativeError(merged, of(`f64.${layer}.merged`)), layer).toBeLessThan(type === 'float32' ? 2e-7 : 2 ** -8)
      await expectRefused('ERR_LILY_ARGUMENT', 'unmerge it first', () =>
        model.layer(layer).forward({ x: place(new Float32Array(dIn), [1, dIn], dtype) }),
      )
      model.unmerge(layer, weight)
      const restored = await numbersOf(weight)
      restored.forEach((value, i) => {
        const roundings = (quantum(type, merged[i]) + quantum(type, value)) / 2
        expect(Math.abs(value - before[i]), `${layer}, element ${i}`).toBeLessThanOrEqual(roundings)
      })
    }
  })
})

const [tokens, dIn, dOut] = [6, 9, 5]
const shapes = ['0.q', '0.v', '1.q'].map((name) => ({ name, inFeatures: dIn, outFeatures: dOut }))
const random = randomFrom(21)
const x = gaussian(random, tokens * dIn)
const dy = gaussian(random, tokens * dOut)
const base = gaussian(random, tokens * dOut)
const input = () => place(x, [tokens, dIn])
const output = () => place(base, [tokens, dOut])
const gradient = () => place(dy, [tokens, dOut])
const make = (seed: number, config: object = {}) =>
  createLora({ layers: shapes, config: { r: 3, initLoraWeights: false, ...config }, seed })

describe('a created model', () => {
  it.each([
    ['zero', true],
    ['random', false],
    ['gaussian', 'gaussian'],
    ['few gaussian', 'gaussian'],
  ] as const)('has the initial values of PyTorch: %s', async (kind, initLoraWeights) => {
    const { seed, r, values } = index.initial[kind]
    const sizes = new Map(Object.entries(values).map(([name, { length }]) => [name, length / r]))
    const layers = [...sizes.keys()]
      .filter((name) => name.endsWith('.lora_A.weight'))
      .map((a) => ({
        name: a.replace('.lora_A.weight', ''),
        inFeatures: sizes.get(a)!,
        outFeatures: sizes.get(a.replace('lora_A', 'lora_B'))!,
      }))
    const model = createLora({ layers, config: { r, initLoraWeights }, seed })
    expect([...model.parameters().keys()]).toEqual(Object.keys(values))
    for (const [name, { value }] of model.parameters()) {
      const numbers = Array.from(await numbersOf(value))
      // PyTorch rounds 2 pi u to float32, half a unit of 2^-21 at most, and a normal number is at most 6 deviations.
      const rounding = initLoraWeights === 'gaussian' ? 2 ** -19 / r : 0
      const errors = numbers.map((number, i) => Math.abs(number - values[name][i]))
      expect(numbers.length, name).toBe(values[name].length)
      expect(Math.max(...errors), name).toBeLessThanOrEqual(rounding)
    }
  })

  it('scales by the alpha and the rank of each layer', () => {
    const config = { r: 9, loraAlpha: 18, rankPattern: { '0.q': 4 }, alphaPattern: { '0.v': 6 } }
    const factors = (useRslora: boolean) => {
      const model = LoraModel.create({ layers: shapes, config: { ...config, useRslora } })
      return ['0.q', '0.v', '1.q'].map((name) => model.layer(name).scaling)
    }
    expect(factors(false)).toEqual([18 / 4, 6 / 9, 18 / 9])
    expect(factors(true)).toEqual([18 / 2, 6 / 3, 18 / 3])
  })

  it('has the defaults of PEFT', () => {
    const model = LoraModel.create({ layers: shapes, config: {} })
    expect(model.config).toEqual({
      r: 8,
      loraAlpha: 8,
      useRslora: false,
      rankPattern: {},
      alphaPattern: {},
      fanInFanOut: false,
      targetModules: null,
      excludeModules: null,
      layersToTransform: null,
      layersPattern: null,
      initLoraWeights: true,
      loraDropout: 0,
    })
    expect(model.layer('0.q').shape).toMatchObject({ target: 'q', r: 8, scaling: 1 })
    expect(model.adapterConfig).toBeUndefined()
    expect(model.modulesToSave.size).toBe(0)
  })

  it('adapts the layers that are targeted', () => {
    const of = (config: object) => [...make(1, config).layers.keys()]
    expect(of({ targetModules: ['q'] })).toEqual(['0.q', '1.q'])
    expect(of({ targetModules: '0\\..*', excludeModules: ['v'] })).toEqual(['0.q'])
  })

  it('computes what loraForward and loraBackward compute', async () => {
    const model = make(1, { loraAlpha: 5, rankPattern: { '1.q': 4 }, alphaPattern: { v: 2 } })
    for (const layer of model.layers.values()) {
      const [a, b] = [layer.a.value, layer.b.value]
      const plain = loraForward({ x: input(), a, b, y: output() }, { scaling: layer.scaling })
      const { y, saved } = layer.forward({ x: input(), y: output() })
      expectSameBits('y', await numbersOf(y), await numbersOf(plain.y))
      const expected = loraBackward({ dy: gradient() }, plain.saved)
      expectSameBits('dx', await numbersOf(layer.backward({ dy: gradient(), saved })), await numbersOf(expected.dx))
      expectSameBits('dA', await numbersOf(layer.a.grad), await numbersOf(expected.da))
      expectSameBits('dB', await numbersOf(layer.b.grad), await numbersOf(expected.db))
    }
    expect(Array.from(model.layers.values(), ({ r, scaling }) => [r, scaling])).toEqual([
      [3, 5 / 3],
      [3, 2 / 3],
      [4, 5 / 4],
    ])
  })

  it('adds up gradients until zeroGrad, and leaves out those that are not needed', async () => {
    const model = make(1)
    const layer = model.layer('0.q')
    const run = (needs = {}) =>
      layer.backward({ dy: gradient(), saved: layer.forward({ x: input() }).saved }, { needs })
    run()
    const once = await numbersOf(layer.b.grad)
    run({ da: false })
    expect(
      relativeError(
        await numbersOf(layer.b.grad),
        once.map((value) => 2 * value),
      ),
    ).toBeLessThan(1e-6)
    const dA = await numbersOf(layer.a.grad)
    expect(run({ dx: false, db: false })).toBeUndefined()
    expect(
      relativeError(
        await numbersOf(layer.a.grad),
        dA.map((value) => 2 * value),
      ),
    ).toBeLessThan(1e-6)
    model.zeroGrad()
    for (const { grad } of model.parameters().values()) {
      expect((await numbersOf(grad)).every((value) => value === 0)).toBe(true)
    }
  })

  it('merges into a weight [d_in, d_out] with fanInFanOut', async () => {
    const model = make(3, { fanInFanOut: true, loraAlpha: 7 })
    const before = gaussian(random, dIn * dOut)
    const weight = place(before, [dIn, dOut])
    if (backend !== 'cpu') {
      await expectRefused('ERR_LILY_ARGUMENT', 'toHost() first', () => model.merge('0.v', weight))
      expectSameBits('weight', await numbersOf(weight), before)
      return
    }
    await expectRefused('ERR_LILY_SHAPE', `[${dIn}, ${dOut}]`, () => model.merge('0.v', place(before, [dOut, dIn])))
    model.merge('0.v', weight)
    const { a, b, r, scaling } = model.layer('0.v')
    const update = transpose(product(await numbersOf(b.value), await numbersOf(a.value), dOut, r, dIn), dOut, dIn)
    const exact = update.map((value, i) => scaling * value + before[i])
    expect(relativeError(await numbersOf(weight), exact)).toBeLessThan(2e-7)
    model.unmerge('0.v', weight)
    expect(relativeError(await numbersOf(weight), before)).toBeLessThan(2e-7)
  })

  it('releases its memory', async () => {
    const model = make(1)
    const layer = model.layer('0.q')
    const values = Array.from(model.parameters().values(), ({ value }) => value)
    model.dispose()
    expect(values.every(({ isDisposed }) => isDisposed)).toBe(true)
    await expectRefused('ERR_LILY_DISPOSED', 'lora_A', () => layer.forward({ x: input() }))
    await expectRefused('ERR_LILY_DISPOSED', 'model', () => model.parameters())
  })
})

describe('refusals', () => {
  const configs: [string, object][] = [
    ['r', { r: 0 }],
    ['r', { r: 4097 }],
    ['loraAlpha', { loraAlpha: Infinity }],
    ['loraAlpha', { loraAlpha: '8' }],
    ['useRslora', { useRslora: 1 }],
    ['fanInFanOut', { fanInFanOut: null }],
    ['initLoraWeights', { initLoraWeights: 'eva' }],
    ["rankPattern['q']", { rankPattern: { q: 2.5 } }],
    ["rankPattern['q']", { rankPattern: { q: 4097 } }],
    ["rankPattern['q']", { rankPattern: new Map([['q', 0]]) }],
    ["alphaPattern['v']", { alphaPattern: { v: NaN } }],
    ['alphaPattern', { alphaPattern: 3 }],
    ['rankPattern', { rankPattern: { '': 3 } }],
    ['rankPattern', { rankPattern: { '(?=q)': 3 } }],
    ['rankPattern', { rankPattern: { '(?i)Q': 3 } }],
    ["'(0)'", { rankPattern: { '0.q': 3, '0': 4 } }],
    ['dropout', { dropout: 0.1 }],
    ['numB', { numB: 2 }],
    ['targetModules', { targetModules: ['k'] }],
  ]
  it.each(configs)('of %s: %o', async (argument, config) => {
    await expectRefused('ERR_LILY_ARGUMENT', argument, () => LoraModel.create({ layers: shapes, config }))
  })

  it('of options that only Lily has', async () => {
    const layer = make(1).layer('0.q')
    const y = output()
    for (const options of [
      { routing: 'batch' },
      { mask: [true] },
      { activation: 'relu' },
      { scaling: 2 },
    ] as object[]) {
      const [name] = Object.keys(options)
      await expectRefused('ERR_LILY_ARGUMENT', name, () => layer.forward({ x: input(), y }, options))
    }
    expectSameBits('y', await numbersOf(y), base)
    const { saved } = layer.forward({ x: input() })
    const ofLily: Record<string, object> = { deferB: { deferB: true }, dRouter: { needs: { dRouter: false } } }
    for (const [name, options] of Object.entries(ofLily)) {
      await expectRefused('ERR_LILY_ARGUMENT', name, () => layer.backward({ dy: gradient(), saved }, options))
    }
  })

  it('of what another layer, model or operation saved', async () => {
    const model = make(1)
    const layer = model.layer('0.q')
    const lily = createModel({ layers: shapes, config: { r: 3 }, seed: 1 }).layer('0.q')
    const other = model.layer('0.v').forward({ x: input() }).saved
    await expectRefused('ERR_LILY_ARGUMENT', 'run forward again', () =>
      layer.backward({ dy: gradient(), saved: other }),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'other operation', () =>
      layer.backward({ dy: gradient(), saved: lily.forward({ x: input() }).saved as never }),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'other operation', () =>
      lily.backward({ dy: gradient(), saved: layer.forward({ x: input() }).saved as never }),
    )
    await expectRefused('ERR_LILY_ARGUMENT', "such as '0.q'", () => model.layer('k'))
  })

  it('of a layer that is merged twice, or a weight of another shape', async () => {
    const model = make(1)
    const weight = place(new Float32Array(dOut * dIn), [dOut, dIn])
    await expectRefused('ERR_LILY_ARGUMENT', 'not merged', () => model.unmerge('0.q', weight))
    await expectRefused('ERR_LILY_SHAPE', 'weight', () => model.merge('0.q', place(weightOf(), [dIn, dOut])))
    const square = createLora({ layers: [{ name: 'q', inFeatures: 2, outFeatures: 2 }], config: { r: 2 } })
    const { a, b } = square.layer('q')
    await expectRefused('ERR_LILY_ARGUMENT', 'lora_A', () => square.merge('q', a.value))
    await expectRefused('ERR_LILY_ARGUMENT', 'lora_B', () => square.merge('q', b.value))
    model.merge('0.q', weight)
    await expectRefused('ERR_LILY_ARGUMENT', 'is merged', () => model.merge('0.q', weight))
  })
  const weightOf = () => new Float32Array(dOut * dIn)
})

describe('patterns of ranks', () => {
  const rankOf = (name: string, rankPattern: object) =>
    LoraModel.create({
      layers: [{ name, inFeatures: 2, outFeatures: 2 }],
      config: { r: 1, rankPattern: rankPattern as Record<string, number> },
    }).layer(name).r

  // As re.match(rf"(.*\.)?({pattern})$", name) of Python 3.
  it.each<[string, object, number]>([
    ['layers.1.q_proj', { q_proj: 2 }, 2],
    ['layers.1.q_proj', { proj: 2 }, 1],
    ['layers.1.q_proj', { 'pro[j]': 2 }, 1],
    ['layers.1.q_proj', { 'layers.1.q_proj': 2 }, 2],
    ['model.layers.1.q_proj', { 'layers.1.q_proj': 2 }, 2],
    ['model.layers.1.q_proj', { '^layers.1.q_proj': 2 }, 1],
    ['layers.1.q_proj', { '^layers.1.q_proj': 2 }, 2],
    ['layers.11.q_proj', { '1.q_proj': 2 }, 1],
    ['layers.1.q_proj', { 'layers.1': 2 }, 1],
    ['layers.1xq_proj', { '1.q_proj': 2 }, 2],
    ['layers.1.q_proj', { '.*': 3, q_proj: 2 }, 3],
    ['layers.1.q_proj', { q_proj: 2, '.*': 3 }, 2],
    ['layers.1.q_proj', { 'layers\\.(0|1)\\.[qk]_proj': 4 }, 4],
    ['layers.1.q_proj', { 'k_proj|q_proj': 4 }, 4],
    ['layers.2.q_proj', { '\\d\\.q_proj': 4, 'no.q_proj': 5 }, 4],
    ['q_proj', { 'layers.q_proj': 5, q_proj: 6 }, 6],
    // As PEFT writes for the layers of a torch.nn.Sequential.
    ['12', { 2: 5, 12: 6 }, 6],
    ['mlp.2', { 2: 5, 12: 6 }, 5],
    ['layers.0', { '0': 2 }, 2],
  ])('%s with %o: %i', (name, rankPattern, expected) => {
    expect(rankOf(name, rankPattern)).toBe(expected)
    expect(rankOf(name, new Map(Object.entries(rankPattern)))).toBe(expected)
  })

  it('of the names of all layers take time by the number of layers', { timeout: 20_000 }, () => {
    const names = Array.from({ length: 20_000 }, (_, i) => `model.layers.${i}.mlp.experts.${i % 7}.up_proj`)
    const rankPattern = Object.fromEntries(names.map((name, i) => [name, 1 + (i % 3)]))
    const rank = ranksOf(readLoraConfig({ rankPattern }))
    expect(names.every((name, i) => rank(name) === 1 + (i % 3))).toBe(true)
  })

  it('refuse to take more than a limited number of steps', async () => {
    // With dots in another place each.
    const rankPattern = Object.fromEntries(
      Array.from({ length: 2 ** 15 }, (_, i) => [`x${i.toString(2).padStart(15, '0').replaceAll('1', '.')}`, 2]),
    )
    const layers = Array.from({ length: 400 }, (_, i) => ({
      name: `y${String(i).padStart(15, 'b')}`,
      inFeatures: 1,
      outFeatures: 1,
    }))
    await expectRefused('ERR_LILY_ARGUMENT', 'rankPattern: the pattern', () =>
      LoraModel.create({ layers, config: { r: 1, rankPattern } }),
    )
    const most = Object.fromEntries(Array.from({ length: 2 ** 17 + 1 }, (_, i) => [`q${i}`, 2]))
    await expectRefused('ERR_LILY_ARGUMENT', 'at most 131072', () => rankOf('q', most))
    const many = Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`q+${'x'.repeat(700)}${i}`, 2]))
    await expectRefused('ERR_LILY_ARGUMENT', '20000 characters together', () => rankOf('q', many))
  })
})

describe('several adapters', () => {
  it('of LoRA add up', async () => {
    const set = new LilyAdapters<LoraModel>().addAdapter('one', make(1)).addAdapter('two', make(2, { r: 2 }))
    const layer = set.setAdapter(['one', 'two']).layer('0.q')
    const [y, dx] = [output(), input()]
    const { saved } = layer.forward({ x: input(), y })
    layer.backward({ dy: gradient(), saved, dx })

    const [expectedY, expectedDx] = [output(), input()]
    for (const model of [make(1), make(2, { r: 2 })]) {
      const own = model.layer('0.q')
      const call = own.forward({ x: input(), y: expectedY }).saved
      own.backward({ dy: gradient(), saved: call, dx: expectedDx })
      for (const [name, { grad }] of model.parameters()) {
        const adapter = model.layer('0.q').r === 3 ? 'one' : 'two'
        const actual = set.parameters().get(`${adapter}.${name}`)?.grad
        expectSameBits(`${adapter}.${name}`, await numbersOf(actual), await numbersOf(grad))
      }
    }
    expectSameBits('y', await numbersOf(y), await numbersOf(expectedY))
    expectSameBits('dx', await numbersOf(dx), await numbersOf(expectedDx))
    expect(set.adapters.get('two')?.config.r).toBe(2)
  })

  it('of both kinds add up', async () => {
    const lily = () => createModel({ layers: shapes, config: { r: 2, initWeights: false }, seed: 4 })
    const set = new LilyAdapters().addAdapter('lora', make(1)).addAdapter('lily', lily())
    const layer = set.setAdapter(['lora', 'lily']).layer('1.q')
    const [y, dx] = [output(), input()]
    const { saved } = layer.forward({ x: input(), y })
    layer.backward({ dy: gradient(), saved, dx }, { retain: true })

    const [expectedY, expectedDx] = [output(), input()]
    for (const model of [make(1), lily()]) {
      const own: AdapterModel['layers'] = model.layers
      const adapted = own.get('1.q')!
      adapted.backward({ dy: gradient(), saved: adapted.forward({ x: input(), y: expectedY }).saved, dx: expectedDx })
    }
    expectSameBits('y', await numbersOf(y), await numbersOf(expectedY))
    expectSameBits('dx', await numbersOf(dx), await numbersOf(expectedDx))
    // Each is refused before the first adapter has written.
    for (const options of [
      { routing: 'batch' as const },
      { pool: 'logits' as const },
      { activation: 'relu' as const },
      { mask: Array<boolean>(tokens).fill(true) },
    ]) {
      await expectRefused('ERR_LILY_ARGUMENT', Object.keys(options)[0], () => layer.forward({ x: input(), y }, options))
    }
    expectSameBits('y after refusals', await numbersOf(y), await numbersOf(expectedY))
    await expectRefused('ERR_LILY_ARGUMENT', 'deferB: is no option of LoRA', () =>
      layer.backward({ dy: gradient(), saved, dx }, { deferB: true }),
    )
    layer.backward({ dy: gradient(), saved, dx: input() }, { deferB: false })
    expectSameBits('dx after a refusal', await numbersOf(dx), await numbersOf(expectedDx))
    const other = createLora({ layers: [{ name: '0.q', inFeatures: dIn, outFeatures: 1 }], config: {} })
    await expectRefused('ERR_LILY_SHAPE', '0.q', () => set.addAdapter('other', other))
  })
})

describe('one program for LilyModel and LoraModel', () => {
  const classes: Record<string, AdapterModelClass> = { LilyModel, LoraModel }
  const width = 8
  const layers = ['0.proj', '1.proj'].map((name) => ({ name, inFeatures: width, outFeatures: width }))
  const input = gaussian(randomFrom(5), tokens * width)
  const target = input.map((value, i) => (i % width < 3 ? -value : value))

  /** Trains the adapter of a chain of residual layers. Returns the first and the last loss. */
  async function train(Model: AdapterModelClass): Promise<{ model: AdapterModel; losses: number[] }> {
    const model = moved(Model.create({ layers, config: { r: 4, targetModules: ['proj'] }, seed: 1 }))
    const optimiser = new AdamW(model.parameters(), { lr: 0.05 })
    const losses: number[] = []
    for (let step = 0; step < 40; step++) {
      const shape = [tokens, width]
      const { outputs } = await runChain(model, input, shape, new Float32Array(tokens * width))
      const error = outputs.at(-1)!.map((value, i) => value - target[i])
      losses.push(error.reduce((sum, value) => sum + value * value, 0) / error.length)
      model.zeroGrad()
      await runChain(
        model,
        input,
        shape,
        error.map((value) => (2 * value) / error.length),
      )
      optimiser.step()
    }
    return { model, losses }
  }

  it.each(Object.keys(classes))('%s learns', async (name) => {
    const { model, losses } = await train(classes[name])
    expect(losses.at(-1)).toBeLessThan(losses[0] / 10)
    expect(model instanceof LilyModel).toBe(name === 'LilyModel')
    expect(model instanceof LoraModel).toBe(name === 'LoraModel')
  })
})

describe('types', () => {
  it('of results follow the options', () => {
    const layer: LoraLayer = make(1).layer('0.q')
    const saved: undefined = layer.forward({ x: input() }, { save: false }).saved
    const dx: Tensor = layer.backward(
      { dy: gradient(), saved: layer.forward({ x: input() }).saved },
      { needs: { da: false } },
    )
    expect([saved, dx.shape]).toEqual([undefined, [tokens, dIn]])
  })
})
