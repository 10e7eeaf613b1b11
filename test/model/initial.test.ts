/** Initial values of parameters. */
import { describe, expect, it } from 'vitest'
import { type DType, LilyModel } from '../../lib/index.js'
import { unpack } from '../support/dtypes.js'
import { expectRefused } from '../refusals/refused.js'

const layers = ['0.q', '1.q'].map((name) => ({ name, inFeatures: 5, outFeatures: 6 }))
const config = { r: 2, numB: 2, strideA: 2, targetModules: ['q'] }

const valuesOf = (model: LilyModel, name: string) =>
  model.parameters().get(name)?.value.data as Float32Array | Uint16Array

describe('initial values', () => {
  // torch 2.6: torch.manual_seed(7), then torch.empty(shape).uniform_(-bound, bound) for each parameter in turn.
  it("equal those of PyTorch's uniform_ with the same seed", () => {
    const model = LilyModel.create({ layers, config, seed: 7 })
    expect([...model.parameters().keys()]).toEqual([
      '0.q.lily_A.weight',
      '0.q.lily_router.weight',
      '0.q.lily_B.weight',
      '1.q.lily_router.weight',
    ])
    expect([...valuesOf(model, '0.q.lily_A.weight')]).toEqual([
      0.031235668808221817, -0.26939862966537476, 0.1424032747745514, 0.14032691717147827, -0.2390253245830536,
      -0.06702711433172226, -0.2619902193546295, 0.11603973060846329, -0.12046489119529724, 0.31418395042419434,
    ])
    expect([...valuesOf(model, '0.q.lily_router.weight')]).toEqual([
      0.5019654035568237, 0.07203326374292374, -0.30145516991615295, -0.4153271019458771,
    ])
    expect([...valuesOf(model, '0.q.lily_B.weight')]).toEqual(Array(24).fill(0))
    expect([...valuesOf(model, '1.q.lily_router.weight')]).toEqual([
      -0.07765422016382217, -0.19899971783161163, 0.31166496872901917, -0.6037957668304443,
    ])
  })

  it("are normal with deviation 1 for the logits of routing 'learned', and B is zero", () => {
    const model = LilyModel.create({ layers, config: { ...config, numB: 3, routing: 'learned' }, seed: 7 })
    // numpy's MT19937 of the same seed, with the algorithms of torch: uniform_ for A, then normal_ of less than 16 numbers.
    const expected = {
      '0.q.lily_router.weight': [0.4457423985004425, -0.7068324685096741, -1.5749677419662476],
      '1.q.lily_router.weight': [-0.631848931312561, 0.021201377734541893, -0.36019381880760193],
    }
    for (const [name, numbers] of Object.entries(expected)) expect([...valuesOf(model, name)]).toEqual(numbers)
    expect(valuesOf(model, '0.q.lily_B.weight').every((value) => value === 0)).toBe(true)
  })

  it('are random for B, too, if initWeights is false', () => {
    const model = LilyModel.create({ layers, config: { ...config, initWeights: false }, seed: 7 })
    const b = valuesOf(model, '0.q.lily_B.weight')
    expect([...b.subarray(0, 3), b[23]]).toEqual([
      -0.04483368620276451, -0.11489254236221313, 0.179939866065979, -0.2274380326271057,
    ])
    expect([...valuesOf(model, '1.q.lily_router.weight')]).toEqual([
      -0.1779051274061203, -0.43097007274627686, 0.3401522934436798, -0.3494805693626404,
    ])
  })

  it.each<[DType, number[]]>([
    ['bfloat16', [0x3d00, 0xbe8a, 0x3e12, 0x3e10, 0xbe75, 0xbd89, 0xbe86, 0x3dee, 0xbdf7, 0x3ea1]],
    ['float16', [0x27ff, 0xb44f, 0x308f, 0x307e, 0xb3a6, 0xac4a, 0xb431, 0x2f6d, 0xafb6, 0x3507]],
  ])('are rounded to %s', (dtype, bits) => {
    // The bits of the numbers above after .to(dtype) in torch.
    const model = LilyModel.create({ layers, config, seed: 7, dtype })
    expect([...valuesOf(model, '0.q.lily_A.weight')]).toEqual(bits)
    expect(model.dtype).toBe(dtype)
    const { grad } = [...model.parameters().values()][0]
    expect(grad.dtype).toBe('float32')
    expect([...grad.data]).toEqual(Array(10).fill(0))
  })

  it.each<DType>(['float32', 'bfloat16'])('are uniform within 1/sqrt(d_in) and 1/sqrt(r), %s', (dtype) => {
    const wide = [{ name: 'q', inFeatures: 400, outFeatures: 8 }]
    const model = LilyModel.create({ layers: wide, config: { r: 100, numB: 50 }, seed: 3, dtype })
    const bounds = { 'q.lily_A.weight': 1 / 20, 'q.lily_router.weight': 1 / 10 }
    for (const [name, bound] of Object.entries(bounds)) {
      const numbers = unpack(dtype, valuesOf(model, name))
      const mean = numbers.reduce((sum, value) => sum + value, 0) / numbers.length
      const variance = numbers.reduce((sum, value) => sum + value * value, 0) / numbers.length
      expect(Math.max(...numbers.map(Math.abs))).toBeLessThanOrEqual(bound * (1 + 2 ** -8))
      // Five standard deviations of the mean and of the mean square of this many uniform numbers.
      expect(Math.abs(mean)).toBeLessThan((5 * bound) / Math.sqrt(3 * numbers.length))
      expect(Math.abs(variance / (bound ** 2 / 3) - 1)).toBeLessThan((5 * Math.sqrt(4 / 5)) / Math.sqrt(numbers.length))
    }
  })

  it('differ between models without a seed', () => {
    const [one, two] = [1, 2].map(() => valuesOf(LilyModel.create({ layers, config }), '0.q.lily_A.weight'))
    expect([...one]).not.toEqual([...two])
  })

  it.each([-1, 2 ** 32, 0.5, '7'])('rejects the seed %o', async (seed) => {
    await expectRefused('ERR_LILY_ARGUMENT', 'seed', () => LilyModel.create({ layers, config, seed: seed as number }))
  })

  it('rejects an unknown type', async () => {
    await expectRefused('ERR_LILY_DTYPE', 'dtype', () => LilyModel.create({ layers, config, dtype: 'int32' }))
  })
})
