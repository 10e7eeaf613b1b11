/**
 * The gradient of given weights, and learned mixtures, beside other calls of the backend.
 *
 * @project cpu amx wasm
 */
import { describe, expect, test } from 'vitest'
import { type Case, makeCase, type Spec } from '../support/cases.js'
import { expectSameBits } from '../support/compare.js'
import { type How, run, type Values } from '../support/run.js'

const sizes = { tokens: 70, dIn: 45, dOut: 600, experts: 5, scaling: 1.5, activation: 'relu', seed: 1 } as const
const sequences = { ...sizes, routing: 'fixed', lengths: [20, 0, 49, 1] } as const
const dWeights = { needs: { dWeights: true } }
const only: How = { needs: { dx: false, da: false, dRouter: false, db: false, dWeights: true } }

const valuesOf = async (c: Case, how?: How): Promise<Values> => (await run(c, how)).values
const numbers = (values: Float32Array | undefined): Float32Array => values ?? new Float32Array()

function expectSame(names: readonly (keyof Values)[], actual: Values, expected: Values): void {
  for (const name of names) expectSameBits(name, numbers(actual[name]), numbers(expected[name]))
}

/** Products of the register tile, and in blocks. */
describe.each([9, 72])('rank %i', (rank) => {
  test('y is linear in the weights: their gradient is the loss with a single expert in a single group', async () => {
    const c = makeCase({ ...sequences, rank })
    const gradient = numbers((await valuesOf(c, only)).dWeights)
    const losses = await Promise.all(
      Array.from(gradient, async (_, i) => {
        const weights = new Float32Array(gradient.length).fill(1, i, i + 1)
        const { y } = await valuesOf({ ...c, weights })
        return numbers(y).reduce((sum, value, j) => sum + value * c.dy[j], 0)
      }),
    )
    const largest = Math.max(...losses.map(Math.abs))
    losses.forEach((loss, i) => {
      expect(Math.abs(gradient[i] - loss), `element ${i}`).toBeLessThan(1e-5 * largest)
    })
    expect([...gradient.subarray(sizes.experts, 2 * sizes.experts)], 'of a group without tokens').toEqual([
      0, 0, 0, 0, 0,
    ])
  })

  test('the gradient of the weights has the same bits alone, and changes no other gradient', async () => {
    const c = makeCase({ ...sequences, rank, activations: 'bfloat16' })
    const all = await valuesOf(c, dWeights)
    expectSame(['dWeights'], await valuesOf(c, only), all)
    expectSame(['dWeights', 'dx', 'da'], await valuesOf(c, { ...dWeights, deferB: true }), all)
    expectSame(['dx', 'da', 'db'], await valuesOf(c), all)
  })

  test('a learned mixture of equal logits has the bits of uniform routing', async () => {
    const c = makeCase({ ...sizes, rank, routing: 'learned' })
    const learned = await valuesOf({ ...c, router: new Float32Array(sizes.experts).fill(3) })
    const uniform = await valuesOf({ ...c, routing: 'uniform', router: undefined })
    expectSame(['y', 'hidden', 'weights', 'dx', 'da', 'db'], learned, uniform)
  })

  test('the gradient of logits is that of the softmax, for the gradient of the same given weights', async () => {
    const c = makeCase({ ...sizes, rank, routing: 'learned', sharpness: 3 })
    const learned = await valuesOf(c)
    const given = { ...c, routing: 'fixed', router: undefined, weights: numbers(learned.weights) } as const
    const { y, dWeights: dw } = await valuesOf(given, dWeights)
    expectSame(['y'], learned, { y })
    const exps = Array.from(c.router ?? [], Math.exp)
    const w = exps.map((value) => value / exps.reduce((sum, each) => sum + each))
    const mean = w.reduce((sum, each, e) => sum + each * numbers(dw)[e], 0)
    const largest = Math.max(...numbers(dw).map(Math.abs))
    w.forEach((each, e) => {
      const difference = numbers(learned.dRouter)[e] - each * (numbers(dw)[e] - mean)
      expect(Math.abs(difference), `logit ${e}`).toBeLessThan(1e-6 * largest)
    })
  })
})

test.each<[string, Spec, How]>([
  ['given weights', { ...sequences, rank: 9, tokens: 0, lengths: [0, 0] }, dWeights],
  ['a learned mixture', { ...sizes, rank: 9, tokens: 0, routing: 'learned' }, {}],
])('%s of no tokens', async (_, spec, how) => {
  const name = spec.routing === 'fixed' ? 'dWeights' : 'dRouter'
  const { values, old } = await run(makeCase(spec), { ...how, outputs: 'add' })
  expect(values[name]).toEqual(old[name])
  const { values: overwritten } = await run(makeCase(spec), { ...how, outputs: 'overwrite' })
  expect(numbers(overwritten[name]).length).toBeGreaterThan(0)
  expect(numbers(overwritten[name]).every((value) => value === 0)).toBe(true)
  const sum = numbers(overwritten.weights).reduce((all, weight) => all + weight, 0)
  if (spec.routing === 'learned') expect(sum).toBeCloseTo(1)
})
