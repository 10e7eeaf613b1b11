/**
 * The update of a layer's weight, dW = scaling * Cᵀ A with C = sum_e w_e B_e, from products of size r: with A Aᵀ = L Lᵀ
 * the squares of dW's singular values are the eigenvalues of scaling² Lᵀ (C Cᵀ) L. dW itself, [d_out, d_in], is never made.
 */
import { congruenceEigenvalues, gramFactor } from './eigenvalues.js'
import { entropy } from './entropy.js'

/** What the singular values of an update say. */
export interface UpdateAnalysis {
  /** Frobenius norm. */
  readonly norm: number
  /** The largest singular value. */
  readonly spectralNorm: number
  /**
   * How many directions the update has, from 0 to r: exp(-sum p ln p), p being each singular value's share of their sum
   * (Roy and Vetterli, "The effective rank", 2007). LoRA's is at most its rank.
   */
  readonly effectiveRank: number
  /** The share of the squared norm that the best update of LoRA's rank at equal parameters has; 1 for a zero update. */
  readonly sharedWithLora: number
  /** The singular values, the largest first. */
  readonly singularValues: readonly number[]
}

/** L of A Aᵀ = L Lᵀ, for the layers that share A [r, d_in]. */
export function factorOf(a: Float64Array, r: number): Float64Array {
  return gramFactor(a, r)
}

/** C [r, d_out] of b [E, r, d_out]. */
export function mix(b: Float32Array, weights: ArrayLike<number>): Float64Array {
  const mixed = new Float64Array(b.length / weights.length)
  for (let e = 0; e < weights.length; e++)
    for (let i = 0; i < mixed.length; i++) mixed[i] += weights[e] * b[e * mixed.length + i]
  return mixed
}

/**
 * @param factor of A
 * @param c [r, d_out]
 * @param loraRank of LoRA at equal parameters
 */
export function analyseUpdate(
  factor: Float64Array,
  c: Float64Array,
  r: number,
  scaling: number,
  loraRank: number,
): UpdateAnalysis {
  const squares = congruenceEigenvalues(factor, c, r)
  const singularValues = squares.map((square) => Math.abs(scaling) * Math.sqrt(Math.max(square, 0)))
  const energy = sumOf(singularValues, (value) => value * value)
  const kept = sumOf(singularValues.subarray(0, Math.floor(loraRank)), (value) => value * value)
  return {
    norm: Math.sqrt(energy),
    spectralNorm: singularValues[0],
    effectiveRank: effectiveRank(singularValues),
    sharedWithLora: energy === 0 ? 1 : kept / energy,
    singularValues: Array.from(singularValues),
  }
}

function effectiveRank(values: Float64Array): number {
  const sum = sumOf(values, (value) => value)
  return sum === 0 ? 0 : Math.exp(entropy(values.map((value) => value / sum)))
}

function sumOf(values: Float64Array, termOf: (value: number) => number): number {
  return values.reduce((sum, value) => sum + termOf(value), 0)
}
