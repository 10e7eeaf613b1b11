/** Attention in float64: plain loops over the formulas of docs/attention.md, and a limit of the error of each number. */
import { expect } from 'vitest'
import { type Attention, type AttentionJob, type AttentionResult, makeAttention, oldValue } from './attention.js'

const NAMES = ['y', 'dq', 'dk', 'dv'] as const
type Name = (typeof NAMES)[number]

interface Reference {
  value: Record<Name, Float64Array>
  /**
   * The error of a computation that rounds each term of a sum once, in units of that rounding: sums of magnitudes. A score
   * s + e makes the probability larger by the factor 1 + e, and the exponential, its sum and the quotient have four roundings.
   */
  error: Record<Name, Float64Array>
}

/**
 * Results may differ from the reference by this many units. The worst of 3000 random problems had 3.6, and an operand that is
 * rounded to bfloat16 or TF32 gives hundreds or more.
 */
const LIMIT = 8

const ROUNDING = 2 ** -24

/** Kernels take exponentials below e^-87, 1.6e-38, for zero. */
const TINY = 1e-30

export function attention(problem: Attention): Reference {
  const { batch, tokens, keys, heads, dHead, causal = false, scale = 1 / Math.sqrt(dHead), mask } = problem
  const { q, k, v, dy } = problem
  const d = heads * dHead
  const results = () => {
    const [ofQueries, ofKeys] = [batch * tokens * d, batch * keys * d]
    const values = { y: ofQueries, dq: ofQueries, dk: ofKeys, dv: ofKeys }
    return Object.fromEntries(NAMES.map((name) => [name, new Float64Array(values[name])])) as Reference['value']
  }
  const [value, error] = [results(), results()]
  const dot = (a: Float32Array, i: number, b: Float32Array, j: number) => {
    let [sum, magnitude] = [0, 0]
    for (let c = 0; c < dHead; c++) {
      const term = a[i + c] * b[j + c]
      sum += term
      magnitude += Math.abs(term)
    }
    return [sum, magnitude]
  }
  for (let item = 0; item < batch; item++) {
    for (let head = 0; head < heads; head++) {
      for (let query = 0; query < tokens; query++) {
        const at = (item * tokens + query) * d + head * dHead
        const seen = Array.from({ length: keys }, (_, key) => key)
          .filter((key) => !causal || key <= query + keys - tokens)
          .filter((key) => mask === undefined || mask[item * keys + key] !== 0)
          .map((key) => ({ from: (item * keys + key) * d + head * dHead }))
          .map(({ from }) => ({ from, score: dot(q, at, k, from), change: dot(dy, at, v, from) }))
        const largest = Math.max(...seen.map(({ score }) => score[0] * scale))
        const total = seen.reduce((sum, { score }) => sum + Math.exp(score[0] * scale - largest), 0)
        // The mean of the changes, which the change of a probability is compared with.
        let [mean, meanMagnitude] = [0, 0]
        const all = seen.map(({ from, score, change }) => {
          const p = Math.exp(score[0] * scale - largest) / total
          mean += p * change[0]
          meanMagnitude += p * change[1]
          return { from, p, relative: 4 + Math.abs(scale) * score[1], change }
        })
        const most = Math.max(...all.map(({ relative }) => relative))
        for (const { from, p, change } of all) {
          const ds = p * (change[0] - mean) * scale
          const dsError = p * most * (change[1] + meanMagnitude) * Math.abs(scale)
          for (let c = 0; c < dHead; c++) {
            value.y[at + c] += p * v[from + c]
            error.y[at + c] += p * most * Math.abs(v[from + c])
            value.dv[from + c] += p * dy[at + c]
            error.dv[from + c] += p * most * Math.abs(dy[at + c])
            value.dq[at + c] += ds * k[from + c]
            error.dq[at + c] += dsError * Math.abs(k[from + c])
            value.dk[from + c] += ds * q[at + c]
            error.dk[from + c] += dsError * Math.abs(q[at + c])
          }
        }
      }
    }
  }
  return { value, error }
}

/** What the reference computed of a problem: it runs on several instruction sets. */
const references = new WeakMap<object, Reference>()

/** Compares the results with the reference, and checks the memory around the operands. */
export function expectMatches({ spec, how }: AttentionJob, result: AttentionResult): void {
  expect(result.damaged, 'operands written to where they must not be').toEqual([])
  const reference = references.get(spec) ?? attention(makeAttention(spec))
  references.set(spec, reference)
  for (const name of NAMES) {
    const [value, error] = [reference.value[name], reference.error[name]]
    expect(result[name].length).toBe(value.length)
    let worst = 0
    for (let i = 0; i < value.length; i++) {
      const before = how.outputs === 'add' && name !== 'y' ? oldValue(i) : 0
      const difference = Math.abs(result[name][i] - (value[i] + before))
      const allowed = ROUNDING * (error[i] + Math.abs(value[i]) + Math.abs(before)) + TINY
      if (difference > 0 || Number.isNaN(difference)) worst = Math.max(worst, difference / allowed)
    }
    expect(worst, `${name} of ${JSON.stringify(spec)}: error in units of the expected one`).toBeLessThanOrEqual(LIMIT)
  }
}
