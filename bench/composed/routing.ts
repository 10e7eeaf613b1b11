/** The routing's part of a composed call, in plain JavaScript: M * E numbers, nothing next to the matrix products. */

/** Each row of logits [M, E] to probabilities, in place. */
export function softmaxRows(values: Float32Array, experts: number): void {
  for (let row = 0; row < values.length; row += experts) {
    let largest = -Infinity
    for (let e = row; e < row + experts; e++) largest = Math.max(largest, values[e])
    let sum = 0
    for (let e = row; e < row + experts; e++) sum += values[e] = Math.exp(values[e] - largest)
    for (let e = row; e < row + experts; e++) values[e] /= sum
  }
}

/** w [E]: the mean of rows begin to end of probabilities [M, E]. */
export function meanRows(values: Float32Array, experts: number, begin: number, end: number): Float32Array {
  const mean = new Float32Array(experts)
  for (let row = begin; row < end; row++) {
    for (let e = 0; e < experts; e++) mean[e] += values[row * experts + e]
  }
  return mean.map((sum) => sum / (end - begin))
}

/** dl = p (dp - <p, dp>) of rows begin to end, where dp is `scale * dw`, with a row of dw for each, or one for all. */
export function softmaxBackward(
  dl: Float32Array,
  p: Float32Array,
  dw: Float32Array,
  experts: number,
  begin: number,
  end: number,
  scale: number,
): void {
  const stride = dw.length > experts ? experts : 0
  for (let row = begin; row < end; row++) {
    const at = row * experts
    let inner = 0
    for (let e = 0; e < experts; e++) inner += p[at + e] * dw[row * stride + e]
    for (let e = 0; e < experts; e++) dl[at + e] = scale * p[at + e] * (dw[row * stride + e] - inner)
  }
}
