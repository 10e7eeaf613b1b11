/**
 * Mixtures that are learned, routing 'learned': calls, training, files, merging and serving.
 *
 * @project cpu wasm webgpu cuda
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  AdamW,
  LilyAdapters,
  type LilyConfigOptions,
  type LilyLayer,
  LilyModel,
  linearForward,
  LoraModel,
  type Routing,
} from '../../lib/index.js'
import { expectRefused } from '../refusals/refused.js'
import { backend, isEmulated, isWebGpu } from '../support/backend.js'
import { newFolder } from '../support/checkpoint.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { createLora, createModel, moved, numbersOf, place, runChain, setValues } from '../support/model.js'
import { gaussian, randomFrom } from '../support/random.js'
import { backward, forward, type Problem } from '../support/reference.js'

const [tokens, dIn, dOut, rank, experts, scaling] = [9, 6, 5, 3, 4, 2]
const layers = ['0.q', '1.q'].map((name) => ({ name, inFeatures: dIn, outFeatures: dOut }))
const config = {
  r: rank,
  numB: experts,
  strideA: 2,
  scaling,
  initWeights: false,
  routing: 'learned',
  targetModules: ['q'],
} satisfies LilyConfigOptions
const modelOf = (other: Partial<LilyConfigOptions> = {}) =>
  createModel({ layers, config: { ...config, ...other }, seed: 5 })

const random = randomFrom(6)
const x = gaussian(random, tokens * dIn)
const dy = gaussian(random, tokens * dOut)
const input = () => place(x, [tokens, dIn])
const gradient = () => place(dy, [tokens, dOut])
const output = (layer: LilyLayer) => numbersOf(layer.forward({ x: input() }, { save: false }).y)

async function problemOf({ a, router, b }: LilyLayer): Promise<Problem> {
  const [ofA, ofRouter, ofB] = await Promise.all([a, router, b].map(({ value }) => numbersOf(value)))
  return { tokens, dIn, dOut, rank, experts, scaling, routing: 'learned', x, a: ofA, router: ofRouter, b: ofB }
}

describe('a layer', () => {
  it('has the mixture of its logits, and their gradients add up', async () => {
    const model = modelOf()
    for (const layer of model.layers.values()) {
      const problem = await problemOf(layer)
      const expected = forward(problem)
      const { y, saved } = layer.forward({ x: input() })
      expect(relativeError(await numbersOf(y), expected.y.value)).toBeLessThan(1e-6)
      expect(relativeError(await numbersOf(saved.weights), expected.weights.value)).toBeLessThan(1e-6)
      expect([layer.routing, saved.routing, saved.probabilities]).toEqual(['learned', 'learned', undefined])
      const gradients = backward(problem, expected, dy)
      layer.backward({ dy: gradient(), saved }, { retain: true })
      const dx = layer.backward({ dy: gradient(), saved })
      expect(relativeError(await numbersOf(dx), gradients.dx.value)).toBeLessThan(2e-6)
      expect(layer.router.grad.shape).toEqual([experts, 1])
      const twice = gradients.dRouter.value.map((value) => 2 * value)
      expect(relativeError(await numbersOf(layer.router.grad), twice)).toBeLessThan(2e-5)
      layer.b.zeroGrad()
      layer.a.zeroGrad()
    }
  })

  it('has no other routing that uses a router, and a layer with a router has no logits: of rank 1 the shapes agree', async () => {
    const refused = async (layer: LilyLayer, routing: Routing, message: string) => {
      const error = await expectRefused('ERR_LILY_ARGUMENT', `${message}, got '${routing}', but`, () =>
        layer.forward({ x: input() }, { routing, save: false }),
      )
      expect(error.argument).toBe('routing')
    }
    const learned = modelOf({ r: 1 }).layer('0.q')
    for (const routing of ['batch', 'token'] as const) {
      await refused(learned, routing, "expected 'learned', 'uniform' or 'fixed'")
    }
    await refused(
      modelOf({ r: 1, routing: 'token' }).layer('0.q'),
      'learned',
      "expected one with a router, 'uniform' or 'fixed'",
    )
    const weights = [0.1, 0.2, 0.3, 0.4]
    const { y } = learned.forward({ x: input() }, { routing: 'fixed', weights, save: false })
    const { dropout: _, ...problem } = await problemOf(learned)
    const expected = forward({ ...problem, rank: 1, routing: 'fixed', weights, router: undefined }).y.value
    expect(relativeError(await numbersOf(y), expected)).toBeLessThan(1e-6)
  })

  it('that is frozen has constant weights and untrained logits, until it is not', async () => {
    const model = modelOf()
    const layer = model.layer('0.q')
    const before = await output(layer)
    expect(model.parameters().has('0.q.lily_router.weight')).toBe(true)
    model.freeze({ '0.q': [1, 0, 0, 0] })
    expect([layer.routing, model.parameters().has('0.q.lily_router.weight')]).toEqual(['fixed', false])
    const problem = { ...(await problemOf(layer)), routing: 'fixed', weights: [1, 0, 0, 0] } as const
    expect(relativeError(await output(layer), forward(problem).y.value)).toBeLessThan(1e-6)
    model.unfreeze()
    expectSameBits('y', await output(layer), before)
  })

  it('is not calibrated, as its weights depend on no input', async () => {
    const message = "samples: expected a model with routers, got one with routing 'learned'"
    await expectRefused('ERR_LILY_ARGUMENT', message, () => modelOf().calibrate({ '0.q': [input()] }))
  })
})

const width = 8
const square = [0, 1].map((l) => ({ name: `${l}.proj`, inFeatures: width, outFeatures: width }))
const count = isEmulated || isWebGpu ? 15 : 60

it('AdamW trains the logits: the loss falls, and the mixtures of the layers differ', async () => {
  const training = { r: 4, numB: 3, scaling: 2, routing: 'learned', targetModules: ['proj'] } as const
  const shape = [12, width]
  const data = gaussian(randomFrom(3), 12 * width)
  const none = new Float32Array(data.length)
  // A teacher whose layers have one expert each.
  const teacher = createModel({ layers: square, config: training, seed: 1 })
  await setValues(teacher, (name, index) =>
    name.endsWith('router.weight') ? (index === Number(name[0]) ? 8 : 0) : Math.sin(7 * index + name.length) / 2,
  )
  const target = (await runChain(teacher, data, shape, none)).outputs[1]

  // Experts that differ, with equal weights.
  const model = LilyModel.create({ layers: square, config: { ...training, initWeights: false }, seed: 2 })
  for (const { router } of model.layers.values()) (router.value.data as Float32Array).fill(0)
  moved(model)
  const optimiser = new AdamW(model.parameters(), { lr: 0.03 })
  const losses: number[] = []
  for (let step = 0; step < count; step++) {
    const difference = (await runChain(model, data, shape, none)).outputs[1].map((value, i) => value - target[i])
    losses.push(difference.reduce((sum, value) => sum + value * value, 0))
    model.zeroGrad()
    await runChain(model, data, shape, difference)
    optimiser.step()
  }
  expect(losses.at(-1)! / losses[0]).toBeLessThan(isEmulated || isWebGpu ? 0.7 : 0.3)
  const [first, second] = await Promise.all(square.map(({ name }) => numbersOf(model.layer(name).router.value)))
  expect(relativeError(first, second)).toBeGreaterThan(0.05)
})

describe('merged and exported without freezing', () => {
  it('is the layer itself but for the rounding of a product', async () => {
    const model = modelOf()
    const layer = model.layer('1.q')
    const beside = await output(layer)
    const weight = place(new Float32Array(dOut * dIn), [dOut, dIn])
    model.merge('1.q', weight)
    const merged = await numbersOf(linearForward({ x: input(), weight }).y)
    expect(relativeError(merged, beside)).toBeLessThan(5e-7)

    const { r, scaling: factor, layers: matrices } = await model.exportLora()
    const { a, b } = matrices.get('1.q')!
    const [ofA, ofB] = [await numbersOf(a), await numbersOf(b)]
    const update = Float64Array.from({ length: dOut * dIn }, (_, at) => {
      const [o, i] = [Math.floor(at / dIn), at % dIn]
      return factor * [0, 1, 2].reduce((sum, k) => sum + ofB[o * r + k] * ofA[k * dIn + i], 0)
    })
    expect(relativeError(await numbersOf(weight), update)).toBeLessThan(2e-7)
    // The mixture in float64.
    const problem = await problemOf(layer)
    const { value: w } = forward(problem).weights
    const combined = Float64Array.from(ofB, (_, at) => {
      const [o, k] = [Math.floor(at / rank), at % rank]
      return w.reduce((sum, weight, e) => sum + weight * problem.b[(e * rank + k) * dOut + o], 0)
    })
    expect(relativeError(ofB, combined)).toBeLessThan(1e-7)
    model.unmerge('1.q', weight)
    expect((await numbersOf(weight)).every((value) => value === 0)).toBe(true)

    const folder = newFolder()
    await model.saveLora(folder)
    const lora = moved(await LoraModel.fromPretrained(folder))
    const { y } = lora.layer('1.q').forward({ x: input() })
    expect(relativeError(await numbersOf(y), beside)).toBeLessThan(5e-7)
  })

  it('of 16-bit parameters, on the host into a weight in float32', async () => {
    if (backend !== 'cpu') return
    const model = createModel({ layers, config, seed: 5, dtype: 'bfloat16' })
    const weight = place(new Float32Array(dOut * dIn), [dOut, dIn])
    model.merge('0.q', weight)
    const { layers: matrices } = await model.exportLora()
    const { a, b } = matrices.get('0.q')!
    const [ofA, ofB] = [await numbersOf(a), await numbersOf(b)]
    const update = Float64Array.from({ length: dOut * dIn }, (_, at) => {
      const [o, i] = [Math.floor(at / dIn), at % dIn]
      return scaling * [0, 1, 2].reduce((sum, k) => sum + ofB[o * rank + k] * ofA[k * dIn + i], 0)
    })
    expect(relativeError(await numbersOf(weight), update)).toBeLessThan(2e-7)
  })

  it('refuses logits that are not finite', async () => {
    if (backend !== 'cpu') return
    const model = modelOf()
    model.layer('0.q').router.value.data[2] = NaN
    const weight = place(new Float32Array(dOut * dIn), [dOut, dIn])
    const message = '0.q.lily_router.weight: expected finite numbers'
    await expectRefused('ERR_LILY_ARGUMENT', message, () => model.merge('0.q', weight))
    expectSameBits('weight', await numbersOf(weight), new Float32Array(dOut * dIn))
    await expectRefused('ERR_LILY_CHECKPOINT', 'lora_B.weight', () => model.saveLora(newFolder()))
  })
})

describe('files', () => {
  it('in the compact format have the logits; PEFT cannot have them', async () => {
    const model = modelOf()
    const expected = await output(model.layer('1.q'))
    const folder = newFolder()
    await model.savePretrained(folder, { format: 'compact' })
    const fields = JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8')) as Record<string, unknown>
    expect(fields.lily_routing).toBe('learned')
    const read = moved(await LilyModel.fromPretrained(folder))
    expect(read.config).toEqual(model.config)
    expectSameBits('y', await output(read.layer('1.q')), expected)

    const message =
      "expected routers, as PEFT has, got routing 'learned'; export the adapter as LoRA with saveLora, which is exact, or " +
      "save it in the format 'compact'"
    const before = readFileSync(join(folder, 'adapter_config.json'))
    for (const each of [model, read]) {
      await expectRefused('ERR_LILY_CHECKPOINT', message, () => each.savePretrained(folder))
      await expectRefused('ERR_LILY_CHECKPOINT', message, () => each.pretrainedFiles())
    }
    expect(readFileSync(join(folder, 'adapter_config.json'))).toEqual(before)
  })
})

it('serves beside others: each row has the bits of its adapter alone', async () => {
  const [learned, token] = [modelOf(), modelOf({ routing: 'token' })]
  const lora = createLora({ layers, config: { r: 2, initLoraWeights: false }, seed: 1 })
  const adapters = new LilyAdapters()
  adapters.addAdapter('learned', learned).addAdapter('token', token).addAdapter('lora', lora)
  const rows = Array.from({ length: tokens }, (_, t) => [null, 'learned', 'lora', 'learned', 'token'][t % 5])
  const y = place(new Float32Array(tokens * dOut), [tokens, dOut])
  const { saved } = adapters.layer('0.q').forward({ x: input(), y }, { rows })
  const dx = place(new Float32Array(tokens * dIn), [tokens, dIn])
  adapters.layer('0.q').backward({ dy: gradient(), saved, dx })
  const [together, gradients] = [await numbersOf(y), await numbersOf(dx)]

  const at = rows.flatMap((name, t) => (name === 'learned' ? [t] : []))
  const pick = (of: Float32Array, columns: number) =>
    Float32Array.from(at.flatMap((t) => [...of.subarray(t * columns, (t + 1) * columns)]))
  const alone = modelOf()
  const layer = alone.layer('0.q')
  const call = layer.forward({ x: place(pick(x, dIn), [at.length, dIn]) })
  expectSameBits('y', pick(together, dOut), await numbersOf(call.y))
  const own = layer.backward({ dy: place(pick(dy, dOut), [at.length, dOut]), saved: call.saved })
  expectSameBits('dx', pick(gradients, dIn), await numbersOf(own))
  const ofRows = await numbersOf(learned.layer('0.q').router.grad)
  expect(relativeError(ofRows, await numbersOf(layer.router.grad))).toBeLessThan(1e-6)
})
