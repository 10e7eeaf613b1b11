/** Eigenvalues of symmetric matrices in float64, computed by the CPU backend: native/cpu/spectrum/ says how. */
import { bound } from '../binding/errors.js'
import { native } from '../binding/native.js'

/** The Cholesky factor L [r, r] of X Xᵀ = L Lᵀ, for X [r, columns]. It is zero above the diagonal. */
export function gramFactor(x: Float64Array, r: number): Float64Array {
  const l = new Float64Array(r * r)
  bound(() => {
    native.gramFactor(x, r, x.length / r, l)
  })
  return l
}

/**
 * All eigenvalues of Lᵀ (X Xᵀ) L, in descending order: the squares of the singular values of Xᵀ A, where A Aᵀ = L Lᵀ.
 */
export function congruenceEigenvalues(l: Float64Array, x: Float64Array, r: number): Float64Array {
  const values = new Float64Array(r)
  bound(() => {
    native.congruenceEigenvalues(l, x, r, x.length / r, values)
  })
  return values
}
