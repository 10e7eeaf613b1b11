/** The cost of an adapter, compared with numbers worked out by hand and with the memory of a model. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { accountFor, LilyModel, rankForLora, ranksForLora } from '../../lib/index.js'
import { projections } from '../support/model.js'
import { expectRefused } from '../refusals/refused.js'

const layers = projections(5, { q_proj: [8, 8], v_proj: [8, 4] })
const config = { r: 3, strideA: 2, numB: 4, targetModules: ['q_proj', 'v_proj'] }

describe('accountFor', () => {
  it('counts shared parameters once', () => {
    // A: 3 blocks per target, 3 x 8; a router 4 x 3 for each of 10 layers; B: 4 x 3 x 8 and 4 x 3 x 4.
    const parameters = { a: 144, router: 120, b: 144, total: 408 }
    expect(accountFor(layers, config)).toEqual({
      parameters,
      trainable: parameters,
      baseParameters: 5 * (64 + 32),
      loraRank: 408 / (5 * (16 + 12)),
      flops: {
        forwardPerToken: 2 * 3 * 140,
        backwardPerToken: 4 * 3 * 140,
        forwardPerMixture: 2 * 4 * 3 * 60,
        backwardPerMixture: 6 * 4 * 3 * 60,
      },
      bytes: { parameters: 1632, gradients: 1632, optimizer: 3264, savedPerToken: 10 * (3 * 4 + 4 * 4) },
    })
    expect(accountFor(layers, config, { dtype: 'bfloat16' }).bytes).toEqual({
      parameters: 816,
      gradients: 1632,
      optimizer: 3264,
      savedPerToken: 10 * (3 * 2 + 4 * 4),
    })
    expect(accountFor(layers, config, { activations: 'float16' }).bytes).toMatchObject({
      parameters: 1632,
      savedPerToken: 10 * (3 * 2 + 4 * 4),
    })
  })

  it("does not train routers with routing 'uniform'", () => {
    const uniform = { ...config, routing: 'uniform' } as const
    const { parameters, trainable, loraRank, bytes } = accountFor(layers, uniform)
    expect(parameters).toEqual({ a: 144, router: 120, b: 144, total: 408 })
    expect(trainable).toEqual({ a: 144, router: 0, b: 144, total: 288 })
    expect(loraRank).toBe(288 / (5 * (16 + 12)))
    expect(bytes).toEqual({ parameters: 1632, gradients: 1152, optimizer: 2304, savedPerToken: 10 * 3 * 4 })
    const frozen = LilyModel.create({ layers, config })
    frozen.freeze('uniform')
    for (const model of [frozen, LilyModel.create({ layers, config: uniform })]) {
      const counted = [...model.parameters().values()].reduce((sum, { value }) => sum + value.data.length, 0)
      expect(counted).toBe(trainable.total)
    }
  })

  it("counts the logits of routing 'learned', which do not depend on r, and saves no probabilities", () => {
    const learned = { ...config, routing: 'learned' } as const
    const { parameters, trainable, bytes } = accountFor(layers, learned)
    expect(parameters).toEqual({ a: 144, router: 4 * 10, b: 144, total: 328 })
    expect(trainable).toEqual(parameters)
    expect(bytes.savedPerToken).toBe(10 * 3 * 4)
    // Per unit of r 48 in A and 48 in B. LoRA of rank 2 has 280, of which 40 are for logits.
    expect(ranksForLora(layers, learned, 2)).toEqual({
      parameters: 280,
      within: { r: 2, parameters: 40 + 2 * 96, percent: (100 * (232 - 280)) / 280 },
      next: { r: 3, parameters: 40 + 3 * 96, percent: (100 * (328 - 280)) / 280 },
    })
    expect(rankForLora(layers, learned, 2)).toBe(2)
    const many = { ...learned, numB: 64 }
    expect(ranksForLora(layers, many, 1)).toMatchObject({ within: undefined, next: { r: 1 } })
  })

  it('matches the memory of a model', () => {
    const learned = { ...config, routing: 'learned' } as const
    for (const [dtype, of] of [
      ['float32', config],
      ['bfloat16', config],
      ['float32', learned],
    ] as const) {
      const parameters = [...LilyModel.create({ layers, config: of, dtype }).parameters().values()]
      const { bytes } = accountFor(layers, of, { dtype })
      expect(parameters.reduce((sum, { value }) => sum + value.data.byteLength, 0)).toBe(bytes.parameters)
      expect(parameters.reduce((sum, { grad }) => sum + grad.data.byteLength, 0)).toBe(bytes.gradients)
    }
  })
})

describe('ranksForLora', () => {
  it('has the size of the LoRA, and of Lily below and above it', () => {
    // The FFN of an encoder with two layers, 512 -> 1536 -> 512: LoRA of rank 3 has 3 * 4 * 2048 parameters. Per unit of r,
    // Lily has 2 * (512 + 1536) in A, 2 * (1536 + 512) in B and nothing in routers, which are not trained.
    const ffn = projections(2, { up: [512, 1536], down: [1536, 512] })
    expect(ranksForLora(ffn, { numB: 2, routing: 'uniform' }, 3)).toEqual({
      parameters: 24576,
      within: { r: 3, parameters: 3 * 8192, percent: 0 },
      next: { r: 4, parameters: 4 * 8192, percent: 100 / 3 },
    })
    // With strideA 2 A has 2048 per unit of r, and 4 routers of 2 experts have 8: r = 4 has 32 parameters more.
    const { within, next } = ranksForLora(ffn, { numB: 2, strideA: 2 }, 3)
    expect(within).toEqual({ r: 3, parameters: 3 * 6152, percent: expect.closeTo(-24.9, 1) as number })
    expect(next).toEqual({ r: 4, parameters: 24608, percent: expect.closeTo(0.13, 2) as number })
    expect(rankForLora(ffn, { numB: 2, strideA: 2 }, 3)).toBe(3)
    // Without routers r = 4 fits exactly.
    expect(rankForLora(ffn, { numB: 2, strideA: 2, routing: 'uniform' }, 3)).toBe(4)
  })

  it('has no rank below 1 or above 4096', async () => {
    const one = [{ name: 'q', inFeatures: 8, outFeatures: 8 }]
    const small = ranksForLora(one, { numB: 64 }, 1)
    expect(small.within).toBeUndefined()
    expect(small.next?.r).toBe(1)
    const large = ranksForLora(one, {}, 65536)
    expect(large.within?.r).toBe(4096)
    expect(large.next).toBeUndefined()
    await expectRefused('ERR_LILY_ARGUMENT', 'loraRank', () => ranksForLora(one, {}, 0.5))
    await expectRefused('ERR_LILY_ARGUMENT', 'routing', () => ranksForLora(one, { routing: 'all' as never }, 1))
  })
})

describe('rankForLora', () => {
  it('is the largest r with no more parameters', () => {
    // q and v of Llama-3.2-3B in 28 layers: LoRA of rank 16 has 16 * 28 * (6144 + 4096) = 4587520 parameters. Per unit of r,
    // Lily has 14 * 3072 in A, 4 * (3072 + 1024) in B and 4 * 56 in the routers: 59616, so r = 76.9...
    const llama = projections(28, { q_proj: [3072, 3072], v_proj: [3072, 1024] })
    expect(rankForLora(llama, { strideA: 4, numB: 4, targetModules: ['q_proj', 'v_proj'] }, 16)).toBe(76)
  })

  it('fits, and the next larger rank does not, for any sizes', () => {
    const size = fc.integer({ min: 1, max: 40 })
    const cases = fc.record({
      count: size,
      q: fc.tuple(size, size),
      v: fc.tuple(size, size),
      strideA: size,
      numB: fc.integer({ min: 2, max: 8 }),
      k: size,
    })
    fc.assert(
      fc.property(cases, ({ count, q, v, strideA, numB, k }) => {
        const shapes = projections(count, { q, v })
        const sharing = { strideA, numB }
        const lora = shapes.reduce((sum, { inFeatures, outFeatures }) => sum + k * (inFeatures + outFeatures), 0)
        const total = (r: number) => accountFor(shapes, { ...sharing, r }).parameters.total
        fc.pre(total(1) <= lora)
        const r = rankForLora(shapes, sharing, k)
        expect(total(r)).toBeLessThanOrEqual(lora)
        expect(total(r + 1)).toBeGreaterThan(lora)
        const { parameters, within, next } = ranksForLora(shapes, sharing, k)
        expect([parameters, within?.r, within?.parameters]).toEqual([lora, r, total(r)])
        expect([next?.r, next?.parameters]).toEqual([r + 1, total(r + 1)])
      }),
    )
  })

  it('rejects input without a solution', async () => {
    const one = [{ name: 'q', inFeatures: 8, outFeatures: 8 }]
    await expectRefused('ERR_LILY_ARGUMENT', 'loraRank', () => rankForLora(layers, {}, 0))
    await expectRefused('ERR_LILY_ARGUMENT', 'expected r from 1 to 4096, got 0', () =>
      rankForLora(one, { numB: 64 }, 1),
    )
    // r = 1 has 8 in A, 64 * 8 in B and 64 logits.
    await expectRefused('ERR_LILY_ARGUMENT', 'Lily 520 per unit of r and 64 logits; change loraRank', () =>
      rankForLora(one, { numB: 64, routing: 'learned' }, 1),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'expected r from 1 to 4096', () => rankForLora(one, {}, 65536))
    await expectRefused('ERR_LILY_ARGUMENT', 'targetModules', () => rankForLora(one, { targetModules: ['k'] }, 1))
  })
})
