/** How the experts of one target differ. */

export interface ExpertAnalysis {
  /** Frobenius norm of each B_e. */
  readonly norms: readonly number[]
  /** [E][E]: the cosine of each two, as vectors of r d_out numbers. 0 with an expert that is zero. */
  readonly cosines: readonly (readonly number[])[]
}

/** @param b [E, r, d_out] */
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
