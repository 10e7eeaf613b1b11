/** The reference compared with central differences: d/dv of sum(y * dy) for every element v of every operand. */
import { describe, expect, test } from 'vitest'
import { backward, forward, type Problem } from './reference.js'
import { makeCase, makeRowsCase, type Spec } from './cases.js'
import { backwardRows, forwardRows } from './rows-reference.js'
import { relativeError } from './compare.js'

const STEP = 1e-4

function loss(problem: Problem, dy: ArrayLike<number>): number {
  return forward(problem).y.value.reduce((sum, y, i) => sum + y * dy[i], 0)
}

function centralDifferences(
  problem: Problem,
  name: 'x' | 'a' | 'router' | 'b' | 'weights',
  dy: ArrayLike<number>,
): Float64Array {
  const values = Float64Array.from(problem[name] ?? [])
  const moved = (i: number, step: number) => loss({ ...problem, [name]: values.with(i, values[i] + step) }, dy)
  return values.map((_, i) => (moved(i, STEP) - moved(i, -STEP)) / (2 * STEP))
}

const sizes = { tokens: 9, dIn: 5, dOut: 6, rank: 4, experts: 3, seed: 1 }
const ragged = { lengths: [4, 0, 2, 3] }

const specs: Record<string, Spec> = {
  batch: { ...sizes, routing: 'batch', scaling: 1.7 },
  'batch, masked': { ...sizes, routing: 'batch', masked: 0.4, sharpness: 3 },
  'batch, all masked': { ...sizes, routing: 'batch', masked: 1 },
  'batch, logits, masked': { ...sizes, routing: 'batch', pool: 'logits', masked: 0.4, scaling: 0.5 },
  'batch, logits, all masked': { ...sizes, routing: 'batch', pool: 'logits', masked: 1 },
  sequence: { ...sizes, ...ragged, routing: 'sequence', masked: 0.3 },
  'sequence, logits': { ...sizes, ...ragged, routing: 'sequence', pool: 'logits', masked: 0.3 },
  token: { ...sizes, routing: 'token', scaling: -2 },
  uniform: { ...sizes, routing: 'uniform' },
  fixed: { ...sizes, routing: 'fixed' },
  'fixed, sequences': { ...sizes, ...ragged, routing: 'fixed' },
  learned: { ...sizes, routing: 'learned', scaling: 1.3 },
  lora: { ...sizes, routing: 'lora', experts: 1, scaling: 2 },
  'batch, dropout': { ...sizes, routing: 'batch', dropout: 0.3, seed: 2 },
  'token, dropout': { ...sizes, routing: 'token', dropout: 0.3 },
  'lora, dropout': { ...sizes, routing: 'lora', experts: 1, dropout: 0.5 },
}

for (const [name, spec] of Object.entries(specs)) {
  describe(name, () => {
    for (const activation of ['none', 'relu'] as const) {
      test(`activation ${activation}`, () => {
        // Gaussian numbers for relu, too, because no hidden value may be close to zero.
        const problem = { ...makeCase(spec), activation }
        const saved = forward(problem)
        const before = forward({ ...problem, activation: 'none' }).hidden.value
        expect(Math.min(...before.map(Math.abs))).toBeGreaterThan(20 * STEP)

        const gradients = backward(problem, saved, problem.dy)
        const { dx, da, db, dRouter, dWeights } = gradients
        const pairs = { x: dx, a: da, b: db, router: dRouter, weights: dWeights } as const
        for (const [operand, gradient] of Object.entries(pairs) as [keyof typeof pairs, typeof gradients.dx][]) {
          if (problem[operand] === undefined) continue
          const expected = centralDifferences(problem, operand, problem.dy)
          if (expected.every((value) => Math.abs(value) < 1e-9)) {
            expect(Math.max(...gradient.value.map(Math.abs)), `d${operand}`).toBeLessThan(1e-9)
          } else {
            expect(relativeError(gradient.value, expected), `d${operand}`).toBeLessThan(1e-6)
          }
        }
      })
    }
  })
}

test('the gradient of relu at zero is zero', () => {
  const problem = { ...makeCase({ ...sizes, routing: 'token' }), x: new Float32Array(45), activation: 'relu' as const }
  const gradients = backward(problem, forward(problem), problem.dy)
  expect(gradients.da.value.every((value) => value === 0)).toBe(true)
  expect(gradients.dx.value.every((value) => value === 0)).toBe(true)
})

describe('adapters per row', () => {
  const problem = makeRowsCase({
    ...{ tokens: 9, dIn: 5, dOut: 6, seed: 3, pattern: 'turns', lengths: [2, 0, 3, 1, 3], masked: 0.3, scaled: true },
    adapters: [
      { routing: 'lora', rank: 2, experts: 1, scaling: 2 },
      { routing: 'batch', rank: 3, experts: 3, scaling: -1.5 },
      { routing: 'sequence', rank: 4, experts: 2, pool: 'logits' },
    ],
  })
  const { y, each } = forwardRows(problem)

  test('a row is that of its adapter alone, times its factor, and the base adds nothing', () => {
    problem.adapters.forEach((adapter, k) => {
      const own = Array.from(problem.of.keys()).filter((t) => problem.of[t] === k)
      const x = own.flatMap((t) => Array.from(problem.x.subarray(t * 5, t * 5 + 5)))
      const alone = forward({ ...adapter, x, tokens: own.length, dIn: 5, dOut: 6 })
      own.forEach((t, i) => {
        const expected = Array.from(alone.y.slice(i, i + 1).value, (value) => (problem.scale?.[t] ?? 1) * value)
        expect(relativeError(y.slice(t, t + 1).value, expected)).toBeLessThan(1e-12)
      })
    })
    const base = Array.from(problem.of.keys()).filter((t) => problem.of[t] === -1)
    expect(base.length).toBeGreaterThan(0)
    for (const t of base) expect([...y.slice(t, t + 1).value]).toEqual(new Array(6).fill(0))
  })

  test('the gradients are differences of the forward', () => {
    const loss = (changed: typeof problem) =>
      forwardRows(changed).y.value.reduce((sum, value, i) => sum + value * problem.dy[i], 0)
    const differences = (values: Float32Array, change: (values: Float64Array) => object) =>
      Float64Array.from(values, (value, i) => {
        const at = (step: number) => loss({ ...problem, ...change(Float64Array.from(values).with(i, value + step)) })
        return (at(STEP) - at(-STEP)) / (2 * STEP)
      })
    const gradients = backwardRows(problem, { y, each }, problem.dy)
    expect(
      relativeError(
        gradients.dx.value,
        differences(problem.x, (x) => ({ x })),
      ),
    ).toBeLessThan(1e-6)
    problem.adapters.forEach((adapter, k) => {
      const replace = (part: object) => ({ adapters: problem.adapters.with(k, { ...adapter, ...part }) })
      const { da, db, dRouter } = gradients.each[k]
      expect(
        relativeError(
          da.value,
          differences(adapter.a, (a) => replace({ a })),
        ),
      ).toBeLessThan(1e-6)
      expect(
        relativeError(
          db.value,
          differences(adapter.b, (b) => replace({ b })),
        ),
      ).toBeLessThan(1e-6)
      if (adapter.router === undefined) return
      expect(
        relativeError(
          dRouter.value,
          differences(adapter.router, (router) => replace({ router })),
        ),
      ).toBeLessThan(1e-6)
    })
  })
})
