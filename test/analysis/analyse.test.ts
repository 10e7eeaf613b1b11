/**
 * The analysis of an adapter, compared with plain computations.
 *
 * @project cpu wasm
 */
import { describe, expect, it } from 'vitest'
import { analyseExperts } from '../../lib/analysis/experts.js'
import { analyse, type LilyConfigOptions, type LilyLayer, LilyModel, LoraModel, tensor } from '../../lib/index.js'
import { forward } from '../support/reference.js'
import { GOLDEN, newFolder } from '../support/checkpoint.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'

const Q = 'layers.1.self_attn.q_proj'

const dataOf = (parameter: LilyLayer['a']) => parameter.value.data as Float32Array

it('an expert that is zero has the cosine 0 with all', () => {
  expect(analyseExperts(Float32Array.of(3, 4, 0, 0), 2)).toEqual({
    norms: [5, 0],
    cosines: [
      [1, 0],
      [0, 0],
    ],
  })
})

describe('analyse', () => {
  it("analyses PEFT's adapter", async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    const progress: unknown[] = []
    const analysis = await analyse(model, { onProgress: (...now) => progress.push(now) })
    expect(progress).toHaveLength(8)
    expect(progress[1]).toEqual([Q, 1, 8])
    expect(analysis).toMatchObject({ r: 8, strideA: 2, numB: 3, scaling: 2 })
    expect(analysis.targets.map(({ target, inFeatures, outFeatures }) => [target, inFeatures, outFeatures])).toEqual([
      ['q_proj', 32, 32],
      ['v_proj', 32, 16],
    ])
    const [{ parameters, loraRank, experts, layers }] = analysis.targets
    // Two A, four routers, one B; LoRA has 32 + 32 numbers per rank and layer.
    expect(parameters).toBe(2 * 8 * 32 + 4 * 3 * 8 + 3 * 8 * 32)
    expect(loraRank).toBe(parameters / (4 * 64))

    const b = dataOf(model.layer(Q).b)
    const expert = (e: number) => Array.from(b.subarray(e * 256, (e + 1) * 256))
    experts.norms.forEach((norm, e) => expect(norm).toBeCloseTo(Math.hypot(...expert(e)), 10))
    const product = expert(0).reduce((sum, value, i) => sum + value * expert(2)[i], 0)
    expect(experts.cosines[0][2]).toBeCloseTo(product / (experts.norms[0] * experts.norms[2]), 10)
    expect(experts.cosines[2][0]).toBeCloseTo(experts.cosines[0][2], 12)
    expect(experts.cosines.map((row, e) => row[e])).toEqual([1, 1, 1])

    for (const { router, update } of layers) {
      expect(router).toEqual({ weights: [1 / 3, 1 / 3, 1 / 3], source: 'uniform', entropy: 1, tokenEntropy: null })
      expect(update.singularValues).toHaveLength(8)
      expect(update.effectiveRank).toBeGreaterThan(1)
      expect(update.effectiveRank).toBeLessThanOrEqual(8)
      // LoRA with as many parameters has rank 5.375; the best approximation of a rank has the largest singular values.
      const squares = update.singularValues.map((value) => value * value)
      const within = squares.slice(0, 5).reduce((sum, square) => sum + square, 0)
      expect(update.sharedWithLora).toBeCloseTo(within / squares.reduce((sum, square) => sum + square, 0), 12)
    }
    // Plain data.
    expect(JSON.parse(JSON.stringify(analysis))).toEqual(analysis)
  })

  it('pools the router over the samples of one or several calls', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    const random = randomFrom(5)
    const tokens = 9
    const x = gaussian(random, tokens * 32, 4)
    const samples = {
      [Q]: [
        { data: x.slice(0, 5 * 32), shape: [5, 32] },
        { data: x.slice(5 * 32), shape: [2, 2, 32] },
      ],
    }
    const analysis = await analyse(model, { samples })
    const layer = model.layer(Q)
    const sizes = { tokens, dIn: 32, dOut: 32, rank: 8, experts: 3 }
    const operands = { x, a: dataOf(layer.a), router: dataOf(layer.router), b: dataOf(layer.b) }
    const { probabilities, weights } = forward({ ...sizes, ...operands, routing: 'batch' })
    const { router } = analysis.targets[0].layers.find(({ name }) => name === Q)!
    expect(router.source).toBe('samples')
    router.weights.forEach((weight, e) => expect(weight).toBeCloseTo(weights.value[e], 6))

    const entropy = (shares: number[]) => -shares.reduce((sum, p) => sum + p * Math.log2(p), 0) / Math.log2(3)
    expect(router.entropy).toBeCloseTo(entropy([...weights.value]), 5)
    const rows = Array.from({ length: tokens }, (_, t) => [...probabilities!.value.subarray(3 * t, 3 * t + 3)])
    expect(router.tokenEntropy).toBeCloseTo(rows.reduce((sum, row) => sum + entropy(row), 0) / tokens, 5)
    // The other layers have no samples.
    expect(analysis.targets[1].layers[0].router.source).toBe('uniform')
  })

  it('pools as the config says, with equal parameters', async () => {
    const [sequences, length, dIn, dOut, rank, numB] = [3, 4, 6, 5, 3, 4]
    const layers = [{ name: 'q', inFeatures: dIn, outFeatures: dOut }]
    const shared = { r: rank, numB, initWeights: false }
    const x = gaussian(randomFrom(5), sequences * length * dIn, 4)
    const samples = { q: [tensor(x, [sequences, length, dIn])] }
    const of = async (modes: Pick<LilyConfigOptions, 'routing' | 'pool'>) => {
      const model = LilyModel.create({ layers, config: { ...shared, ...modes }, seed: 1 })
      const { targets, ...analysis } = await analyse(model, { samples })
      expect(analysis).toEqual({ r: rank, strideA: 1, numB, scaling: 1, ...modes })
      return { layer: model.layer('q'), ...targets[0].layers[0].router }
    }
    const all: { tokenEntropy: number | null; weights: readonly number[] }[] = []
    for (const pool of ['probabilities', 'logits'] as const) {
      for (const routing of ['batch', 'sequence'] as const) {
        const { layer, weights, tokenEntropy } = await of({ routing, pool })
        const operands = { x, a: dataOf(layer.a), router: dataOf(layer.router), b: dataOf(layer.b) }
        const sizes = { tokens: sequences * length, dIn, dOut, rank, experts: numB }
        const offsets = routing === 'sequence' ? [0, 4, 8, 12] : undefined
        const ofGroups = forward({ ...sizes, ...operands, routing, pool, offsets }).weights
        weights.forEach((weight, e) => {
          const column = Array.from({ length: ofGroups.rows }, (_, g) => ofGroups.value[g * numB + e])
          expect(weight, `${pool} ${routing}`).toBeCloseTo(column.reduce((sum, w) => sum + w, 0) / ofGroups.rows, 6)
        })
        all.push({ tokenEntropy, weights })
      }
    }
    expect(new Set(all.map(({ tokenEntropy }) => tokenEntropy)).size, 'that of the tokens does not depend on it').toBe(
      1,
    )
    const [batch, , logits, ofSequences] = all.map(({ weights }) => weights[0])
    expect(Math.min(Math.abs(logits - batch), Math.abs(ofSequences - logits))).toBeGreaterThan(0.01)
    expect((await of({ routing: 'token', pool: 'probabilities' })).weights[0]).toBeCloseTo(batch, 6)
  })

  it("has no routers with routing 'uniform', and no matrices with activation 'relu'", async () => {
    const layers = [{ name: 'q', inFeatures: 6, outFeatures: 5 }]
    const uniform = LilyModel.create({ layers, config: { r: 2, numB: 4, routing: 'uniform' } })
    const [target] = (await analyse(uniform)).targets
    expect([target.parameters, target.trainable]).toEqual([2 * 6 + 4 * 2 + 4 * 2 * 5, 2 * 6 + 4 * 2 * 5])
    expect(target.layers[0].router).toMatchObject({ weights: [0.25, 0.25, 0.25, 0.25], source: 'uniform' })
    const samples = { q: [tensor(new Float32Array(6), [1, 6])] }
    const message = "samples: expected a model with routers, got one with routing 'uniform'"
    await expectRefused('ERR_LILY_ARGUMENT', message, () => analyse(uniform, { samples }))
    const relu = LilyModel.create({ layers, config: { activation: 'relu' } })
    const refused = "model: expected a model with activation 'none', got 'relu'"
    await expectRefused('ERR_LILY_ARGUMENT', refused, () => analyse(relu))
  })

  it("uses the mixtures of routing 'learned', softmax(z) of each layer", async () => {
    const layers = ['0.q', '1.q'].map((name) => ({ name, inFeatures: 6, outFeatures: 5 }))
    const config = { r: 2, numB: 3, initWeights: false, routing: 'learned' } as const
    const model = LilyModel.create({ layers, config, seed: 1 })
    const analysis = await analyse(model)
    const [target] = analysis.targets
    expect(analysis.routing).toBe('learned')
    // An A of each layer, the logits of each, and one B.
    expect([target.parameters, target.trainable]).toEqual([
      2 * 2 * 6 + 2 * 3 + 3 * 2 * 5,
      2 * 2 * 6 + 2 * 3 + 3 * 2 * 5,
    ])
    const powers = target.layers.map(({ name }) => Array.from(dataOf(model.layer(name).router), Math.exp))
    for (const [l, { router }] of target.layers.entries()) {
      const sum = powers[l].reduce((left, right) => left + right, 0)
      router.weights.forEach((weight, e) => expect(weight).toBeCloseTo(powers[l][e] / sum, 7))
      const entropy = router.weights.reduce((h, w) => h - w * Math.log(w), 0) / Math.log(3)
      expect(router).toMatchObject({ source: 'learned', entropy: expect.closeTo(entropy, 12) as number })
      expect(router.tokenEntropy).toBeNull()
    }
    expect(target.layers[0].router.weights).not.toEqual(target.layers[1].router.weights)
    model.freeze({ '0.q': [1, 0, 0] })
    const [frozen] = (await analyse(model)).targets
    expect(frozen.layers.map(({ router }) => router.source)).toEqual(['frozen', 'learned'])
    expect(frozen.trainable).toBe(target.trainable - 3)
    const samples = { '0.q': [tensor(new Float32Array(6), [1, 6])] }
    const message = "samples: expected a model with routers, got one with routing 'learned'"
    await expectRefused('ERR_LILY_ARGUMENT', message, () => analyse(model, { samples }))
  })

  it('uses the weights of a frozen layer', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    model.freeze({ [Q]: [1, 0, 0], 'layers.0.self_attn.q_proj': [1, -1, 0.5] })
    const [{ layers, experts }] = (await analyse(model)).targets
    expect(layers[1].router).toEqual({ weights: [1, 0, 0], source: 'frozen', entropy: 0, tokenEntropy: null })
    expect(layers[0].router).toEqual({ weights: [1, -1, 0.5], source: 'frozen', entropy: null, tokenEntropy: null })
    expect(layers[1].update.norm).toBeGreaterThan(0)
    expect(experts.norms).toHaveLength(3)
  })

  it('reports updates of zero for a new adapter', async () => {
    const layers = [{ name: 'a.q', inFeatures: 6, outFeatures: 5 }]
    const [target] = (await analyse(LilyModel.create({ layers, config: { r: 2 } }))).targets
    expect(target.experts).toEqual({
      norms: [0, 0],
      cosines: [
        [0, 0],
        [0, 0],
      ],
    })
    expect(target.layers[0].update).toMatchObject({ norm: 0, effectiveRank: 0, sharedWithLora: 1 })
  })

  it('rejects samples without a token, and those that give no finite weights, as calibrate does', async () => {
    const layers = [{ name: 'q', inFeatures: 2, outFeatures: 2 }]
    const model = LilyModel.create({ layers, config: { r: 2, numB: 2 }, seed: 1 })
    const of = (numbers: number[]) => ({
      samples: { q: [tensor([1, 2], [1, 2]), tensor(numbers, [numbers.length / 2, 2])] },
    })
    const message = "samples['q'][1]: expected weights of the experts that are finite"
    await expectRefused('ERR_LILY_ARGUMENT', message, () => analyse(model, of([1, NaN])))
    const none = { samples: { q: [tensor([], [0, 2])] } }
    await expectRefused('ERR_LILY_ARGUMENT', "expected at least one token for 'q'", () => analyse(model, none))
    expect((await analyse(model, of([]))).targets[0].layers[0].router.source).toBe('samples')
  })

  it('rejects unknown layers and options', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    await expectRefused('ERR_LILY_ARGUMENT', 'model', () => analyse(new Proxy(model, {})))
    await expectRefused('ERR_LILY_ARGUMENT', 'sample', () => analyse(model, { sample: {} } as object))
    await expectRefused('ERR_LILY_ARGUMENT', 'elsewhere', () => analyse(model, { samples: { elsewhere: [] } }))
    await expectRefused('ERR_LILY_SHAPE', `samples['${Q}'][0]`, () =>
      analyse(model, { samples: { [Q]: [{ data: new Float32Array(4), shape: [1, 4] }] } }),
    )
  })
})

describe('analyse of LoRA', () => {
  it('gives the singular values that the frozen Lily adapter has', async () => {
    const lily = await LilyModel.fromPretrained(GOLDEN)
    lily.freeze('uniform')
    const folder = newFolder()
    await lily.saveLora(folder)
    const progress: unknown[] = []
    const lora = await analyse(await LoraModel.fromPretrained(folder), { onProgress: (...now) => progress.push(now) })
    expect(progress).toHaveLength(8)
    expect(lora).toMatchObject({ r: 8, loraAlpha: 16, useRslora: false })
    const layers = (await analyse(lily)).targets.flatMap((target) => target.layers)
    for (const { name, update } of layers) {
      const layer = lora.layers.find((each) => each.name === name)!
      // B is rounded to float32 once.
      layer.update.singularValues.forEach((value, i) => {
        expect(Math.abs(value - update.singularValues[i]), `${name} ${i}`).toBeLessThan(1e-6 * update.spectralNorm)
      })
      expect(layer.update.effectiveRank).toBeCloseTo(update.effectiveRank, 5)
      expect(layer.update).not.toHaveProperty('sharedWithLora')
    }
  })

  it('gives the norm of scaling * B A, of each rank and scaling', async () => {
    const shape = { inFeatures: 7, outFeatures: 5 }
    const config = { r: 3, loraAlpha: -6, rankPattern: { v: 2 }, initLoraWeights: false }
    const model = LoraModel.create({ layers: ['q', 'v'].map((name) => ({ name, ...shape })), config, seed: 3 })
    const { layers } = await analyse(model)
    expect(layers.map(({ r, scaling, parameters }) => [r, scaling, parameters])).toEqual([
      [3, -2, 36],
      [2, -3, 24],
    ])
    for (const { name, update, r, scaling } of layers) {
      const [a, b] = [model.layer(name).a, model.layer(name).b].map(({ value }) => value.data as Float32Array)
      let squares = 0
      for (let j = 0; j < 5; j++) {
        for (let i = 0; i < 7; i++) {
          let sum = 0
          for (let k = 0; k < r; k++) sum += b[j * r + k] * a[k * 7 + i]
          squares += (scaling * sum) ** 2
        }
      }
      expect(update.norm).toBeCloseTo(Math.sqrt(squares), 10)
      expect(update.singularValues).toHaveLength(r)
    }
  })

  it('has no samples', async () => {
    const model = LoraModel.create({ layers: [{ name: 'q', inFeatures: 2, outFeatures: 2 }], config: {} })
    await expectRefused('ERR_LILY_ARGUMENT', 'samples', () => analyse(model, { samples: {} } as object))
  })
})
