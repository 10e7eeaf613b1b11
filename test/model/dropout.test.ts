/**
 * Dropout of the layers of a model: when it acts, its state, and a training that goes on from a file with the same bits. The
 * expected numbers are those of the reference with the mask of the model's state.
 *
 * @project cpu wasm webgpu cuda
 */
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  AdamW,
  type AdapterModel,
  type AdapterModelClass,
  dropoutState,
  LilyAdapters,
  LilyModel,
  LoraModel,
  readPretrainedState,
} from '../../lib/index.js'
import { packageRoot } from '../../lib/binding/root.js'
import { expectRefused } from '../refusals/refused.js'
import { backend } from '../support/backend.js'
import { newFolder, readFields, withFields } from '../support/checkpoint.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { createLora, createModel, moved, numbersOf, place } from '../support/model.js'
import { gaussian, randomFrom } from '../support/random.js'
import { backward, forward, type Problem } from '../support/reference.js'

const [tokens, dIn, dOut, rank, experts, rate] = [7, 19, 6, 3, 2, 0.3]
const layers = ['0.q', '1.q'].map((name) => ({ name, inFeatures: dIn, outFeatures: dOut }))
const lilyConfig = { r: rank, numB: experts, dropout: rate, initWeights: false }
const loraConfig = { r: rank, loraAlpha: rank, loraDropout: rate, initLoraWeights: false }
const kinds: [string, AdapterModelClass, object, () => AdapterModel][] = [
  ['Lily', LilyModel, lilyConfig, () => createModel({ layers, config: lilyConfig, seed: 5 })],
  ['LoRA', LoraModel, loraConfig, () => createLora({ layers, config: loraConfig, seed: 5 })],
]

const random = randomFrom(8)
const x = gaussian(random, tokens * dIn)
const dy = gaussian(random, tokens * dOut)
const input = () => place(x, [tokens, dIn])
const gradient = () => place(dy, [tokens, dOut])
const words = async ({ dropoutState: state }: AdapterModel) => (await state.toHost()).data
const output = async (model: AdapterModel, options?: { save: false }) =>
  numbersOf(model.layer('0.q').forward({ x: input() }, options).y)

/** The problem of a layer; without a draw there is no dropout. */
async function problemOf(model: AdapterModel, name: string, draw: Int32Array | null): Promise<Problem> {
  const layer = model.layer(name)
  const [a, b] = [await numbersOf(layer.a.value), await numbersOf(layer.b.value)]
  const dropout = draw === null ? undefined : { rate, draw }
  const sizes = { tokens, dIn, dOut, rank, x, a, b, dropout }
  if (!(model instanceof LilyModel)) return { ...sizes, routing: 'lora', experts: 1 }
  return { ...sizes, routing: 'batch', experts, router: await numbersOf(model.layer(name).router.value) }
}

describe.each(kinds)('%s', (_, Model, config, create) => {
  it('drops the elements that the state says, in forward and in backward, and each call draws anew', async () => {
    const model = create()
    expect(await words(model)).toEqual(dropoutState(5))
    const calls = ['0.q', '1.q', '0.q'].map((name) => ({ name, ...model.layer(name).forward({ x: input() }) }))
    expect(await words(model)).toEqual(dropoutState(5, 3))
    for (const [position, { name, y, saved }] of calls.entries()) {
      const problem = await problemOf(model, name, dropoutState(5, position))
      const expected = forward(problem)
      expect(relativeError(await numbersOf(y), expected.y.value)).toBeLessThan(1e-6)
      model.zeroGrad()
      const dx = model.layer(name).backward({ dy: gradient(), saved })
      const gradients = backward(problem, expected, dy)
      expect(relativeError(await numbersOf(dx), gradients.dx.value)).toBeLessThan(2e-6)
      expect(relativeError(await numbersOf(model.layer(name).a.grad), gradients.da.value)).toBeLessThan(2e-6)
    }
    expect(await words(model), 'backward draws nothing').toEqual(dropoutState(5, 3))
  })

  it('acts only while the model trains, and in calls that save for backward', async () => {
    const model = create()
    const plain = forward(await problemOf(model, '0.q', null)).y.value
    const isPlain = (y: Float32Array) => relativeError(y, plain) < 1e-6
    expect(model.training).toBe(true)
    expect(isPlain(await output(model, { save: false }))).toBe(true)
    expect(model.eval()).toBe(model)
    expect([model.training, isPlain(await output(model))]).toEqual([false, true])
    expect(await words(model), 'nothing was drawn').toEqual(dropoutState(5))

    const files = await (await model.toHost()).pretrainedFiles()
    const read = moved(await Model.fromPretrained(files, { seed: 9 }))
    expect([read.training, isPlain(await output(read))]).toEqual([false, true])
    expect(read.train()).toBe(read)
    const dropped = forward(await problemOf(read, '0.q', dropoutState(9))).y.value
    expect(relativeError(await output(read), dropped)).toBeLessThan(1e-6)
    expect(relativeError(dropped, plain)).toBeGreaterThan(0.1)
  })

  it('goes on with the same bits from a file as without', async () => {
    const target = gaussian(randomFrom(9), tokens * dOut)
    const options = { lr: 0.05 }
    const steps = async (model: AdapterModel, optimiser: AdamW, count: number) => {
      for (let i = 0; i < count; i++) {
        for (const layer of model.layers.values()) {
          const { y, saved } = layer.forward({ x: input() })
          const difference = (await numbersOf(y)).map((value, j) => value - target[j])
          layer.backward({ dy: place(difference, [tokens, dOut]), saved }, { needs: { dx: false } })
        }
        optimiser.step()
        model.zeroGrad()
      }
    }
    const values = (model: AdapterModel) => Promise.all([...model.parameters().values()].map((p) => numbersOf(p.value)))
    const model = create()
    const optimiser = new AdamW(model.parameters(), options)
    await steps(model, optimiser, 2)
    const folder = newFolder()
    await model.savePretrained(folder, { optimiser })
    await steps(model, optimiser, 2)
    expect(await words(model)).toEqual(dropoutState(5, 8))

    const resume = async (isRestored: boolean) => {
      const resumed = moved(await Model.fromPretrained(folder, { seed: 6 })).train()
      const again = new AdamW(resumed.parameters(), options)
      const { dropoutState: state } = resumed
      again.load(await readPretrainedState(folder, isRestored ? resumed : await Model.fromPretrained(folder)))
      expect(resumed.dropoutState === state).toBe(backend !== 'cuda' || !isRestored)
      await steps(resumed, again, 2)
      return resumed
    }
    const resumed = await resume(true)
    expect(await words(resumed)).toEqual(await words(model))
    for (const [i, value] of (await values(resumed)).entries()) expectSameBits(`${i}`, value, (await values(model))[i])
    const other = await values(await resume(false))
    expect(relativeError(other[0], (await values(model))[0]), 'the masks matter').toBeGreaterThan(1e-4)
  })

  it('is saved as it was when the save was called', async () => {
    const model = create()
    const saving = model.pretrainedFiles({ optimiser: new AdamW(model.parameters()) })
    await output(model)
    const files = await saving
    expect(await words(model)).toEqual(dropoutState(5, 1))
    const read = await Model.fromPretrained(files)
    await readPretrainedState(files, read)
    expect(await words(read)).toEqual(dropoutState(5))
  })

  it('has its state where the model is, on CUDA in device memory', async () => {
    const model = create()
    await output(model)
    expect(model.dropoutState.device.type).toBe(backend === 'cuda' ? 'cuda' : 'cpu')
    await model.toHost()
    expect(model.dropoutState.device.type).toBe('cpu')
    expect(model.dropoutState.data).toEqual(dropoutState(5, 1))
    moved(model)
    expect(await words(model)).toEqual(dropoutState(5, 1))
    model.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'model', () => model.dropoutState)
  })

  it('has a rate from 0 to below 1', async () => {
    const [name] = Object.keys(config).filter((key) => /dropout/i.test(key))
    for (const wrong of [-0.1, 1, NaN, '0.1', null, Infinity]) {
      const message = `${name}: expected a number that is at least 0 and below 1`
      await expectRefused('ERR_LILY_ARGUMENT', message, () => Model.create({ layers, config: { [name]: wrong } }))
    }
  })
})

it('calibrate has none', async () => {
  const model = createModel({ layers, config: lilyConfig, seed: 5 })
  const { relativeError: error } = await model.calibrate({ '0.q': [input()] })
  expect(error, 'one group has one mixture').toBeLessThan(1e-6)
  expect(await words(model)).toEqual(dropoutState(5))
})

it('each of several adapters has its own, which calls with rows refuse', async () => {
  const [one, two] = [createModel({ layers, config: lilyConfig, seed: 5 }), createLora({ layers, config: loraConfig })]
  const adapters = new LilyAdapters().addAdapter('one', one).addAdapter('two', two)
  adapters.setAdapter(['one', 'two'])
  const forwardOf = (options: object) =>
    adapters.layer('0.q').forward({ x: input(), y: place(new Float32Array(tokens * dOut), [tokens, dOut]) }, options)
  forwardOf({})
  expect([await words(one), (await words(two))[2]]).toEqual([dropoutState(5, 1), 1])
  const rows = new Array<string | null>(tokens).fill(null).fill('two', 3)
  const message = "rows: expected adapters without dropout, got 'two', which trains with it; call eval()"
  await expectRefused('ERR_LILY_ARGUMENT', message, () => forwardOf({ rows }))
  forwardOf({ rows, save: false })
  expect(adapters.eval()).toBe(adapters)
  forwardOf({ rows })
  forwardOf({})
  expect((await words(two))[2]).toBe(1)
  adapters.train()
  expect([one.training, two.training]).toEqual([true, true])
})

describe('files', () => {
  it("have PEFT's lora_dropout", async () => {
    const folder = join(packageRoot, 'test/fixtures/lora/plain')
    const model = await LoraModel.fromPretrained(folder)
    expect(model.config.loraDropout).toBe(0.05)
    const saved = newFolder()
    await LoraModel.create({ layers, config: loraConfig }).savePretrained(saved)
    expect(readFields(saved).lora_dropout).toBe(rate)
    for (const wrong of [1, -0.5, null, '0.1']) {
      const message = 'lora_dropout: expected a number that is at least 0 and below 1'
      const wrongFolder = withFields({ lora_dropout: wrong }, folder)
      await expectRefused('ERR_LILY_CHECKPOINT', message, () => LoraModel.fromPretrained(wrongFolder))
    }
  })

  it('have the key lily_dropout, which PEFT ignores, unless the rate is 0', async () => {
    for (const [dropout, key] of [[rate, rate] as const, [0, undefined] as const]) {
      for (const format of ['peft', 'compact'] as const) {
        const folder = newFolder()
        await LilyModel.create({ layers, config: { ...lilyConfig, dropout } }).savePretrained(folder, { format })
        expect(readFields(folder).lily_dropout).toBe(key)
        expect((await LilyModel.fromPretrained(folder)).config.dropout).toBe(dropout)
      }
    }
  })
})
