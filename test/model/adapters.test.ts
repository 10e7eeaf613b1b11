/** Several adapters on one model. */
import { describe, expect, it } from 'vitest'
import { LilyAdapters, type LilyModel } from '../../lib/index.js'
import { expectSameBits } from '../support/compare.js'
import { createModel, numbersOf, place } from '../support/model.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../support/refused.js'

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
function both(): { set: LilyAdapters; one: LilyModel; two: LilyModel } {
  const set = new LilyAdapters().addAdapter('one', make(1, ['q', 'v'])).addAdapter('two', make(2, ['q'], 3))
  return { set, one: make(1, ['q', 'v']), two: make(2, ['q'], 3) }
}

describe('LilyAdapters', () => {
  it('sums the outputs of the active adapters', async () => {
    const { set, one, two } = both()
    const [ofOne, ofBoth] = [output(), output()]
    one.layer('q').forward(input(), ofOne)
    one.layer('q').forward(input(), ofBoth)
    two.layer('q').forward(input(), ofBoth)
    const run = async (layer = 'q') => {
      const y = output()
      expect(set.layer(layer).forward(input(), y).y).toBe(y)
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
    const { saved } = set.layer('q').forward(input(), output())
    expect([...saved.calls.keys()]).toEqual(['one', 'two'])
    const dx = place(x, [tokens, dIn])
    // A later selection does not affect calls that have run.
    set.setAdapter('two')
    expect(set.layer('q').backward(gradient(), saved, { dx })).toBe(dx)

    const expected = place(x, [tokens, dIn])
    for (const model of [one, two]) {
      const layer = model.layer('q')
      layer.backward(gradient(), layer.forward(input()).saved, { dx: expected })
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
    expect(set.layer('q').backward(gradient(), saved, { needs: { dx: false } })).toBeUndefined()
    saved.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'saved', () => set.layer('q').backward(gradient(), saved, { dx }))
  })

  it('rejects invalid calls and writes nothing', async () => {
    const { set } = both()
    await expectRefused('ERR_LILY_ARGUMENT', 'one', () => set.addAdapter('one', make(1, ['q'])))
    await expectRefused('ERR_LILY_ARGUMENT', 'name', () => set.addAdapter('a.b', make(1, ['q'])))
    await expectRefused('ERR_LILY_ARGUMENT', 'model', () => set.addAdapter('three', {} as never))
    const other = createModel({ layers: [{ name: 'q', inFeatures: dIn, outFeatures: 1 }], config: { r: 2 } })
    await expectRefused('ERR_LILY_SHAPE', 'model', () => set.addAdapter('three', other))
    await expectRefused('ERR_LILY_ARGUMENT', 'three', () => set.setAdapter(['one', 'three']))
    await expectRefused('ERR_LILY_ARGUMENT', 'twice', () => set.setAdapter(['one', 'one']))
    await expectRefused('ERR_LILY_ARGUMENT', 'three', () => set.deleteAdapter('three'))
    await expectRefused('ERR_LILY_ARGUMENT', 'k', () => set.layer('k'))
    expect(set.activeAdapters).toEqual(['one'])

    set.setAdapter(['one', 'two'])
    const layer = set.layer('q')
    await expectRefused('ERR_LILY_ARGUMENT', 'y', () => layer.forward(input(), undefined as never))
    const { saved } = layer.forward(input(), output())
    await expectRefused('ERR_LILY_ARGUMENT', 'dx', () => layer.backward(gradient(), saved))
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => layer.backward(gradient(), {} as never, { dx: input() }))

    const two = set.adapters.get('two')
    two?.freeze('uniform')
    two?.merge('q', place(new Float32Array(dOut * dIn), [dOut, dIn]))
    const y = output()
    await expectRefused('ERR_LILY_ARGUMENT', 'merged', () => layer.forward(input(), y))
    expectSameBits('y', await numbersOf(y), base)
    set.setAdapter('one').addAdapter('half', createModel({ layers, config: { r: 2 }, dtype: 'bfloat16' }))
    set.setAdapter(['one', 'half'])
    await expectRefused('ERR_LILY_ARGUMENT', 'half', () => layer.forward(input(), y))
    expectSameBits('y', await numbersOf(y), base)

    const values = Array.from(set.parameters().values(), ({ value }) => value)
    set.dispose()
    expect(values.every(({ isDisposed }) => isDisposed)).toBe(true)
    expect(set.adapters.size).toBe(0)
  })
})
