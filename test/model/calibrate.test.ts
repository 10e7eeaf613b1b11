/**
 * Weights pooled over samples and the error that they cause, compared with float64.
 *
 * @project cpu wasm webgpu cuda
 */
import { describe, expect, it, vi } from 'vitest'
import { AdamW, type LilyConfigOptions, type LilyLayer, tensor, Tensor } from '../../lib/index.js'
import { forward } from '../support/reference.js'
import { backend, isWebGpu } from '../support/backend.js'
import { relativeError } from '../support/compare.js'
import { createModel, numbersOf, place } from '../support/model.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'

const isHost = backend === 'cpu'

type Modes = Pick<LilyConfigOptions, 'routing' | 'pool' | 'activation'>

const [dIn, dOut, rank, experts, scaling] = [6, 5, 3, 4, 2]
const layers = ['0.q', '1.q'].map((name) => ({ name, inFeatures: dIn, outFeatures: dOut }))
const config = { r: rank, numB: experts, strideA: 2, scaling, initWeights: false }
/** Models of the same parameters. */
const modelOf = (modes: Modes = {}) => createModel({ layers, config: { ...config, ...modes }, seed: 5 })
const model = modelOf()
const random = randomFrom(6)
// Large enough that the weights differ clearly.
const samples = [7, 2, 12].map((tokens) => gaussian(random, tokens * dIn, 6))

/** Output and mean weights in float64, with the router (for one sequence or several) or with given weights. */
async function reference(
  layer: LilyLayer,
  x: Float32Array,
  sequences: number,
  { routing = 'batch', ...options }: Modes,
  weights?: Float32Array,
) {
  const [a, router, b] = await Promise.all([layer.a, layer.router, layer.b].map(({ value }) => numbersOf(value)))
  const tokens = x.length / dIn
  const offsets = Array.from({ length: sequences + 1 }, (_, g) => (g * tokens) / sequences)
  const sizes = { tokens, dIn, dOut, rank, experts, scaling, x, a, b, ...options }
  const result = forward({ ...sizes, ...(weights ? { routing: 'fixed', weights } : { routing, offsets, router }) })
  return { y: result.y.value, weights: result.weights.value }
}

async function check(
  layer: LilyLayer,
  calls: Float32Array[],
  sequences: number,
  result: Awaited<ReturnType<typeof model.calibrate>>,
  modes: Modes = {},
) {
  const found = result.layers.get(layer.name)
  const mean = new Float64Array(experts)
  const tokens = calls.reduce((sum, x) => sum + x.length / dIn, 0)
  const routed: number[] = []
  const frozen: number[] = []
  for (const x of calls) {
    const { y, weights } = await reference(layer, x, sequences, modes)
    const rows = weights.length / experts
    weights.forEach((weight, i) => (mean[i % experts] += (weight * (x.length / dIn / rows)) / tokens))
    routed.push(...y)
  }
  expect(found?.tokens).toBe(tokens)
  expect(relativeError(found?.weights ?? [], mean)).toBeLessThan(1e-6)
  expect(result.weights.get(layer.name)).toBe(found?.weights)
  for (const x of calls) frozen.push(...(await reference(layer, x, 1, modes, Float32Array.from(mean))).y)
  const error = relativeError(frozen, routed)
  // The error is well above rounding.
  expect(error).toBeGreaterThan(0.01)
  expect(Math.abs((found?.relativeError ?? NaN) / error - 1)).toBeLessThan(1e-5)
}

describe('calibrate', () => {
  it.each<Modes>([{}, { pool: 'logits' }, { activation: 'relu' }, { routing: 'token' }])(
    'pools over calls, weighted by their tokens, and measures the error of the output: %o',
    async (modes) => {
      const model = modelOf(modes)
      const calls = samples.map((x) => place(x, [x.length / dIn, dIn]))
      const result = await model.calibrate({ '0.q': calls, '1.q': calls.slice(1) })
      await check(model.layer('0.q'), samples, 1, result, modes)
      await check(model.layer('1.q'), samples.slice(1), 1, result, modes)
      const errors = Array.from(result.layers.values(), ({ relativeError: error }) => error)
      expect(result.relativeError).toBe(Math.max(...errors))
    },
  )

  it.each<Modes>([{}, { pool: 'logits' }])('pools sequences: %o', async ({ pool }) => {
    const modes = { routing: 'sequence', pool } as const
    const model = modelOf(modes)
    const calls = [samples[0].subarray(0, 6 * dIn), samples[2]]
    const tensors = calls.map((x) => place(x, [3, x.length / dIn / 3, dIn]))
    const result = await model.calibrate(new Map([['1.q', tensors]]))
    await check(model.layer('1.q'), calls, 3, result, modes)
  })

  it('gives no error for a single call, and weights that freeze accepts', async () => {
    const x = place(samples[0], [7, dIn])
    const all = await model.calibrate({ '0.q': [x] })
    await expectRefused('ERR_LILY_ARGUMENT', 'weights: expected weights [E] by layer name, got all', () =>
      model.freeze(all as never),
    )
    const { weights, relativeError: error } = all
    expect(error).toBeLessThan(1e-6)
    const routed = await numbersOf(model.layer('0.q').forward({ x }).y)
    model.freeze(weights)
    expect(relativeError(await numbersOf(model.layer('0.q').forward({ x }).y), routed)).toBeLessThan(1e-6)
    // Calibration uses the routers of a frozen model, too.
    expect((await model.calibrate({ '0.q': [x] })).weights).toEqual(weights)
    model.unfreeze()
  })

  it('rejects a sample with a NaN by its name', async ({ skip }) => {
    if (isWebGpu) skip('WGSL lets an implementation assume that there is no NaN')
    const message = "samples['0.q'][1]: expected weights of the experts that are finite"
    const calls = [place(samples[0], [7, dIn]), place([NaN, 1, 1, 1, 1, 1], [1, dIn])]
    await expectRefused('ERR_LILY_ARGUMENT', message, () => model.calibrate({ '0.q': calls }))
  })

  it('gives no error for an adapter with B = 0', async () => {
    const fresh = createModel({ layers, config: { ...config, initWeights: true }, seed: 5 })
    const { relativeError: error } = await fresh.calibrate({ '0.q': [place(samples[0], [7, dIn])] })
    expect(error).toBe(0)
  })

  it("rejects samples without sequences, and those of a model with routing 'uniform'", async () => {
    const calls = { '0.q': [place(samples[0], [7, dIn])] }
    const message = `samples['0.q'][0]: expected [B, N, ${dIn}] for routing 'sequence', got [7, ${dIn}]`
    await expectRefused('ERR_LILY_SHAPE', message, () => modelOf({ routing: 'sequence' }).calibrate(calls))
    const refused = "samples: expected a model with routers, got one with routing 'uniform'"
    await expectRefused('ERR_LILY_ARGUMENT', refused, () => modelOf({ routing: 'uniform' }).calibrate(calls))
  })

  it.each<[string, string, unknown]>([
    ['ERR_LILY_ARGUMENT', 'samples', {}],
    ['ERR_LILY_ARGUMENT', "samples: expected an adapted layer, such as '0.q', got '2.q'", { '2.q': [] }],
    ['ERR_LILY_ARGUMENT', 'samples', { '0.q': [] }],
    ['ERR_LILY_ARGUMENT', 'samples', { '0.q': place(samples[0], [7, dIn]) }],
    ['ERR_LILY_ARGUMENT', 'at least one token', { '0.q': [place([], [0, dIn])] }],
    ['ERR_LILY_SHAPE', "samples['0.q'][0]", { '0.q': [place(samples[0], [6, 7])] }],
  ])('rejects with %s of %s', async (code, argument, bad) => {
    await expectRefused(code, argument, () => model.calibrate(bad as never))
  })
})

describe('calibrator', () => {
  it.each<Modes>([{}, { pool: 'logits' }, { activation: 'relu' }, { routing: 'token' }, { routing: 'sequence' }])(
    'gives the bits of calibrate, whatever the order of the layers, and keeps no input: %o',
    async (modes) => {
      const model = modelOf(modes)
      const shape = (x: Float32Array) =>
        modes.routing === 'sequence' ? [1, x.length / dIn, dIn] : [x.length / dIn, dIn]
      const calls = samples.map((x) => place(x, shape(x)))
      const whole = await model.calibrate({ '0.q': calls, '1.q': calls.slice(1) })
      const calibrator = model.calibrator()
      // One after the other in one memory, which the next call overwrites before the last one has been added.
      const memory = new Float32Array(12 * dIn)
      const added = samples.flatMap((x, i) => {
        memory.set(x)
        const input = isHost ? tensor(memory.subarray(0, x.length), shape(x)) : calls[i]
        const observed = [calibrator.observe('0.q', input)]
        if (i > 0) observed.unshift(calibrator.observe('1.q', input))
        return observed
      })
      const streamed = await calibrator.finish()
      await Promise.all(added)
      expect(new Map(streamed.weights)).toEqual(new Map(whole.weights))
      expect(new Map(streamed.layers)).toEqual(new Map(whole.layers))
      expect(streamed.relativeError).toBe(whole.relativeError)
    },
  )

  it('goes on after finish, and leaves out a call that was refused', async ({ skip }) => {
    if (isWebGpu) skip('WGSL lets an implementation assume that there is no NaN')
    const model = modelOf()
    const calibrator = model.calibrator()
    const calls = samples.map((x) => place(x, [x.length / dIn, dIn]))
    await expectRefused('ERR_LILY_ARGUMENT', 'expected at least one call, got none', () => calibrator.finish())
    await calibrator.observe('0.q', calls[0])
    expect(await calibrator.finish()).toEqual(await model.calibrate({ '0.q': calls.slice(0, 1) }))
    const bad = place([NaN, 1, 1, 1, 1, 1], [1, dIn])
    await expectRefused('ERR_LILY_ARGUMENT', 'x: expected weights of the experts that are finite', () =>
      calibrator.observe('0.q', bad),
    )
    expect(await calibrator.finish()).toEqual(await model.calibrate({ '0.q': calls.slice(0, 1) }))
    await expectRefused('ERR_LILY_SHAPE', 'x: expected', () => calibrator.observe('0.q', place(samples[0], [6, 7])))
    await expectRefused('ERR_LILY_ARGUMENT', 'name: expected an adapted layer', () => calibrator.observe('q', calls[0]))
    for (const x of calls.slice(1)) await calibrator.observe('0.q', x)
    expect(await calibrator.finish()).toEqual(await model.calibrate({ '0.q': calls }))
  })

  it('refuses parameters that a step has changed, merged layers, and models without routers', async () => {
    const model = modelOf()
    const calibrator = model.calibrator()
    const x = place(samples[0], [7, dIn])
    await calibrator.observe('0.q', x)
    const optimiser = new AdamW(model.parameters(), { lr: 0.1 })
    optimiser.step()
    for (const parameter of model.layer('0.q').parameters) {
      const other = model.calibrator()
      await other.observe('0.q', x)
      new AdamW(new Map([[parameter.name, parameter]])).step()
      await expectRefused('ERR_LILY_ARGUMENT', `has changed ${parameter.name};`, () => other.observe('0.q', x))
    }
    // The layers share B.
    for (const name of ['0.q', '1.q']) {
      await expectRefused('ERR_LILY_ARGUMENT', 'an optimiser has changed', () => calibrator.observe(name, x))
    }
    const refused = "model: expected a model with routers, got one with routing 'uniform'"
    await expectRefused('ERR_LILY_ARGUMENT', refused, () => modelOf({ routing: 'uniform' }).calibrator())
    model.freeze('uniform')
    model.merge('0.q', place(new Float32Array(dOut * dIn), [dOut, dIn]))
    await expectRefused('ERR_LILY_ARGUMENT', 'unmerge it first', () => model.calibrator().observe('0.q', x))
    model.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'this model', () => model.calibrator())
    await expectRefused('ERR_LILY_DISPOSED', 'its model is disposed of', () => calibrator.observe('1.q', x))
  })

  it('adds calls in their order, whichever is computed first, and reads B once', async () => {
    const model = modelOf()
    const calls = samples.map((x) => place(x, [x.length / dIn, dIn]))
    const expected = await model.calibrate({ '0.q': calls })
    // eslint-disable-next-line @typescript-eslint/unbound-method -- called with its object
    const { toHost } = Tensor.prototype
    // B, and the weights and h of each call: the last call first.
    const milliseconds = [0, 60, 50, 40, 30, 20, 10]
    const spy = vi.spyOn(Tensor.prototype, 'toHost').mockImplementation(async function (this: Tensor) {
      await new Promise((resolve) => setTimeout(resolve, milliseconds.shift()))
      return toHost.call(this)
    })
    try {
      const calibrator = model.calibrator()
      await Promise.all(calls.map((x) => calibrator.observe('0.q', x)))
      expect(await calibrator.finish()).toEqual(expected)
      expect(milliseconds).toEqual([])
      expect(spy).toHaveBeenCalledTimes(7)
    } finally {
      spy.mockRestore()
    }
  })

  it('gives no error where all tokens have the same weights', async () => {
    const model = modelOf({ routing: 'token' })
    for (let first = 0; first < samples[2].length; first += dIn) {
      const token = samples[2].subarray(first, first + dIn)
      const same = Float32Array.from({ length: 8 * dIn }, (_, i) => token[i % dIn])
      expect((await model.calibrate({ '0.q': [place(same, [8, dIn])] })).relativeError).toBe(0)
    }
  })

  it('measures an error far below the outputs', async () => {
    // Weights that differ in the fourth digit: sums of squares of the outputs themselves would cancel it.
    const model = modelOf({ routing: 'token' })
    const base = samples[0].subarray(0, dIn)
    const near = Float32Array.from({ length: 8 * dIn }, (_, i) => base[i % dIn] * (1 + 1e-4 * Math.sin(i)))
    const { layers: found } = await model.calibrate({ '0.q': [place(near, [8, dIn])] })
    const layer = model.layer('0.q')
    const { y, weights } = await reference(layer, near, 1, { routing: 'token' })
    const mean = new Float64Array(experts)
    weights.forEach((weight, i) => (mean[i % experts] += weight / 8))
    const frozen = (await reference(layer, near, 1, {}, Float32Array.from(mean))).y
    const error = relativeError(frozen, y)
    expect(error).toBeLessThan(1e-3)
    expect(error).toBeGreaterThan(1e-6)
    // The weights come from the kernels, in float32.
    expect(Math.abs((found.get('0.q')?.relativeError ?? NaN) / error - 1)).toBeLessThan(1e-2)
  })
})
