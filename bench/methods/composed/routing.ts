/** Routing of a composed call in plain JavaScript: its M * E numbers are negligible next to the matrix products. */

/** The rows from `begin` to `end` - 1. */
interface Rows {
  readonly begin: number
  readonly end: number
}

/** Converts each row of logits [M, E] to probabilities, in place. */
export function softmaxRows(values: Float32Array, experts: number): void {
  for (let row = 0; row < values.length; row += experts) {
    let largest = -Infinity
    for (let e = row; e < row + experts; e++) largest = Math.max(largest, values[e])
    let sum = 0
    for (let e = row; e < row + experts; e++) sum += values[e] = Math.exp(values[e] - largest)
    for (let e = row; e < row + experts; e++) values[e] /= sum
  }
}

/** The mean [E] of some rows of probabilities [M, E]. */
export function meanRows(values: Float32Array, experts: number, { begin, end }: Rows): Float32Array {
  const mean = new Float32Array(experts)
  for (let row = begin; row < end; row++) {
    for (let e = 0; e < experts; e++) mean[e] += values[row * experts + e]
  }
  return mean.map((sum) => sum / (end - begin))
}

/**
 * dl = p (dp - <p, dp>) for some rows, with dp = `scale` * `dProbs`.
 *
 * @param dProbs [M, E], or [E] for all rows
 */
export function softmaxBackward(
  dLogits: Float32Array,
  probs: Float32Array,
  dProbs: Float32Array,
  experts: number,
  { begin, end }: Rows,
  scale: number,
): void {
  const stride = dProbs.length > experts ? experts : 0
  for (let row = begin; row < end; row++) {
    const at = row * experts
    let inner = 0
    for (let e = 0; e < experts; e++) inner += probs[at + e] * dProbs[row * stride + e]
    for (let e = 0; e < experts; e++) dLogits[at + e] = scale * probs[at + e] * (dProbs[row * stride + e] - inner)
  }
}
