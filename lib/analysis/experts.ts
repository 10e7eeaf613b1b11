/** Comparison of the experts of one target. */

/** Norms and similarities of the experts B_e. */
export interface ExpertAnalysis {
  /** Frobenius norm of each B_e. */
  readonly norms: readonly number[]
  /** [E][E]: the cosine similarity of each pair, as vectors of r * d_out elements; 0 if an expert is zero. */
  readonly cosines: readonly (readonly number[])[]
}

/**
 * Compares experts.
 *
 * @param b [E, r, d_out]
 */
export function analyseExperts(b: Float32Array, experts: number): ExpertAnalysis {
  const size = b.length / experts
  const product = (e: number, f: number) => {
    let sum = 0
    for (let i = 0; i < size; i++) sum += b[e * size + i] * b[f * size + i]
    return sum
  }
  const indices = Array.from({ length: experts }, (_, e) => e)
  const norms = indices.map((e) => Math.sqrt(product(e, e)))
  const cosine = (e: number, f: number) => {
    if (e === f) return norms[e] > 0 ? 1 : 0
    return norms[e] * norms[f] > 0 ? product(e, f) / (norms[e] * norms[f]) : 0
  }
  return { norms, cosines: indices.map((e) => indices.map((f) => cosine(e, f))) }
}
