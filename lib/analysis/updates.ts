/**
 * Singular values of the update of a layer's weight, dW = scaling * Cᵀ A with C = sum_e w_e B_e. With the Cholesky
 * factorisation A Aᵀ = L Lᵀ, their squares are the eigenvalues of scaling² Lᵀ (C Cᵀ) L, an r x r matrix. dW itself,
 * [d_out, d_in], is not computed.
 */
import { congruenceEigenvalues } from './spectrum.js'
import { entropy } from './entropy.js'

/** The singular values of an update, and quantities derived from them. */
export interface SingularValueAnalysis {
  /** Frobenius norm. */
  readonly norm: number
  /** The largest singular value. */
  readonly spectralNorm: number
  /**
   * Effective rank, from 0 to r: exp(-sum p ln p), where p are the singular values divided by their sum (Roy and
   * Vetterli, "The effective rank", 2007). For a LoRA update it is at most LoRA's rank.
   */
  readonly effectiveRank: number
  /** Singular values, in descending order. */
  readonly singularValues: readonly number[]
}

/** The update of a layer of Lily. */
export interface UpdateAnalysis extends SingularValueAnalysis {
  /** Part of the squared norm that the best approximation by LoRA with as many parameters has; 1 for a zero update. */
  readonly sharedWithLora: number
}

/** The effective ranks of layers, in the console. */
export function rankText(layers: readonly { readonly update: SingularValueAnalysis }[]): string {
  let [least, most] = [Infinity, 0]
  for (const { update } of layers) {
    least = Math.min(least, update.effectiveRank)
    most = Math.max(most, update.effectiveRank)
  }
  return `effective rank ${least.toFixed(1)} to ${most.toFixed(1)}`
}

/**
 * C = sum_e w_e B_e, for b [E, r, d_out].
 *
 * @param combined [r, d_out], is overwritten and returned: touching new memory for each layer costs more than the sum
 */
export function combine(b: Float32Array, weights: ArrayLike<number>, combined: Float64Array): Float64Array {
  const size = combined.length
  combined.fill(0)
  for (let e = 0; e < weights.length; e++) {
    const weight = weights[e]
    const expert = b.subarray(e * size, (e + 1) * size)
    for (let i = 0; i < size; i++) combined[i] += weight * expert[i]
  }
  return combined
}

/**
 * Analyses the update of a layer of Lily.
 *
 * @param factor L of A Aᵀ = L Lᵀ
 * @param c [r, d_out]
 * @param loraRank rank at which LoRA has as many parameters
 */
export function analyseUpdate(
  factor: Float64Array,
  c: Float64Array,
  r: number,
  scaling: number,
  loraRank: number,
): UpdateAnalysis {
  const analysis = analyseSingularValues(factor, c, r, scaling)
  const { norm, singularValues } = analysis
  const kept = sumOf(singularValues.slice(0, Math.floor(loraRank)), (value) => value * value)
  return { ...analysis, sharedWithLora: norm === 0 ? 1 : kept / sumOf(singularValues, (value) => value * value) }
}

/** Analyses an update scaling * Cᵀ A; see {@link analyseUpdate}. LoRA has C = Bᵀ. */
export function analyseSingularValues(
  factor: Float64Array,
  c: Float64Array,
  r: number,
  scaling: number,
): SingularValueAnalysis {
  const squares = congruenceEigenvalues(factor, c, r)
  const singularValues = Array.from(squares, (square) => Math.abs(scaling) * Math.sqrt(Math.max(square, 0)))
  return {
    norm: Math.sqrt(sumOf(singularValues, (value) => value * value)),
    spectralNorm: singularValues[0],
    effectiveRank: effectiveRank(singularValues),
    singularValues,
  }
}

function effectiveRank(values: readonly number[]): number {
  const sum = sumOf(values, (value) => value)
  if (Number.isNaN(sum)) return NaN
  return sum === 0 ? 0 : Math.exp(entropy(values.map((value) => value / sum)))
}

function sumOf(values: readonly number[], termOf: (value: number) => number): number {
  return values.reduce((sum, value) => sum + termOf(value), 0)
}
