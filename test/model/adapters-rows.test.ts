/**
 * Several adapters in one call, each with rows of its own: the results are those of a call for each adapter.
 *
 * @project cpu wasm webgpu cuda
 */
import { describe, expect, it } from 'vitest'
import {
  AdamW,
  type AdapterModel,
  type AdaptersForwardOptions,
  type LayerForwardOptions,
  LilyAdapters,
  linearBackward,
  linearForward,
  LilyModel,
  type Parameter,
  type Tensor,
} from '../../lib/index.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { createLora, createModel, numbersOf, place } from '../support/model.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'

const [tokens, dIn, dOut] = [24, 20, 18]
const layers = ['q', 'v'].map((name) => ({ name, inFeatures: dIn, outFeatures: dOut }))
const random = randomFrom(1)
const x = gaussian(random, tokens * dIn)
const base = gaussian(random, tokens * dOut)
const dy = gaussian(random, tokens * dOut)
const baseGradient = gaussian(random, tokens * dIn)
const weight = () => place(gaussian(randomFrom(2), dOut * dIn), [dOut, dIn])
const bias = () => place(gaussian(randomFrom(3), dOut), [dOut])

/** Adapters of all kinds and of different ranks. Only the first two adapt layer v. */
const MODELS = {
  batch: () => lily({ r: 3, activation: 'relu' }, ['q', 'v']),
  lora: () =>
    createLora({ layers, config: { r: 4, targetModules: ['q', 'v'], initLoraWeights: false, loraAlpha: 12 }, seed: 5 }),
  sequence: () => lily({ r: 2, routing: 'sequence', pool: 'logits' }),
  token: () => lily({ r: 5, numB: 3, routing: 'token' }),
  fixed: () => {
    const model = lily({ r: 2 })
    model.freeze('uniform')
    return model
  },
} satisfies Record<string, () => AdapterModel>
type Name = keyof typeof MODELS
const lily = (config: object, targetModules = ['q']) =>
  createModel({ layers, config: { numB: 2, targetModules, initWeights: false, ...config }, seed: 7 })

function setOf(names: readonly (Name | null)[]): LilyAdapters {
  const set = new LilyAdapters()
  for (const name of new Set(names)) if (name !== null) set.addAdapter(name, MODELS[name]())
  return set
}

interface Case {
  shape: number[]
  options?: Pick<LayerForwardOptions, 'sequenceOffsets' | 'mask'>
  rows: (Name | null)[]
}

const turns: (Name | null)[] = ['lora', 'token', null, 'batch', 'fixed', 'lora']
const CASES: Record<string, Case> = {
  'tokens in turns': { shape: [tokens, dIn], rows: Array.from({ length: tokens }, (_, t) => turns[t % 6]) },
  'sequences of a 3-D x': {
    shape: [6, 4, dIn],
    options: { mask: Array.from({ length: tokens }, (_, t) => t % 5 !== 0) },
    rows: ['sequence', 'lora', 'sequence', 'batch', null, 'batch'],
  },
  'sequences of different lengths': {
    shape: [tokens, dIn],
    options: { sequenceOffsets: [0, 1, 9, 9, 16, tokens] },
    rows: ['token', 'sequence', 'lora', 'batch', 'sequence'],
  },
  'one adapter': { shape: [2, 12, dIn], rows: ['batch', 'batch'] },
  'no adapter': { shape: [2, 12, dIn], rows: [null, null] },
}

/** The rows of an adapter, and its sequences. */
function partOf(name: Name | null, { shape, options, rows }: Case): { at: number[]; offsets: number[] } {
  const given = options?.sequenceOffsets as number[] | undefined
  const length = shape.length === 3 ? shape[1] : 1
  const starts = given ?? Array.from({ length: rows.length + 1 }, (_, g) => g * length)
  const [at, offsets] = [[] as number[], [0]]
  for (const [g, other] of rows.entries()) {
    if (other !== name) continue
    for (let t = starts[g]; t < starts[g + 1]; t++) at.push(t)
    offsets.push(at.length)
  }
  return { at, offsets }
}

const gather = (values: Float32Array, at: number[], columns: number) =>
  place(
    Float32Array.from(
      { length: at.length * columns },
      (_, i) => values[at[Math.floor(i / columns)] * columns + (i % columns)],
    ),
    [at.length, columns],
  )
const scatter = (into: Float32Array, at: number[], columns: number, values: Float32Array) => {
  for (const [i, t] of at.entries()) into.set(values.subarray(i * columns, (i + 1) * columns), t * columns)
}

/** Forward and backward of each adapter alone, in calls of its rows. */
async function alone(of: Case, accumulate: boolean, hasWeight: boolean) {
  const [y, dx] = [new Float32Array(tokens * dOut), new Float32Array(tokens * dIn)]
  const gradients = new Map<string, Float32Array>()
  const frozen = hasWeight ? { weight: weight(), bias: bias() } : {}
  for (const name of new Set(of.rows)) {
    const { at, offsets } = partOf(name, of)
    if (at.length === 0) continue
    const [ownX, ownY, ownDy, ownDx] = [
      gather(x, at, dIn),
      gather(base, at, dOut),
      gather(dy, at, dOut),
      gather(baseGradient, at, dIn),
    ]
    if (name === null) {
      if (hasWeight) {
        linearForward({ x: ownX, y: ownY, weight: weight(), bias: bias() }, { accumulate })
        linearBackward({ dy: ownDy, weight: weight(), dx: ownDx }, { accumulate })
      }
      scatter(y, at, dOut, hasWeight || accumulate ? await numbersOf(ownY) : new Float32Array(at.length * dOut))
      scatter(dx, at, dIn, hasWeight || accumulate ? await numbersOf(ownDx) : new Float32Array(at.length * dIn))
      continue
    }
    const model = MODELS[name]()
    const mask = of.options?.mask as boolean[] | undefined
    const options = {
      accumulate,
      ...(name === 'sequence' ? { sequenceOffsets: offsets } : {}),
      ...(mask !== undefined && (name === 'sequence' || name === 'batch') ? { mask: at.map((t) => mask[t]) } : {}),
    }
    const single = new LilyAdapters().addAdapter(name, model).layer('q')
    const { saved } = single.forward({ x: ownX, y: ownY, ...frozen }, options)
    single.backward({ dy: ownDy, saved, dx: ownDx }, { accumulate })
    scatter(y, at, dOut, await numbersOf(ownY))
    scatter(dx, at, dIn, await numbersOf(ownDx))
    for (const [key, { grad }] of model.parameters()) gradients.set(`${name}.${key}`, await numbersOf(grad))
  }
  return { y, dx, gradients }
}

describe('rows', () => {
  const modes = Object.entries(CASES).flatMap(([name, of], i) => [
    { name, of, accumulate: true, hasWeight: true },
    { name, of, accumulate: i % 2 === 1, hasWeight: false },
  ])
  it.each(modes)(
    'have the bits of calls for each adapter: $name, accumulate $accumulate, weight $hasWeight',
    async ({ of, accumulate, hasWeight }) => {
      const set = setOf(of.rows.includes('lora') ? of.rows : [...of.rows, 'lora'])
      const layer = set.layer('q')
      set.disableAdapters()
      const [y, dx] = [place(base, [tokens, dOut]), place(baseGradient, [tokens, dIn])]
      const frozen = hasWeight ? { weight: weight(), bias: bias() } : {}
      const { saved } = layer.forward(
        { x: place(x, of.shape), y, ...frozen },
        { ...of.options, rows: of.rows, accumulate },
      )
      expect(layer.backward({ dy: place(dy, [tokens, dOut]), saved, dx }, { accumulate })).toBe(dx)

      const expected = await alone(of, accumulate, hasWeight)
      expectSameBits('y', await numbersOf(y), expected.y)
      expectSameBits('dx', await numbersOf(dx), expected.dx)
      set.enableAdapters()
      set.setAdapter([...set.adapters.keys()])
      for (const [name, { grad }] of set.parameters()) {
        const actual = await numbersOf(grad)
        const wanted = expected.gradients.get(name) ?? new Float32Array(actual.length)
        expect(relativeError(actual, wanted), name).toBeLessThan(1e-6)
      }
    },
  )

  it('keeps what each adapter computed of its rows', () => {
    const { shape, options, rows } = CASES['sequences of different lengths']
    const { saved } = setOf(rows)
      .layer('q')
      .forward({ x: place(x, shape), y: place(base, [tokens, dOut]) }, { ...options, rows })
    expect([...saved.calls.keys()]).toEqual(['token', 'sequence', 'lora', 'batch'])
    expect(Array.from(saved.calls.values(), ({ hidden }) => hidden.shape)).toEqual([
      [1, 5],
      [16, 2],
      [0, 4],
      [7, 3],
    ])
    expect(saved.calls.get('sequence')?.weights?.shape).toEqual([2, 2])
    expect([...saved.rows!.get('sequence')!]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 18, 19, 20, 21, 22, 23])
    saved.dispose()
    expect(saved.calls.get('token')?.isDisposed).toBe(true)
  })

  it('multiplies the output of each row by its scale', async () => {
    const rows = CASES['tokens in turns'].rows
    const scale = Array.from({ length: tokens }, (_, t) => [1, 0.5, -2, 0][(t + Math.floor(t / 6)) % 4])
    const layer = setOf(rows).layer('q')
    const run = async (options: object) => {
      const y = place(base, [tokens, dOut])
      layer.forward({ x: place(x, [tokens, dIn]), y }, { rows, accumulate: false, save: false, ...options })
      return numbersOf(y)
    }
    const [plain, scaled] = [await run({}), await run({ scale })]
    // Multiplying by a power of two rounds nothing.
    const expected = plain.map((value, i) => value * scale[Math.floor(i / dOut)])
    expect(Array.from(scaled, (value) => value + 0)).toEqual(Array.from(expected, (value) => value + 0))
    expectSameBits('float32 numbers', await run({ scale: Float32Array.from(scale) }), scaled)
  })

  it('scales the gradients, too', async () => {
    const rows = CASES['tokens in turns'].rows
    const scale = Array.from({ length: tokens }, (_, t) => (t % 4 === 0 ? 2 : 0.5))
    const scaledDy = dy.map((value, i) => value * scale[Math.floor(i / dOut)])
    const run = async (gradient: Float32Array, options: AdaptersForwardOptions) => {
      const set = setOf(rows)
      const [y, dx] = [place(base, [tokens, dOut]), place(baseGradient, [tokens, dIn])]
      const { saved } = set.layer('q').forward({ x: place(x, [tokens, dIn]), y }, { rows, ...options })
      set.layer('q').backward({ dy: place(gradient, [tokens, dOut]), saved: saved!, dx })
      const parameters = set
        .setAdapter([...set.adapters.keys()])
        .parameters()
        .values()
      return Promise.all([dx, ...Array.from(parameters, ({ grad }) => grad)].map(numbersOf))
    }
    const [actual, expected] = [await run(dy, { scale }), await run(scaledDy, {})]
    for (const [i, numbers] of actual.entries()) expectSameBits(`gradient ${i}`, numbers, expected[i])
  })

  it('train several adapters in one step', async () => {
    const names: Name[] = ['batch', 'lora']
    const rows = Array.from({ length: tokens }, (_, t) => names[t % 2])
    const train = async (calls: (Name | null)[][]) => {
      const set = setOf(names).setAdapter(names)
      const optimiser = new AdamW(set.parameters(), { lr: 0.1 })
      for (let step = 0; step < 3; step++) {
        for (const call of calls) {
          const layer = set.layer('v')
          const y = place(base, [tokens, dOut])
          const { saved } = layer.forward({ x: place(x, [tokens, dIn]), y }, { rows: call })
          layer.backward({ dy: place(dy, [tokens, dOut]), saved }, { needs: { dx: false } })
        }
        optimiser.step()
        optimiser.zeroGrad()
      }
      return Promise.all(Array.from(set.parameters().values(), ({ value }) => numbersOf(value)))
    }
    const expected = await train(names.map((only) => rows.map((name) => (name === only ? name : null))))
    for (const [i, values] of (await train([rows])).entries()) {
      expect(relativeError(values, expected[i])).toBeLessThan(1e-5)
    }
  })

  it('add nothing where an adapter does not adapt the layer, unless the call is strict', async () => {
    const rows = Array.from({ length: tokens }, (_, t) => (t % 2 === 0 ? 'token' : 'batch'))
    const layer = setOf(['token', 'batch']).layer('v')
    const run = async (options: AdaptersForwardOptions) => {
      const y = place(base, [tokens, dOut])
      const { saved } = layer.forward({ x: place(x, [tokens, dIn]), y }, options)
      return { y: await numbersOf(y), names: [...saved!.calls.keys()] }
    }
    const { y, names } = await run({ rows })
    expect(names).toEqual(['batch'])
    expectSameBits('y', y, (await run({ rows: rows.map((name) => (name === 'token' ? null : name)) })).y)
    await expectRefused('ERR_LILY_ARGUMENT', "rows: element 0: expected an adapter of layer 'v', got 'token'", () =>
      run({ rows, strict: true }),
    )
    await run({ rows: rows.map((name) => (name === 'token' ? null : name)), strict: true })
  })
})

describe('a call with rows that is refused', () => {
  const rows = CASES['tokens in turns'].rows
  const firstOf = (set: LilyAdapters, name: Name) =>
    set.adapters.get(name)!.parameters().values().next().value as Parameter
  const forward = (set: LilyAdapters, y: Tensor) => set.layer('q').forward({ x: place(x, [tokens, dIn]), y }, { rows })

  const spoilt: Record<string, [code: string, argument: string, change: (set: LilyAdapters) => void]> = {
    'a merged layer': [
      'ARGUMENT',
      'layer',
      (set) => {
        const model = set.adapters.get('fixed') as LilyModel
        model.merge('q', place(new Float32Array(dOut * dIn), [dOut, dIn]))
      },
    ],
    'an adapter that was deleted': [
      'ARGUMENT',
      'rows',
      (set) => {
        set.deleteAdapter('token')
      },
    ],
    'a model that was disposed of': [
      'DISPOSED',
      'model',
      (set) => {
        set.adapters.get('token')?.dispose()
      },
    ],
    'a parameter that was disposed of': [
      'DISPOSED',
      '',
      (set) => {
        firstOf(set, 'token').value.dispose()
      },
    ],
    'an adapter of another type': [
      'ARGUMENT',
      'adapters',
      (set) => {
        set.deleteAdapter('token')
        set.addAdapter('token', createLora({ layers, config: { r: 2 }, dtype: 'bfloat16' }))
      },
    ],
  }
  it.each(Object.entries(spoilt))('has written nothing: %s', async (_, [code, argument, change]) => {
    const set = setOf(rows)
    change(set)
    const y = place(base, [tokens, dOut])
    await expectRefused(`ERR_LILY_${code}`, argument, () => forward(set, y))
    expectSameBits('y', await numbersOf(y), base)
  })

  const broken: Record<
    string,
    [code: string, change: (set: LilyAdapters, saved: { calls: ReadonlyMap<string, { dispose(): void }> }) => void]
  > = {
    'an adapter that was deleted': [
      'DISPOSED',
      (set) => {
        set.deleteAdapter('token')
      },
    ],
    'a saved call that was disposed of': ['DISPOSED', (_, saved) => saved.calls.get('token')?.dispose()],
    'a gradient that was disposed of': [
      'DISPOSED',
      (set) => {
        firstOf(set, 'token').grad.dispose()
      },
    ],
    'an optimiser that has changed a parameter': [
      'ARGUMENT',
      (set) => {
        new AdamW(set.adapters.get('token')!.parameters()).step()
      },
    ],
  }
  it.each(Object.entries(broken))('has given no gradient: %s', async (_, [code, change]) => {
    const set = setOf(rows).setAdapter('lora')
    const { saved } = forward(set, place(base, [tokens, dOut]))
    const dx = place(baseGradient, [tokens, dIn])
    change(set, saved)
    await expectRefused(`ERR_LILY_${code}`, '', () =>
      set.layer('q').backward({ dy: place(dy, [tokens, dOut]), saved, dx }),
    )
    expectSameBits('dx', await numbersOf(dx), baseGradient)
    for (const { grad } of set.parameters().values()) expect(new Set(await numbersOf(grad))).toEqual(new Set([0]))
  })

  it('is one whose saved call was used, or is a part of the call', async () => {
    const set = setOf(rows)
    const layer = set.layer('q')
    const { saved } = forward(set, place(base, [tokens, dOut]))
    const operands = () => ({ dy: place(dy, [tokens, dOut]), saved, dx: place(baseGradient, [tokens, dIn]) })
    await expectRefused('ERR_LILY_ARGUMENT', "of layer 'v' returned", () => set.layer('v').backward(operands()))
    await expectRefused('ERR_LILY_ARGUMENT', 'deferB', () => layer.backward(operands(), { deferB: true }))
    const ofBase = set.layer('v').forward({ x: place(x, [tokens, dIn]), y: place(base, [tokens, dOut]) })
    await expectRefused('ERR_LILY_ARGUMENT', "of layer 'q' returned", () =>
      layer.backward({ ...operands(), saved: ofBase.saved }),
    )
    const part = { ...operands(), saved: saved.calls.get('lora')! }
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => set.adapters.get('lora')!.layer('q').backward(part))
    layer.backward(operands(), { retain: true })
    layer.backward(operands())
    await expectRefused('ERR_LILY_ARGUMENT', 'saved: expected one that no backward', () => layer.backward(operands()))
  })
})

it('reads the options once', () => {
  const reads: string[] = []
  const noted = <T extends object>(target: T) =>
    new Proxy(target, { get: (from, name) => (reads.push(String(name)), Reflect.get(from, name) as unknown) })
  const rows = CASES['tokens in turns'].rows
  setOf(rows)
    .layer('q')
    .forward({ x: place(x, [tokens, dIn]), y: place(base, [tokens, dOut]) }, noted({ rows, strict: false }))
  for (const name of ['rows', 'strict', 'scale', 'mask'])
    expect([name, reads.filter((read) => read === name).length]).toEqual([name, 1])
})
