/** The formula of AdamW in float64, with tolerances for float32. */
import { expect } from 'vitest'
import type { AdamWOptions } from '../../lib/index.js'
import { pack, quantum, unpack } from './dtypes.js'
import type { History, TrainedParameter } from './training.js'

/** The unit roundoff of float32. */
const ROUNDING = 2 ** -24

/**
 * Number of float32 roundings of ROUNDING each, relative to the terms of the sums: 3 for the gradient (norm, factor,
 * product), 2 for m, half of 4 for v and its root, 5 for the quotient, 3 for the value, and one for m and v in earlier
 * steps.
 */
const ROUNDINGS = 16

/**
 * Compares every value of every step with the formula in float64, applied to the actual value before the step. m, v and
 * the norm are those of the reference, from the rounded gradients. A 16-bit value is rounded once.
 *
 * @param schedule as that of `train`
 */
export function checkHistory(
  history: History,
  trained: readonly TrainedParameter[],
  options: AdamWOptions,
  schedule: (step: number) => number = () => 1,
): void {
  const { betas: [beta1, beta2] = [0.9, 0.999], eps = 1e-8, maxNorm } = options
  const gradients = trained.map(({ dtype = 'float32', gradDtype = dtype, gradients }) =>
    gradients.map((values) => unpack(gradDtype, pack(gradDtype, values))),
  )
  const moments = trained.map(({ start: { length } }) => ({
    m: new Float64Array(length),
    /** m of the absolute gradients. The error of m is proportional to it, even if terms cancel. */
    size: new Float64Array(length),
    v: new Float64Array(length),
  }))
  let worst = 0
  for (const [step, values] of history.values.entries()) {
    const squares = gradients.map((steps) => steps[step].reduce((sum, g) => sum + g * g, 0))
    const norm = Math.sqrt(squares.reduce((sum, square) => sum + square, 0))
    if (maxNorm !== undefined) expect(Math.abs(history.norms[step] / norm - 1)).toBeLessThan(16 * ROUNDING)
    const clip = maxNorm === undefined ? 1 : Math.min(1, maxNorm / (norm + 1e-6))
    for (const [i, { name, start, dtype = 'float32' }] of trained.entries()) {
      const { lr: base, weightDecay } = ratesOf(name, options)
      const lr = base * schedule(step)
      const before = step === 0 ? unpack(dtype, pack(dtype, start)) : history.values[step - 1][name]
      const { m, size, v } = moments[i]
      expect(values[name].length).toBe(start.length)
      for (let j = 0; j < start.length; j++) {
        const g = gradients[i][step][j] * clip
        m[j] = beta1 * m[j] + (1 - beta1) * g
        size[j] = beta1 * size[j] + (1 - beta1) * Math.abs(g)
        v[j] = beta2 * v[j] + (1 - beta2) * g * g
        const rate = lr / (1 - beta1 ** (step + 1)) / (Math.sqrt(v[j] / (1 - beta2 ** (step + 1))) + eps)
        const exact = before[j] * (1 - lr * weightDecay) - rate * m[j]
        const allowed = ROUNDINGS * ROUNDING * (Math.abs(before[j]) + rate * size[j])
        const error = Math.abs(values[name][j] - exact)
        const ofType = dtype === 'float32' ? 0 : quantum(dtype, Math.abs(exact) + allowed) / 2
        if (error > ofType) worst = Math.max(worst, (error - ofType) / allowed)
        if (Number.isNaN(error)) worst = Infinity
      }
    }
  }
  expect(worst, 'error of the values in units of what is allowed').toBeLessThanOrEqual(1)
  for (const [i, { name }] of trained.entries()) {
    const { m, size, v } = moments[i]
    const limit = (2 * history.values.length + 4) * ROUNDING
    expectWithin(`exp_avg of ${name}`, history.expAvg[name], m, size, limit)
    expectWithin(`exp_avg_sq of ${name}`, history.expAvgSq[name], v, v, 2 * limit)
  }
}

/** Checks that the error of each number is at most `limit` times its scale. */
function expectWithin(
  name: string,
  actual: Float32Array,
  exact: Float64Array,
  scale: Float64Array,
  limit: number,
): void {
  expect(actual.length).toBe(exact.length)
  const wrong = exact.findIndex((value, i) => !(Math.abs(actual[i] - value) <= limit * scale[i]))
  expect(wrong < 0 ? [] : [wrong, actual[wrong], exact[wrong]], `${name}: a wrong number, and the right one`).toEqual(
    [],
  )
}

function ratesOf(name: string, { lr = 1e-3, weightDecay = 1e-2, groups = [] }: AdamWOptions) {
  const group = groups.find(({ match }) => Array.isArray(match) && match.includes(name))
  return { lr: group?.lr ?? lr, weightDecay: group?.weightDecay ?? weightDecay }
}
