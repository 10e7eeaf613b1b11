/** The reference compared with central differences: d/dv of sum(y * dy) for every element v of every operand. */
import { describe, expect, test } from 'vitest'
import { backward, forward, type Problem } from './reference.js'
import { makeCase, type Spec } from './cases.js'
import { relativeError } from './compare.js'

const STEP = 1e-4

function loss(problem: Problem, dy: ArrayLike<number>): number {
  return forward(problem).y.value.reduce((sum, y, i) => sum + y * dy[i], 0)
}

function centralDifferences(problem: Problem, name: 'x' | 'a' | 'router' | 'b', dy: ArrayLike<number>): Float64Array {
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
  lora: { ...sizes, routing: 'lora', experts: 1, scaling: 2 },
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
        const pairs = { x: gradients.dx, a: gradients.da, b: gradients.db, router: gradients.dRouter } as const
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
