/**
 * The error of freezing a layer, from sums over its calls; it needs neither their inputs nor their outputs.
 *
 * The expert e adds u_te = s h_t B_e to a token t. With the weights w_g of its group the layer adds sum_e w_ge u_te, and frozen
 * to w it adds sum_e w_e u_te. Of a group the Gram matrix of the experts' outputs is G_g, [E, E], with the elements
 *
 *     (G_g)_ef = sum_t u_te . u_tf = sum_t h_t (s^2 B_e B_f^T) h_t^T = s^2 tr(B_e B_f^T H_g),  H_g = sum_t h_t^T h_t,
 *
 * where the r x r products B_e B_f^T are the same for all calls. So
 *
 *     |routed|^2          = sum_g w_g^T G_g w_g
 *     |frozen - routed|^2 = sum_g (w - w_g)^T G_g (w - w_g) = d^T (sum_g G_g) d - 2 d . (sum_g G_g d_g) + sum_g d_g^T G_g d_g,
 *
 * with d = w - v and d_g = w_g - v for any v. The three sums do not depend on w, which is known only at the end. v is the
 * weights of the first group: the differences are then small, and cancel little.
 */
import { toFloat32 } from '../tensor/numbers.js'
import type { Tensor } from '../tensor/tensor.js'

/** The products s^2 B_e B_f^T of the experts of one B. */
export interface ExpertProducts {
  readonly experts: number
  readonly rank: number
  /**
   * For each e <= f, and for each i <= j of the rank: the elements (i, j) and (j, i), added up if they are two, since H_g is
   * symmetric.
   */
  readonly pairs: readonly Float64Array[]
}

/** @param b [E*r, d_out] */
export async function productsOf(b: Tensor, experts: number, rank: number, scaling: number): Promise<ExpertProducts> {
  const [, dOut] = b.shape
  const { dtype, data } = await b.toHost()
  const values = toFloat32(dtype, data)
  const rows = Array.from({ length: experts * rank }, (_, row) => values.subarray(row * dOut, (row + 1) * dOut))
  const pairs: Float64Array[] = []
  for (let e = 0; e < experts; e++) {
    for (let f = e; f < experts; f++) {
      const pair = new Float64Array((rank * (rank + 1)) / 2)
      let at = 0
      for (let i = 0; i < rank; i++) {
        for (let j = i; j < rank; j++) {
          let sum = dot(rows[e * rank + i], rows[f * rank + j])
          if (i !== j) sum += dot(rows[e * rank + j], rows[f * rank + i])
          pair[at++] = scaling * scaling * sum
        }
      }
      pairs.push(pair)
    }
  }
  return { experts, rank, pairs }
}

/** The sums of one layer. */
export class FreezingError {
  /** sum_g G_g, sum_g G_g d_g, sum_g d_g^T G_g d_g and sum_g w_g^T G_g w_g. */
  readonly #gram: Float64Array
  readonly #crossed: Float64Array
  #squared = 0
  #routed = 0
  /** v, once there was a group. */
  #first: Float64Array | null = null

  constructor(private readonly products: ExpertProducts) {
    const { experts } = products
    this.#gram = new Float64Array(experts * experts)
    this.#crossed = new Float64Array(experts)
  }

  /**
   * Adds a call.
   *
   * @param weights [G, E]
   * @param hidden [M, r]; each group has M / G consecutive rows
   */
  add(weights: Float32Array, hidden: Float32Array): void {
    const { experts, rank } = this.products
    const groups = weights.length / experts
    const size = hidden.length / groups
    const moments = new Float64Array((rank * (rank + 1)) / 2)
    for (let g = 0; g < groups; g++) {
      const own = Float64Array.from(weights.subarray(g * experts, (g + 1) * experts))
      const first = (this.#first ??= own)
      addMoments(moments.fill(0), hidden.subarray(g * size, (g + 1) * size), rank)
      const gram = this.#gramOf(moments)
      const difference = own.map((weight, e) => weight - first[e])
      const image = product(gram, difference)
      gram.forEach((value, i) => (this.#gram[i] += value))
      image.forEach((value, e) => (this.#crossed[e] += value))
      this.#squared += dot(difference, image)
      this.#routed += dot(own, product(gram, own))
    }
  }

  /** |frozen - routed| / |routed| for the layer frozen to these weights. */
  relativeTo(weights: Float32Array): number {
    const first = this.#first
    if (first === null) return 0
    const d = Float64Array.from(weights, (weight, e) => weight - first[e])
    const error = dot(d, product(this.#gram, d)) - 2 * dot(d, this.#crossed) + this.#squared
    // Rounding may leave a negative number where there is no error.
    return error <= 0 ? 0 : Math.sqrt(error / this.#routed)
  }

  /** G_g, from the moments H_g. */
  #gramOf(moments: Float64Array): Float64Array {
    const { experts, pairs } = this.products
    const gram = new Float64Array(experts * experts)
    let at = 0
    for (let e = 0; e < experts; e++) {
      for (let f = e; f < experts; f++) {
        gram[e * experts + f] = gram[f * experts + e] = dot(pairs[at++], moments)
      }
    }
    return gram
  }
}

/** Adds the products h_i h_j, i <= j, of rows [., r]. */
function addMoments(moments: Float64Array, rows: Float32Array, rank: number): void {
  for (let start = 0; start < rows.length; start += rank) {
    let at = 0
    for (let i = 0; i < rank; i++) {
      const left = rows[start + i]
      for (let j = i; j < rank; j++) moments[at++] += left * rows[start + j]
    }
  }
}

function dot(left: Float32Array | Float64Array, right: Float32Array | Float64Array): number {
  let sum = 0
  for (let i = 0; i < left.length; i++) sum += left[i] * right[i]
  return sum
}

/** A square matrix times a vector. */
function product(matrix: Float64Array, vector: Float64Array): Float64Array {
  const size = vector.length
  return vector.map((_, row) => dot(matrix.subarray(row * size, (row + 1) * size), vector))
}
