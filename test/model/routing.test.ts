/**
 * Routing, pool and activation of a model's config: in calls, in files, and where a layer is merged.
 *
 * @project cpu wasm webgpu cuda
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  type AdapterModel,
  type LayerForwardOptions,
  LilyAdapters,
  type LilyConfigOptions,
  type LilyLayer,
  LilyModel,
  tensor,
} from '../../lib/index.js'
import { backward, forward, type Problem } from '../support/reference.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { createLora, createModel, moved, numbersOf, place } from '../support/model.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'
import { temporaryFolder } from '../support/temporary.js'

type Modes = Pick<LilyConfigOptions, 'routing' | 'pool' | 'activation'>

const [dIn, dOut, rank, experts, scaling] = [6, 5, 3, 4, 2]
const [sequences, length] = [3, 7]
const tokens = sequences * length
const layers = ['0.q', '1.q'].map((name) => ({ name, inFeatures: dIn, outFeatures: dOut }))
const config = { r: rank, numB: experts, strideA: 2, scaling, initWeights: false, targetModules: ['q'] }
/** Models of the same parameters. */
const modelOf = (modes: Modes = {}) => createModel({ layers, config: { ...config, ...modes }, seed: 5 })

const random = randomFrom(6)
// Large enough that the modes differ clearly.
const x = gaussian(random, tokens * dIn, 3)
const dy = gaussian(random, tokens * dOut)
const input = () => place(x, [sequences, length, dIn])
const gradient = () => place(dy, [sequences, length, dOut])

/** Every combination, beside the keys that adapter_config.json then has. */
const combinations: [Modes, Record<string, string>][] = (['batch', 'sequence', 'token', 'uniform'] as const).flatMap(
  (routing) =>
    (['none', 'relu'] as const).flatMap((activation) =>
      (routing === 'batch' || routing === 'sequence' ? (['probabilities', 'logits'] as const) : [undefined]).map(
        (pool): [Modes, Record<string, string>] => [
          { routing, activation, pool },
          {
            ...(routing !== 'batch' && { lily_routing: routing }),
            ...(pool === 'logits' && { lily_pool: pool }),
            ...(activation === 'relu' && { lily_activation: activation }),
          },
        ],
      ),
    ),
)

async function problemOf({ a, router, b }: LilyLayer, { routing = 'batch', pool, activation }: Modes) {
  const [ofA, ofRouter, ofB] = await Promise.all([a, router, b].map(({ value }) => numbersOf(value)))
  const sizes = { tokens, dIn, dOut, rank, experts, scaling }
  const offsets = routing === 'sequence' ? [0, length, 2 * length, tokens] : undefined
  return { ...sizes, routing, pool, activation, x, a: ofA, router: ofRouter, b: ofB, offsets } satisfies Problem
}

describe('a call has the modes of the config', () => {
  it.each(combinations)('%o', async (modes) => {
    const layer = modelOf(modes).layer('1.q')
    const problem = await problemOf(layer, modes)
    const expected = forward(problem)
    const { y, saved } = layer.forward({ x: input() })
    expect(relativeError(await numbersOf(y), expected.y.value)).toBeLessThan(1e-6)
    const gradients = backward(problem, expected, dy)
    const dx = layer.backward({ dy: gradient(), saved })
    expect(relativeError(await numbersOf(dx), gradients.dx.value)).toBeLessThan(2e-6)
    expect(relativeError(await numbersOf(layer.router.grad), gradients.dRouter.value)).toBeLessThan(2e-5)
    expect(layer.routing).toBe(modes.routing)
  })

  it('and other modes only if it saves nothing', async () => {
    const model = modelOf({ routing: 'sequence', pool: 'logits' })
    const layer = model.layer('0.q')
    const others: [string, LayerForwardOptions, Modes][] = [
      ['routing', { routing: 'batch' }, { routing: 'batch', pool: 'logits' }],
      // Of the config's pool only what pools.
      ['routing', { routing: 'token' }, { routing: 'token' }],
      ['routing', { routing: 'uniform' }, { routing: 'uniform' }],
      ['pool', { pool: 'probabilities' }, { routing: 'sequence' }],
      ['activation', { activation: 'relu' }, { routing: 'sequence', pool: 'logits', activation: 'relu' }],
    ]
    for (const [name, options, modes] of others) {
      const y = place(dy, [sequences, length, dOut])
      const message = `; set ${name} in the config of LilyModel, or lily_${name} in adapter_config.json, or pass save: false`
      const error = await expectRefused('ERR_LILY_ARGUMENT', message, () => layer.forward({ x: input(), y }, options))
      expect(error.argument).toBe(name)
      expectSameBits('y', await numbersOf(y), dy)
      const { y: evaluated } = layer.forward({ x: input() }, { ...options, save: false })
      const expected = forward(await problemOf(layer, modes)).y.value
      expect(relativeError(await numbersOf(evaluated), expected)).toBeLessThan(1e-6)
    }
    // The same modes are accepted.
    layer.forward({ x: input() }, { routing: 'sequence', pool: 'logits', activation: 'none' })
  })

  it("of a frozen layer is 'fixed', or uses the router with the routing of the config", async () => {
    const model = modelOf({ routing: 'sequence', pool: 'logits', activation: 'relu' })
    const layer = model.layer('0.q')
    const fixed = { routing: 'fixed', weights: [1, 2, 3, 4] } as const
    await expectRefused('ERR_LILY_ARGUMENT', "got 'fixed'; freeze the model, or pass save: false", () =>
      layer.forward({ x: input() }, fixed),
    )
    model.freeze({ '0.q': fixed.weights })
    expect([layer.routing, model.layer('1.q').routing]).toEqual(['fixed', 'sequence'])
    const frozen = { ...(await problemOf(layer, { activation: 'relu' })), routing: 'fixed', weights: fixed.weights }
    const expected = forward(frozen as Problem).y.value
    for (const options of [{}, fixed]) {
      const { y } = layer.forward({ x: input() }, options)
      expect(relativeError(await numbersOf(y), expected)).toBeLessThan(1e-6)
    }
    const routed = forward(await problemOf(layer, { routing: 'sequence', pool: 'logits', activation: 'relu' })).y.value
    const { y } = layer.forward({ x: input() }, { routing: 'sequence' })
    expect(relativeError(await numbersOf(y), routed)).toBeLessThan(1e-6)
    await expectRefused('ERR_LILY_ARGUMENT', "routing: expected 'fixed', the routing of the layer", () =>
      layer.forward({ x: input() }, { routing: 'token' }),
    )
  })

  it('of each of several adapters', async () => {
    const [one, two] = [{ routing: 'sequence' }, { routing: 'token', activation: 'relu' }] as const
    const loraConfig = { r: 2, initLoraWeights: false }
    const [lora, alone] = [1, 1].map((seed) => createLora({ layers, config: loraConfig, seed }))
    const adapters = new LilyAdapters()
    adapters.addAdapter('one', modelOf(one)).addAdapter('two', modelOf(two)).addAdapter('lora', lora)
    adapters.setAdapter(['one', 'two', 'lora'])
    const y = place(dy, [sequences, length, dOut])
    const expected = place(dy, [sequences, length, dOut])
    const { saved } = adapters.layer('0.q').forward({ x: input(), y })
    const models: AdapterModel[] = [modelOf(one), modelOf(two), alone]
    for (const model of models) model.layer('0.q').forward({ x: input(), y: expected })
    expectSameBits('y', await numbersOf(y), await numbersOf(expected))
    expect([...saved.calls.values()].map(({ routing }) => routing)).toEqual(['sequence', 'token', 'none'])
    await expectRefused('ERR_LILY_ARGUMENT', "routing: expected 'token'", () =>
      adapters.setAdapter(['one', 'two']).layer('0.q').forward({ x: input(), y }, { routing: 'sequence' }),
    )
    expectSameBits('y of a refused call', await numbersOf(y), await numbersOf(expected))
  })
})

describe('the config', () => {
  it.each<[LilyConfigOptions, string]>([
    [
      { routing: 'fixed' as never },
      "routing: expected one of 'batch', 'sequence', 'token', 'uniform', 'learned', got 'fixed'",
    ],
    [
      { routing: 'all' as never },
      "routing: expected one of 'batch', 'sequence', 'token', 'uniform', 'learned', got 'all'",
    ],
    [{ pool: 'mean' as never }, 'pool: expected one of'],
    [{ activation: 'gelu' as never }, 'activation: expected one of'],
    [{ routing: 'token', pool: 'logits' }, "pool: does not go with routing 'token'"],
    [{ routing: 'uniform', pool: 'logits' }, "pool: does not go with routing 'uniform'"],
    [{ routing: 'learned', pool: 'logits' }, "pool: does not go with routing 'learned'"],
  ])('%o is refused', async (wrong, message) => {
    await expectRefused('ERR_LILY_ARGUMENT', message, () => LilyModel.create({ layers, config: wrong }))
  })

  it.each(combinations)('%o is saved and read', async (modes, keys) => {
    const model = modelOf(modes)
    const folder = temporaryFolder()
    const expected = await numbersOf(model.layer('1.q').forward({ x: input() }, { save: false }).y)
    await model.toHost()
    for (const format of ['peft', 'compact'] as const) {
      await model.savePretrained(folder, { format })
      const fields = JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8')) as object
      expect(Object.fromEntries(Object.entries(fields).filter(([name]) => name.startsWith('lily_')))).toEqual(keys)
      const read = await LilyModel.fromPretrained(folder)
      expect(read.config).toEqual(model.config)
      expectSameBits('y', await numbersOf(moved(read).layer('1.q').forward({ x: input() }).y), expected)
      expect(read.adapterConfig).toEqual(fields)
    }
  })
})

describe("routing 'uniform'", () => {
  it('trains no router', () => {
    const model = modelOf({ routing: 'uniform' })
    expect([...model.parameters().keys()]).toEqual(['0.q.lily_A.weight', '0.q.lily_B.weight'])
    model.freeze('uniform')
    model.unfreeze()
    expect(model.parameters().size).toBe(2)
  })

  it('is merged and exported without freezing', async () => {
    const model = modelOf({ routing: 'uniform' })
    const weight = place(new Float32Array(dOut * dIn), [dOut, dIn])
    model.merge('0.q', weight)
    const merged = await numbersOf(weight)
    const expected = forward(await problemOf(model.layer('0.q'), { routing: 'uniform' })).y.value
    const { layers: matrices } = await model.exportLora()
    const { a, b } = matrices.get('0.q')!
    const [ofA, ofB] = [a.data as Float32Array, b.data as Float32Array]
    const product = (weightAt: (o: number, i: number) => number) =>
      Array.from({ length: tokens * dOut }, (_, at) => {
        const [t, o] = [Math.floor(at / dOut), at % dOut]
        return x.subarray(t * dIn, (t + 1) * dIn).reduce((sum, value, i) => sum + value * weightAt(o, i), 0)
      })
    const ofMerged = product((o, i) => merged[o * dIn + i])
    const update = (o: number, i: number) =>
      [0, 1, 2].reduce((sum, k) => sum + ofB[o * rank + k] * ofA[k * dIn + i], 0) * scaling
    expect(relativeError(ofMerged, expected)).toBeLessThan(1e-6)
    expect(relativeError(product(update), expected)).toBeLessThan(1e-6)
  })
})

it("activation 'relu' is neither merged nor exported", async () => {
  const model = modelOf({ activation: 'relu' })
  model.freeze('uniform')
  const weight = tensor(new Float32Array(dOut * dIn), [dOut, dIn]).to(model.device)
  const message = "expected a model with activation 'none', got 'relu'"
  await expectRefused('ERR_LILY_ARGUMENT', `name: ${message}`, () => model.merge('0.q', weight))
  expectSameBits('weight', await numbersOf(weight), new Float32Array(dOut * dIn))
  await expectRefused('ERR_LILY_ARGUMENT', `model: ${message}`, () => model.exportLora())
  await expectRefused('ERR_LILY_ARGUMENT', `model: ${message}`, () => model.loraFiles())
})
