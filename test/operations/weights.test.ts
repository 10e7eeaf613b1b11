/**
 * The gradient of given weights, and learned mixtures: against the reference, and against differences of forward.
 *
 * @project cpu amx wasm webgpu cuda @asan
 */
import { describe, expect, it, test } from 'vitest'
import { foldB, isEmulated, isWebGpu, lilyBackward, lilyForward } from '../support/backend.js'
import { type Case, makeCase, makeRowsCase, type Spec } from '../support/cases.js'
import { checkCase } from '../support/check.js'
import { checkRows } from '../support/check-rows.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { TYPES } from '../support/dtypes.js'
import { everyNth } from '../support/runs.js'
import { filled, numbers, sizes, smallOperands } from '../support/small.js'

const odd = { tokens: 37, dIn: 45, dOut: 40, rank: 7, experts: 3 }
const lengths = [20, 0, 17]
const types = Object.entries(TYPES)
const turns = <T>(list: readonly T[]) => [...everyNth(isWebGpu || isEmulated ? 2 : 1, list).entries()]

describe('dWeights of the reference', () => {
  const specs: Spec[] = [
    { ...odd, routing: 'fixed', seed: 1 },
    { ...odd, routing: 'fixed', lengths, scaling: 1.5, seed: 2 },
    { ...odd, routing: 'fixed', lengths, activation: 'relu', seed: 3 },
    // More groups than experts; few tokens; none; rows of b of another kernel.
    { ...odd, routing: 'fixed', lengths: [9, 0, 1, 20, 7], seed: 4 },
    { ...odd, routing: 'fixed', tokens: 3, seed: 5 },
    { ...odd, routing: 'fixed', tokens: 0, lengths: [0, 0], seed: 6 },
    { ...odd, routing: 'fixed', tokens: 130, dIn: 264, dOut: 136, rank: 16, lengths: [129, 1], seed: 7 },
    { ...odd, routing: 'fixed', experts: 64, rank: 4, seed: 8 },
  ]
  for (const [i, spec] of turns(specs)) {
    const [name, of] = types[i % types.length]
    test(`${spec.tokens} tokens, ${spec.lengths?.length ?? 1} groups, ${name}`, async () => {
      const c = makeCase({ ...spec, ...of })
      for (const outputs of ['new', 'add', 'overwrite'] as const)
        await checkCase(c, { outputs, needs: { dWeights: true }, deferB: outputs === 'add' })
      const alone = { dx: false, da: false, db: false, dWeights: true }
      await checkCase(c, { outputs: 'add', needs: alone })
    })
  }
})

/** <y, dy> of a case with other weights or logits. */
async function loss(c: Case, mixture: Pick<Case, 'weights' | 'router'>): Promise<number> {
  const { tokens, dIn, dOut, rank, experts, routing, offsets, scaling } = c
  const { weights, router } = mixture
  const operands = {
    x: { data: c.x, shape: [tokens, dIn] },
    a: { data: c.a, shape: [rank, dIn] },
    b: { data: c.b, shape: [experts * rank, dOut] },
    router: router && { data: router, shape: [experts] },
  }
  const given = weights && { data: weights, shape: [weights.length / experts, experts] }
  const options = { routing: routing as 'fixed' | 'learned', sequenceOffsets: offsets, weights: given, scaling }
  const y = numbers((await lilyForward(operands, { ...options, save: false })).y)
  return y.reduce((sum, value, i) => sum + value * c.dy[i], 0)
}

async function gradientOf(c: Case): Promise<Float32Array> {
  const { tokens, dIn, dOut, rank, experts, routing, offsets, scaling, weights } = c
  const operands = {
    x: { data: c.x, shape: [tokens, dIn] },
    a: { data: c.a, shape: [rank, dIn] },
    b: { data: c.b, shape: [experts * rank, dOut] },
    router: c.router && { data: c.router, shape: [experts] },
  }
  const given = weights && { data: weights, shape: [weights.length / experts, experts] }
  const options = { routing: routing as 'fixed' | 'learned', sequenceOffsets: offsets, weights: given, scaling }
  const { saved } = await lilyForward(operands, options)
  const dy = { data: c.dy, shape: [tokens, dOut] }
  const needs = { dWeights: routing === 'fixed' }
  const { dWeights, dRouter } = await lilyBackward({ dy }, saved, { needs })
  return numbers(dWeights ?? dRouter)
}

// y is linear in the weights, so the difference is exact for any step.
test('dWeights is the difference of <y, dy> by each weight', async () => {
  const c = makeCase({ ...odd, routing: 'fixed', lengths, scaling: 0.5, seed: 11 })
  const differences: number[] = []
  for (const i of (c.weights ?? new Float32Array()).keys()) {
    const unit = new Float32Array(c.weights?.length ?? 0)
    unit[i] = 1
    differences.push(await loss(c, { weights: unit, router: undefined }))
  }
  expect(relativeError(await gradientOf(c), differences)).toBeLessThan(2e-6)
})

test('the gradient of the logits is the difference of <y, dy> by each logit', async () => {
  const c = makeCase({ ...odd, routing: 'learned', seed: 12 })
  const step = 2 ** -5
  const differences: number[] = []
  for (const i of (c.router ?? new Float32Array()).keys()) {
    const at = async (shift: number) => {
      const router = Float32Array.from(c.router ?? [])
      router[i] += shift
      return loss(c, { weights: undefined, router })
    }
    // Of the fourth order.
    const [near, far] = [(await at(step)) - (await at(-step)), (await at(2 * step)) - (await at(-2 * step))]
    differences.push((8 * near - far) / (12 * step))
  }
  expect(relativeError(await gradientOf(c), differences)).toBeLessThan(1e-4)
})

describe('learned mixtures of the reference', () => {
  const specs: Spec[] = [
    { ...odd, routing: 'learned', seed: 21 },
    { ...odd, routing: 'learned', activation: 'relu', scaling: 1.5, seed: 22 },
    { ...odd, routing: 'learned', sharpness: 10, seed: 23 },
    { ...odd, routing: 'learned', tokens: 3, dIn: 96, seed: 24 },
    { ...odd, routing: 'learned', tokens: 0, seed: 25 },
    { ...odd, routing: 'learned', experts: 1, seed: 26 },
    { ...odd, routing: 'learned', tokens: 130, dIn: 264, dOut: 136, rank: 16, experts: 64, seed: 27 },
  ]
  for (const [i, spec] of turns(specs)) {
    const [name, of] = types[i % types.length]
    test(`${spec.tokens} tokens, ${spec.experts} experts, ${name}`, async () => {
      const c = makeCase({ ...spec, ...of })
      for (const outputs of ['new', 'add', 'overwrite'] as const)
        await checkCase(c, { outputs, deferB: outputs === 'add', layout: () => ({ gap: 3, margin: 1 }) })
      await checkCase(c, { needs: { dx: false, da: false, db: false } })
    })
  }
})

const { experts } = sizes

it('logits may be [E] or [E, 1], and so may their gradient', async () => {
  const { dy, ...inputs } = smallOperands()
  const data = Float32Array.of(0.5, -1)
  const results = []
  for (const shape of [[experts], [experts, 1]]) {
    const { y, saved } = await lilyForward({ ...inputs, router: { data, shape } }, { routing: 'learned' })
    expect(saved.probabilities).toBeUndefined()
    const { dRouter } = await lilyBackward({ dy }, saved, { retain: true })
    expect(dRouter.shape).toEqual(shape)
    for (const given of [filled(0, experts), filled(0, experts, 1)]) {
      await lilyBackward({ dy, dRouter: given }, saved, { retain: true })
      expectSameBits('dRouter', given.data, numbers(dRouter))
    }
    results.push([numbers(y), numbers(dRouter)])
  }
  expectSameBits('y', results[0][0], results[1][0])
  expectSameBits('dRouter', results[0][1], results[1][1])
})

test('adapters per row have a column of logits each', async () => {
  const adapters = [7, 4, 16].map((rank) => ({ routing: 'learned' as const, rank, experts: 3 }))
  const spec = { ...odd, adapters, pattern: 'turns' as const, scaled: true, seed: 31 }
  for (const outputs of ['new', 'add'] as const) await checkRows(makeRowsCase(spec), { outputs })
})

it('a fold has the deferred gradient of learned mixtures', async () => {
  const { dy, ...inputs } = smallOperands()
  const router = filled(0.5, experts)
  const { saved } = await lilyForward({ ...inputs, router }, { routing: 'learned' })
  const { db } = await lilyBackward({ dy }, saved, { retain: true })
  await lilyBackward({ dy }, saved, { deferB: true })
  expect(relativeError(numbers(await foldB(saved)), numbers(db))).toBeLessThan(1e-6)
})
