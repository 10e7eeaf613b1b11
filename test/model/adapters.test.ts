/**
 * Several adapters on one model.
 *
 * @project cpu wasm webgpu cuda
 */
import { describe, expect, it } from 'vitest'
import {
  type AdaptersSaved,
  type LayerForwardOptions,
  LilyAdapters,
  LilyModel,
  linearBackward,
  linearForward,
  packLinear,
  type Parameter,
  type Tensor,
  tensor,
} from '../../lib/index.js'
import { backend } from '../support/backend.js'
import { expectSameBits } from '../support/compare.js'
import { createModel, numbersOf, place } from '../support/model.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'

const [tokens, dIn, dOut] = [3, 4, 5]
const layers = ['q', 'v'].map((name) => ({ name, inFeatures: dIn, outFeatures: dOut }))
const random = randomFrom(1)
const x = gaussian(random, tokens * dIn)
const base = gaussian(random, tokens * dOut)
const dy = gaussian(random, tokens * dOut)

const input = () => place(x, [tokens, dIn])
const output = () => place(base, [tokens, dOut])
const gradient = () => place(dy, [tokens, dOut])
const make = (seed: number, targetModules: string[], r = 2) =>
  createModel({ layers, config: { r, numB: 2, targetModules, initWeights: false }, seed })

/** Two adapters, the second of which adapts one layer only, and separate copies of both. */
function both(): { set: LilyAdapters<LilyModel>; one: LilyModel; two: LilyModel } {
  const set = new LilyAdapters<LilyModel>().addAdapter('one', make(1, ['q', 'v'])).addAdapter('two', make(2, ['q'], 3))
  return { set, one: make(1, ['q', 'v']), two: make(2, ['q'], 3) }
}

const firstOf = (model: LilyModel) => model.parameters().values().next().value as Parameter
const parametersOf = (set: LilyAdapters, name: string) => (set.adapters.get(name) as LilyModel).parameters().values()
const count = (names: readonly string[], name: string) => names.filter((each) => each === name).length
const expectedCode = (argument: string) => (argument === 'weights' ? 'ERR_LILY_SHAPE' : 'ERR_LILY_ARGUMENT')
function freeze(model: LilyModel): void {
  model.freeze('uniform')
}
function merge(model: LilyModel): void {
  freeze(model)
  model.merge('q', place(new Float32Array(dOut * dIn), [dOut, dIn]))
}

describe('LilyAdapters', () => {
  it('sums the outputs of the active adapters', async () => {
    const { set, one, two } = both()
    const [ofOne, ofBoth] = [output(), output()]
    one.layer('q').forward({ x: input(), y: ofOne })
    one.layer('q').forward({ x: input(), y: ofBoth })
    two.layer('q').forward({ x: input(), y: ofBoth })
    const run = async (layer = 'q') => {
      const y = output()
      expect(set.layer(layer).forward({ x: input(), y }).y).toBe(y)
      return numbersOf(y)
    }
    expect(set.activeAdapters).toEqual(['one'])
    expectSameBits('the first', await run(), await numbersOf(ofOne))
    set.setAdapter(['one', 'two'])
    expectSameBits('both', await run(), await numbersOf(ofBoth))
    set.disableAdapters()
    expect(set.activeAdapters).toEqual([])
    expectSameBits('none', await run(), base)
    set.enableAdapters()
    expectSameBits('both again', await run(), await numbersOf(ofBoth))
    set.setAdapter('two')
    expectSameBits('a layer that the second does not adapt', await run('v'), base)
    set.deleteAdapter('two')
    expect([set.activeAdapters, [...set.adapters.keys()]]).toEqual([[], ['one']])
    expectSameBits('deleted', await run(), base)
  })

  it('gives gradients to the adapters that were active in forward', async () => {
    const { set, one, two } = both()
    set.setAdapter(['one', 'two'])
    const { saved } = set.layer('q').forward({ x: input(), y: output() })
    expect([...saved.calls.keys()]).toEqual(['one', 'two'])
    const dx = place(x, [tokens, dIn])
    // A later selection does not affect calls that have run.
    set.setAdapter('two')
    expect(set.layer('q').backward({ dy: gradient(), saved, dx }, { retain: true })).toBe(dx)

    const expected = place(x, [tokens, dIn])
    for (const model of [one, two]) {
      const layer = model.layer('q')
      layer.backward({ dy: gradient(), saved: layer.forward({ x: input() }).saved, dx: expected })
    }
    expectSameBits('dx', await numbersOf(dx), await numbersOf(expected))
    set.setAdapter(['two', 'one'])
    const parameters = set.parameters()
    expect([...parameters.keys()].slice(0, 4)).toEqual([
      'two.q.lily_A.weight',
      'two.q.lily_router.weight',
      'two.q.lily_B.weight',
      'one.q.lily_A.weight',
    ])
    for (const [name, model] of Object.entries({ one, two })) {
      for (const [key, { grad }] of model.parameters()) {
        const actual = parameters.get(`${name}.${key}`)?.grad
        expectSameBits(`${name}.${key}`, await numbersOf(actual), await numbersOf(grad))
      }
    }
    set.zeroGrad()
    for (const { grad } of parameters.values()) expect((await numbersOf(grad)).every((value) => value === 0)).toBe(true)
    const withoutDx = { dy: gradient(), saved, dx: undefined as Tensor | undefined }
    expect(set.layer('q').backward(withoutDx, { needs: { dx: false } })).toBeUndefined()
    saved.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'saved', () => set.layer('q').backward({ dy: gradient(), saved, dx }))
  })

  const weight = () => place(gaussian(randomFrom(9), dOut * dIn), [dOut, dIn])
  const bias = () => place(gaussian(randomFrom(8), dOut), [dOut])

  const sets = [{ active: ['one', 'two'] }, { active: [] }]
  it.each(sets)('computes the frozen layer, too, with $active', async ({ active }) => {
    const { set, ...models } = both()
    const layer = set.setAdapter(active).layer('q')
    for (const accumulate of [true, false]) {
      const [y, dx, expected, expectedDx] = [output(), input(), output(), input()]
      const operands = { x: input(), weight: weight(), bias: bias() }
      const { saved } = layer.forward({ ...operands, y }, { accumulate })
      layer.backward({ dy: gradient(), saved, dx })

      linearForward({ ...operands, y: expected }, { accumulate })
      linearBackward({ dy: gradient(), weight: operands.weight, dx: expectedDx })
      for (const name of active as ('one' | 'two')[]) {
        const own = models[name].layer('q')
        const { saved: ofOwn } = own.forward({ x: input(), y: expected })
        own.backward({ dy: gradient(), saved: ofOwn, dx: expectedDx })
      }
      expectSameBits('y', await numbersOf(y), await numbersOf(expected))
      expectSameBits('dx', await numbersOf(dx), await numbersOf(expectedDx))
    }
  })

  it.each(sets)('refuses bad weights, with $active', async ({ active }) => {
    const layer = both().set.setAdapter(active).layer('q')
    const [y, dx] = [output(), input()]
    const of = (given: object) => () => layer.forward({ x: input(), y, ...given })
    await expectRefused('ERR_LILY_ARGUMENT', 'bias: is given without a weight', of({ bias: bias() }))
    const transposed = place(new Float32Array(dOut * dIn), [dIn, dOut])
    await expectRefused('ERR_LILY_SHAPE', 'weight: expected [5, 4]', of({ weight: transposed }))
    await expectRefused('ERR_LILY_SHAPE', 'bias: expected [5]', of({ weight: weight(), bias: dx }))
    expectSameBits('y', await numbersOf(y), base)
    // A GPUDevice has no packed weights.
    const frozen = backend === 'webgpu' ? weight() : packLinear(weight())
    const { saved } = layer.forward({ x: input(), y, weight: frozen })
    frozen.dispose()
    const before = await numbersOf(dx)
    await expectRefused(
      'ERR_LILY_DISPOSED',
      backend === 'webgpu' ? 'weight: this tensor' : 'weight: this packed weight',
      () => layer.backward({ dy: gradient(), saved, dx }),
    )
    expectSameBits('dx', await numbersOf(dx), before)
    const { saved: disposed } = layer.forward({ x: input(), y, weight: weight() })
    disposed.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'saved: has been disposed of', () =>
      layer.backward({ dy: gradient(), saved: disposed, dx }),
    )
    expectSameBits('dx', await numbersOf(dx), before)
  })

  it('overwrites y with the sum', async () => {
    const { set, one, two } = both()
    set.setAdapter(['one', 'two'])
    const [sum, y] = [place(new Float32Array(tokens * dOut), [tokens, dOut]), output()]
    one.layer('q').forward({ x: input(), y: sum }, { accumulate: false })
    two.layer('q').forward({ x: input(), y: sum })
    set.layer('q').forward({ x: input(), y }, { accumulate: false })
    expectSameBits('y', await numbersOf(y), await numbersOf(sum))
  })

  it('reads its arguments once', () => {
    const { set } = both()
    set.setAdapter(['one', 'two'])
    const reads: string[] = []
    const noted = <T extends object>(target: T) =>
      new Proxy(target, { get: (from, name) => (reads.push(String(name)), Reflect.get(from, name) as unknown) })
    const layer = set.layer('q')
    const { saved } = layer.forward(noted({ x: input(), y: output() }), noted({ mask: [true, true, false] }))
    layer.backward(
      noted({ dy: gradient(), saved, dx: place(x, [tokens, dIn]) }),
      noted({ needs: noted({ da: false }) }),
    )
    for (const name of ['y', 'weight', 'bias', 'mask', 'routing', 'dy', 'saved', 'needs', 'da'])
      expect([name, count(reads, name)]).toEqual([name, 1])
    // Of forward and backward; of backward and its needs.
    for (const name of ['stream', 'x', 'dx']) expect([name, count(reads, name)]).toEqual([name, 2])
  })

  // Each is valid for the first adapter only.
  const mask = [true, false, true]
  const refusals: Record<string, [argument: string, options: LayerForwardOptions, change: (two: LilyModel) => void]> = {
    'a mask, and the second is frozen': ['mask', { mask }, freeze],
    'pooled logits, and the second is frozen': ['pool', { pool: 'logits', save: false }, freeze],
    'weights of another length': ['weights', { routing: 'fixed', weights: [0.5, 0.5], save: false }, () => undefined],
    'the second is merged': ['merged', {}, merge],
    'the second has a parameter that is disposed of': ['disposed', {}, (two) => firstOf(two).value.dispose()],
  }
  it.each(Object.entries(refusals))(
    'applies no adapter before all are checked: %s',
    async (_, [argument, options, change]) => {
      const two = createModel({ layers, config: { r: 3, numB: 3, initWeights: false }, seed: 2 })
      const set = new LilyAdapters().addAdapter('one', make(1, ['q', 'v'])).addAdapter('two', two)
      set.setAdapter(['one', 'two'])
      change(two)
      const y = output()
      await expectRefused(argument === 'disposed' ? 'ERR_LILY_DISPOSED' : expectedCode(argument), argument, () =>
        set.layer('q').forward({ x: input(), y }, options),
      )
      expectSameBits('y', await numbersOf(y), base)
      set.setAdapter('one').layer('q').forward({ x: input(), y }, options)
      expect(await numbersOf(y)).not.toEqual(base)
    },
  )

  const broken: Record<string, (two: LilyModel, saved: AdaptersSaved) => void> = {
    'a saved call that is disposed of': (_, saved) => saved.calls.get('two')?.dispose(),
    'a gradient that is disposed of': (two) => firstOf(two).grad.dispose(),
    'a gradient of b that is disposed of': (two) => [...two.parameters().values()].at(-1)?.grad.dispose(),
    'a parameter that is disposed of': (two) => firstOf(two).value.dispose(),
  }
  const spoiled = Object.entries(broken).flatMap(([name, spoil]) =>
    [false, true].map((deferB) => [name, deferB, spoil] as const),
  )
  it.each(spoiled)('gives no gradient before all are checked: %s, deferB %s', async (_, deferB, spoil) => {
    const { set } = both()
    set.setAdapter(['one', 'two'])
    const layer = set.layer('q')
    const dx = place(x, [tokens, dIn])
    layer.backward({ dy: gradient(), saved: layer.forward({ x: input(), y: output() }).saved, dx })
    const gradients = () => Array.from(parametersOf(set, 'one'), ({ grad }) => grad)
    const { saved } = layer.forward({ x: input(), y: output() })
    const before = await Promise.all([dx, ...gradients()].map(numbersOf))
    spoil(set.adapters.get('two') as LilyModel, saved)
    await expectRefused('ERR_LILY_DISPOSED', '', () => layer.backward({ dy: gradient(), saved, dx }, { deferB }))
    const after = await Promise.all([dx, ...gradients()].map(numbersOf))
    for (const [i, numbers] of after.entries()) expectSameBits(`output ${i}`, numbers, before[i])
  })

  it('zeroes no gradient before all are checked', async () => {
    const { set } = both()
    const layer = set.setAdapter(['one', 'two']).layer('q')
    layer.backward(
      { dy: gradient(), saved: layer.forward({ x: input(), y: output() }).saved },
      { needs: { dx: false } },
    )
    const [first, ...others] = set.adapters.values()
    const last = [...others[0].parameters().values()].at(-1) as Parameter
    last.grad.dispose()
    const before = await Promise.all(Array.from(first.parameters().values(), ({ grad }) => numbersOf(grad)))
    await expectRefused('ERR_LILY_DISPOSED', `${last.name}.grad`, () => {
      set.zeroGrad()
    })
    for (const [i, { grad }] of [...first.parameters().values()].entries()) {
      expectSameBits(`gradient ${i}`, await numbersOf(grad), before[i])
    }
  })

  it('moves no adapter before all are checked', async () => {
    const models = [1, 2].map((seed) => LilyModel.create({ layers, config: { r: 2 }, seed }))
    const set = new LilyAdapters().addAdapter('one', models[0]).addAdapter('two', models[1])
    const values = Array.from(models[0].parameters().values(), ({ value }) => value)
    firstOf(models[1]).value.dispose()
    await expectRefused('ERR_LILY_DISPOSED', `${firstOf(models[1]).name}.value`, () => set.to({ type: backend }))
    expect(Array.from(models[0].parameters().values(), ({ value }) => value)).toEqual(values)
    expect(values.every(({ isDisposed, device }) => !isDisposed && device.type === 'cpu')).toBe(true)
  })

  it('moves all adapters to the host, and none if one cannot be moved', async () => {
    const { set } = both()
    const parameters = [...set.adapters.values()].flatMap((model) => [...model.parameters().values()])
    const [first] = parameters
    const before = await Promise.all(parameters.map(({ value }) => numbersOf(value)))
    expect(await set.toHost()).toBe(set)
    for (const [i, { name, value }] of parameters.entries()) {
      expect(value.device.type, name).toBe('cpu')
      expectSameBits(name, value.data, before[i])
    }
    set.to(place([1], [1]).device)
    const placed = first.value
    parameters.at(-1)?.value.dispose()
    await expectRefused('ERR_LILY_DISPOSED', '.value', () => set.toHost())
    expect([first.value, placed.isDisposed]).toEqual([placed, false])
  })

  it('keeps what is written between two moves to the host that overlap', async () => {
    const { set } = both()
    const parameters = [...set.adapters.values()].flatMap((model) => [...model.parameters().values()])
    for (const { grad } of parameters) expect(grad.isDisposed).toBe(false) // there is one to move
    const written = set.toHost().then(() => {
      for (const { value, grad } of parameters) for (const { data } of [value, grad]) data.fill(7)
      return parameters.map(({ value }) => value)
    })
    await Promise.all([written, set.toHost(), ...Array.from(set.adapters.values(), (model) => model.toHost())])
    expect(parameters.map(({ value }) => value)).toEqual(await written)
    for (const { name, value, grad } of parameters) {
      for (const { data } of [value, grad])
        expect(
          data.every((number) => number === 7),
          name,
        ).toBe(true)
    }
  })

  it('rejects what another layer saved, and writes nothing', async () => {
    const { set } = both()
    const { saved } = set.layer('v').forward({ x: input(), y: output() })
    const dx = input()
    const error = await expectRefused('ERR_LILY_ARGUMENT', "of layer 'q' returned, got what layer 'v' returned", () =>
      set.layer('q').backward({ dy: gradient(), saved, dx }),
    )
    expect(error.argument).toBe('saved')
    expectSameBits('dx', await numbersOf(dx), x)
    for (const { name, grad } of set.parameters().values()) {
      expect(new Set(await numbersOf(grad)), name).toEqual(new Set([0]))
    }
    set.layer('v').backward({ dy: gradient(), saved, dx })
  })

  it('checks shapes and types without an active adapter too', async () => {
    const { set } = both()
    set.disableAdapters()
    const layer = set.layer('q')
    const of = (...shape: number[]) => place(new Float32Array(shape[0] * shape[1]), shape)
    const int32 = tensor(new Int32Array(tokens * dIn), [tokens, dIn])
    const half = place(new Float32Array(tokens * dOut), [tokens, dOut], 'bfloat16')
    await expectRefused('ERR_LILY_SHAPE', `x: expected ${tokens} rows of ${dIn}`, () =>
      layer.forward({ x: of(tokens, dIn + 1), y: output() }),
    )
    await expectRefused('ERR_LILY_SHAPE', `y: expected ${tokens} rows of ${dOut}`, () =>
      layer.forward({ x: input(), y: of(tokens - 1, dOut) }),
    )
    await expectRefused('ERR_LILY_DTYPE', 'y: expected float32, got bfloat16', () =>
      layer.forward({ x: input(), y: half }),
    )
    const short = { data: new Float32Array(1), shape: [tokens, dIn] }
    await expectRefused('ERR_LILY_SHAPE', 'x: expected at least', () => layer.forward({ x: short, y: short }))
    await expectRefused('ERR_LILY_DTYPE', 'x: expected float32, bfloat16 or float16, got int32', () =>
      layer.forward({ x: int32, y: tensor(new Int32Array(tokens * dOut), [tokens, dOut]) }),
    )
    const { saved } = layer.forward({ x: input(), y: output() })
    await expectRefused('ERR_LILY_SHAPE', `dy: expected ${tokens} rows of ${dOut}`, () =>
      layer.backward({ dy: of(tokens, dIn), saved, dx: input() }),
    )
    await expectRefused('ERR_LILY_SHAPE', `dx: expected ${tokens} rows of ${dIn}`, () =>
      layer.backward({ dy: gradient(), saved, dx: of(1, 1) }),
    )
    await expectRefused('ERR_LILY_DTYPE', 'dx: expected float32, got bfloat16', () =>
      layer.backward({ dy: gradient(), saved, dx: place(x, [tokens, dIn], 'bfloat16') }),
    )
  })

  it('checks overlaps and an x that is given again without an active adapter too', async () => {
    const shape = { name: 's', inFeatures: dIn, outFeatures: dIn }
    const set = new LilyAdapters().addAdapter('one', createModel({ layers: [shape], config: { r: 2 } }))
    set.disableAdapters()
    const layer = set.layer('s')
    const [same, other] = [input(), input()]
    await expectRefused('ERR_LILY_ARGUMENT', 'y: its memory overlaps that of x', () =>
      layer.forward({ x: same, y: same }),
    )
    const { saved } = layer.forward({ x: input(), y: input() })
    await expectRefused('ERR_LILY_ARGUMENT', 'dx: its memory overlaps that of dy', () =>
      layer.backward({ dy: same, saved, dx: same }),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'dx: its memory overlaps that of x', () =>
      layer.backward({ dy: other, saved, x: same, dx: same }),
    )
    const wider = place(new Float32Array(tokens * (dIn + 1)), [tokens, dIn + 1])
    await expectRefused('ERR_LILY_SHAPE', `x: expected ${tokens} rows of ${dIn}`, () =>
      layer.backward({ dy: other, saved, x: wider, dx: input() }),
    )
  })

  it.each(['active', 'disabled'])('saves nothing with save: false, and backward says so: %s', async (state) => {
    const { set } = both()
    if (state === 'disabled') set.disableAdapters()
    const layer = set.layer('q')
    const { saved } = layer.forward({ x: input(), y: output() }, { save: false })
    expect(saved).toBeUndefined()
    const dx = input()
    await expectRefused('ERR_LILY_ARGUMENT', 'saved: expected the saved object that forward', () =>
      layer.backward({ dy: gradient(), saved: saved as never, dx }),
    )
    expectSameBits('dx', await numbersOf(dx), x)
  })

  it('rejects objects that only look like a model', async () => {
    const model = make(1, ['q'])
    for (const forged of [new Proxy(model, {}), Object.create(LilyModel.prototype)]) {
      await expectRefused('ERR_LILY_ARGUMENT', 'model: expected a LilyModel', () =>
        new LilyAdapters().addAdapter('one', forged as LilyModel),
      )
    }
  })

  it('rejects invalid calls and writes nothing', async () => {
    const { set } = both()
    await expectRefused('ERR_LILY_ARGUMENT', 'one', () => set.addAdapter('one', make(1, ['q'])))
    await expectRefused('ERR_LILY_ARGUMENT', 'name', () => set.addAdapter('a.b', make(1, ['q'])))
    await expectRefused('ERR_LILY_ARGUMENT', 'name', () => set.addAdapter('', make(1, ['q'])))
    await expectRefused('ERR_LILY_ARGUMENT', 'model', () => set.addAdapter('three', {} as never))
    const again = set.adapters.get('two') as LilyModel
    await expectRefused('ERR_LILY_ARGUMENT', "model: expected each model once, got the model of adapter 'two'", () =>
      set.addAdapter('three', again),
    )
    const gone = make(1, ['q'])
    gone.dispose()
    const disposed = await expectRefused('ERR_LILY_DISPOSED', 'model: this model is disposed of', () =>
      set.addAdapter('three', gone),
    )
    expect(disposed.argument).toBe('model')
    const other = createModel({ layers: [{ name: 'q', inFeatures: dIn, outFeatures: 1 }], config: { r: 2 } })
    await expectRefused('ERR_LILY_SHAPE', 'model', () => set.addAdapter('three', other))
    await expectRefused('ERR_LILY_ARGUMENT', 'three', () => set.setAdapter(['one', 'three']))
    await expectRefused('ERR_LILY_ARGUMENT', 'twice', () => set.setAdapter(['one', 'one']))
    await expectRefused('ERR_LILY_ARGUMENT', 'three', () => set.deleteAdapter('three'))
    await expectRefused('ERR_LILY_ARGUMENT', "got 'k'", () => set.layer('k'))
    expect(set.activeAdapters).toEqual(['one'])

    set.setAdapter(['one', 'two'])
    const layer = set.layer('q')
    await expectRefused('ERR_LILY_ARGUMENT', 'y', () => layer.forward({ x: input(), y: undefined as never }))
    const { saved } = layer.forward({ x: input(), y: output() })
    await expectRefused('ERR_LILY_ARGUMENT', 'dx: is required, got undefined; pass the base layer', () =>
      layer.backward({ dy: gradient(), saved }),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () =>
      layer.backward({ dy: gradient(), saved: {} as never, dx: input() }),
    )

    const two = set.adapters.get('two')
    two?.freeze('uniform')
    two?.merge('q', place(new Float32Array(dOut * dIn), [dOut, dIn]))
    const y = output()
    await expectRefused('ERR_LILY_ARGUMENT', 'merged', () => layer.forward({ x: input(), y }))
    expectSameBits('y', await numbersOf(y), base)
    set.setAdapter('one').addAdapter('half', createModel({ layers, config: { r: 2 }, dtype: 'bfloat16' }))
    set.setAdapter(['one', 'half'])
    await expectRefused('ERR_LILY_ARGUMENT', 'half', () => layer.forward({ x: input(), y }))
    expectSameBits('y', await numbersOf(y), base)

    const values = Array.from(set.parameters().values(), ({ value }) => value)
    set.dispose()
    expect(values.every(({ isDisposed }) => isDisposed)).toBe(true)
    expect(set.adapters.size).toBe(0)
  })
})
