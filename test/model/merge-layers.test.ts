/**
 * Merging all layers of a model at once, compared with float64 and with merging them one by one.
 *
 * @project cpu wasm webgpu cuda
 */
import { describe, expect, it } from 'vitest'
import { deviceTensor, type LilyModel, type LoraModel, type Tensor, type TensorLike } from '../../lib/index.js'
import { expectRefused } from '../refusals/refused.js'
import { backend } from '../support/backend.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { type Float, roundAll } from '../support/dtypes.js'
import { createLora, createModel, numbersOf, place } from '../support/model.js'
import { gaussian, randomFrom } from '../support/random.js'

// More rows than one block, and sizes that are no multiples of a tile.
const sizes = { q: [19, 301], v: [19, 7] } as const
const layers = [0, 1].flatMap((l) =>
  Object.entries(sizes).map(([name, [inFeatures, outFeatures]]) => ({ name: `${l}.${name}`, inFeatures, outFeatures })),
)
const [rank, experts, scaling] = [5, 3, 0.75]

function lily(): LilyModel {
  const config = { r: rank, numB: experts, strideA: 2, scaling, initWeights: false }
  const model = createModel({ layers, config, seed: 3 })
  model.freeze(new Map(layers.map(({ name }, i) => [name, [0.5, -0.25, i]])))
  return model
}

function lora(fanInFanOut = false): LoraModel {
  const config = { r: rank, loraAlpha: 3, initLoraWeights: false, rankPattern: { v: 2 }, fanInFanOut } as const
  return createLora({ layers, config, seed: 3 })
}

const baseOf = (dtype: Float = 'float32') =>
  new Map(
    layers.map(({ name, inFeatures, outFeatures }, i) => [
      name,
      roundAll(dtype, gaussian(randomFrom(i + 9), inFeatures * outFeatures, 0.05)),
    ]),
  )

const weightsOf = (base = baseOf(), dtype: Float = 'float32') =>
  new Map(
    layers.map(({ name, inFeatures, outFeatures }) => [
      name,
      place(base.get(name)!, [outFeatures, inFeatures], dtype) as TensorLike,
    ]),
  )

/** The merged weight of a layer in float64. */
async function expectedOf(model: LilyModel | LoraModel, name: string, base: Float32Array): Promise<Float64Array> {
  const layer = model.layer(name)
  const { inFeatures: dIn, outFeatures: dOut } = layer
  const [a, b] = [await numbersOf(layer.a.value), await numbersOf(layer.b.value)]
  const r = a.length / dIn
  const w = 'frozenWeights' in layer ? layer.frozenWeights! : null
  return Float64Array.from(base, (value, at) => {
    const [o, i] = [Math.floor(at / dIn), at % dIn]
    let sum = 0
    for (let k = 0; k < r; k++) {
      const column = w === null ? b[o * r + k] : w.reduce((all, each, e) => all + each * b[(e * r + k) * dOut + o], 0)
      sum += column * a[k * dIn + i]
    }
    return value + layer.scaling * sum
  })
}

async function expectUnchanged(weights: ReadonlyMap<string, TensorLike>, base = baseOf()): Promise<void> {
  for (const [name, weight] of weights) expectSameBits(name, await numbersOf(weight), base.get(name)!)
}

describe('merge of all layers', () => {
  it.each([
    ['Lily', lily],
    ['LoRA', lora],
  ] as const)('adds the update of each layer of %s, and unmerge subtracts it', async (_, create) => {
    const [model, base] = [create(), baseOf()]
    for (const given of [weightsOf(), Object.fromEntries(weightsOf())]) {
      model.merge(given)
      const merged = new Map(given instanceof Map ? given : Object.entries(given))
      expect([...model.layers.values()].every(({ isMerged }) => isMerged)).toBe(true)
      for (const [name, weight] of merged) {
        const expected = await expectedOf(model, name, base.get(name)!)
        expect(relativeError(await numbersOf(weight), expected), name).toBeLessThan(2e-7)
      }
      model.unmerge(given)
      expect([...model.layers.values()].some(({ isMerged }) => isMerged)).toBe(false)
      for (const [name, weight] of merged) {
        expect(relativeError(await numbersOf(weight), base.get(name)!), name).toBeLessThan(2e-7)
      }
    }
  })

  it.each<Float>(['float32', 'bfloat16', 'float16'])('has the bits of merging one by one: %s', async (dtype) => {
    const [all, single] = [lily(), lily()]
    const [together, apart] = [weightsOf(baseOf(dtype), dtype), weightsOf(baseOf(dtype), dtype)]
    all.merge(together)
    for (const [name, weight] of apart) single.merge(name, weight)
    for (const [name, weight] of together) {
      expectSameBits(name, await numbersOf(weight), await numbersOf(apart.get(name)))
    }
  })

  it('merges some layers if it is asked for', async () => {
    const model = lily()
    const weights = weightsOf()
    const some = new Map([...weights].slice(0, 2))
    model.merge(some, { subset: true })
    expect(Array.from(model.layers.values(), ({ isMerged }) => isMerged)).toEqual([true, true, false, false])
    await expectRefused('ERR_LILY_ARGUMENT', "'1.q' is not merged", () => model.unmerge(weights))
    for (const all of [weights, new Map([...weights].reverse())]) {
      await expectRefused('ERR_LILY_ARGUMENT', 'is merged into its base weight', () => model.merge(all))
    }
    await expectUnchanged(new Map([...weights].slice(2)))
    model.unmerge(some, { subset: true })
    expect([...model.layers.values()].some(({ isMerged }) => isMerged)).toBe(false)
  })

  it('takes transposed weights with fanInFanOut', async ({ skip }) => {
    if (backend !== 'cpu') skip('a model on the host alone takes them')
    const [plain, transposed] = [lora(), lora(true)]
    const [weights, others] = [weightsOf(), new Map<string, Tensor>()]
    for (const { name, inFeatures, outFeatures } of layers) {
      const base = baseOf().get(name)!
      const values = Float32Array.from(base, (_, at) => {
        const [i, o] = [Math.floor(at / outFeatures), at % outFeatures]
        return base[o * inFeatures + i]
      })
      others.set(name, place(values, [inFeatures, outFeatures]))
    }
    plain.merge(weights)
    transposed.merge(others)
    for (const { name, inFeatures, outFeatures } of layers) {
      const [of, found] = [await numbersOf(weights.get(name)), await numbersOf(others.get(name))]
      const expected = Float32Array.from(
        of,
        (_, at) => of[(at % outFeatures) * inFeatures + Math.floor(at / outFeatures)],
      )
      expect(relativeError(found, expected)).toBeLessThan(2e-7)
    }
  })

  it('refuses names that are missing or unknown, and lists them', async () => {
    const model = lily()
    const weights = weightsOf()
    const some = new Map([...weights].slice(1, 3))
    const missing =
      'weights: expected a weight for each layer that the model adapts, such as \'0.q\', got none for "0.q", "1.v"; add ' +
      'them, or pass { subset: true }'
    await expectRefused('ERR_LILY_ARGUMENT', missing, () => model.merge(some))
    const others = new Map([...weights].map(([name, weight]) => [`model.${name}`, weight]))
    const unknown = 'got "model.0.q", "model.0.v", "model.1.q" and 1 more, which it does not adapt'
    const none = `${unknown}, and none for "0.q", "0.v", "1.q" and 1 more`
    const { message } = await expectRefused('ERR_LILY_ARGUMENT', none, () => model.merge(others))
    // These names belong to the weights of other layers: `subset` would not help.
    expect(message).toMatch(/1 more$/)
    await expectRefused('ERR_LILY_ARGUMENT', unknown, () => model.merge(others, { subset: true }))
    await expectRefused('ERR_LILY_ARGUMENT', 'weights: expected at least one weight', () =>
      model.merge({}, { subset: true }),
    )
    await expectRefused('ERR_LILY_ARGUMENT', "name: expected an adapted layer, such as '0.q', got", () =>
      model.merge(weights.get('0.q') as never),
    )
    await expectUnchanged(weights)
  })

  it('checks all weights before it writes the first one', async () => {
    const model = lily()
    const weights = weightsOf()
    const [first, ...rest] = weights
    const last = '1.v'
    const refused = async (code: string, message: string, weight: TensorLike) => {
      await expectRefused(code, message, () => model.merge(new Map([...rest.slice(0, 2), first, [last, weight]])))
      await expectUnchanged(weights)
      expect([...model.layers.values()].some(({ isMerged }) => isMerged)).toBe(false)
    }
    const [dIn, dOut] = sizes.v
    await refused('ERR_LILY_SHAPE', `weights['${last}']: expected [7, 19]`, place(new Float32Array(133), [dIn, dOut]))
    const disposed = place(new Float32Array(133), [dOut, dIn])
    disposed.dispose()
    await refused('ERR_LILY_DISPOSED', `weights['${last}']`, disposed)
    // A weight that the base model ties to another one: it cannot have the updates of both layers.
    const overlap = `weights['0.v']: its memory overlaps that of weights['${last}']`
    await refused('ERR_LILY_ARGUMENT', overlap, weights.get('0.v')!)
    // A part of the parameter of another layer.
    const { value } = model.layer('0.q').b
    const part =
      backend === 'cpu'
        ? { data: value.data.subarray(0, dOut * dIn), shape: [dOut, dIn] }
        : { ...value[deviceTensor](), shape: [dOut, dIn], strides: [dIn, 1] }
    await refused('ERR_LILY_ARGUMENT', `weights['${last}']: its memory overlaps that of 0.q.lily_B.weight`, part)
    model.unfreeze()
    model.freeze(new Map(layers.slice(1).map(({ name }) => [name, [1, 0, 0]])))
    await expectRefused(
      'ERR_LILY_ARGUMENT',
      "'0.q' depend on the input; freeze it first: model.freeze('uniform')",
      () => model.merge(weights),
    )
    await expectUnchanged(weights)
    model.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'this model', () => model.merge(weights))
  })

  it('refuses parameters that are not finite, those of the last layer, too', async ({ skip }) => {
    if (backend !== 'cpu') skip('device memory is not looked at before a merge')
    const [model, weights] = [lora(), weightsOf()]
    const { name, value } = model.layer('1.v').b
    value.data[3] = NaN
    await expectRefused('ERR_LILY_ARGUMENT', `${name}: expected finite numbers`, () => model.merge(weights))
    await expectUnchanged(weights)
  })

  it('does not confuse weights in one buffer, whose rows alternate', async () => {
    const model = lora()
    const [dIn, dOut] = sizes.q
    const whole = place(new Float32Array(dOut * 2 * dIn), [dOut, 2 * dIn])
    const half = (column: number): TensorLike =>
      backend === 'cpu'
        ? { data: (whole.data as Float32Array).subarray(column), shape: [dOut, dIn], strides: [2 * dIn, 1] }
        : { ...whole[deviceTensor](), shape: [dOut, dIn], strides: [2 * dIn, 1], byteOffset: 4 * column }
    model.merge(
      new Map([
        ['0.q', half(0)],
        ['1.q', half(dIn)],
      ]),
      { subset: true },
    )
    const merged = await numbersOf(whole)
    for (const [l, name] of ['0.q', '1.q'].entries()) {
      const expected = await expectedOf(model, name, new Float32Array(dOut * dIn))
      const found = expected.map((_, at) => merged[Math.floor(at / dIn) * 2 * dIn + l * dIn + (at % dIn)])
      expect(relativeError(found, expected)).toBeLessThan(1e-6)
    }
  })
})
