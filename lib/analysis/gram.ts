/**
 * Operations on symmetric r x r matrices in float64, row-major. Only the lower triangle is read or written. The
 * singular values of a product of [r, d] matrices follow from their Gram matrices, which are much smaller.
 */

/** Columns per panel: a panel of all rows stays in the cache. */
const PANEL = 128

/** The lower triangle of the Gram matrix X Xᵀ, for X [r, columns]. */
export function gram(x: Float64Array, r: number, columns: number): Float64Array {
  const product = new Float64Array(r * r)
  for (let start = 0; start < columns; start += PANEL) {
    const length = Math.min(PANEL, columns - start)
    for (let i = 0; i < r; i++)
      for (let j = 0; j <= i; j++) product[i * r + j] += dot(x, i * columns + start, x, j * columns + start, length)
  }
  return product
}

/** The dot product of two rows. Four independent sums hide the latency of the additions. */
export function dot(x: Float64Array, xStart: number, y: Float64Array, yStart: number, length: number): number {
  let s0 = 0
  let s1 = 0
  let s2 = 0
  let s3 = 0
  let i = 0
  for (; i + 3 < length; i += 4) {
    s0 += x[xStart + i] * y[yStart + i]
    s1 += x[xStart + i + 1] * y[yStart + i + 1]
    s2 += x[xStart + i + 2] * y[yStart + i + 2]
    s3 += x[xStart + i + 3] * y[yStart + i + 3]
  }
  for (; i < length; i++) s0 += x[xStart + i] * y[yStart + i]
  return s0 + s1 + (s2 + s3)
}

/**
 * Replaces the lower triangle of a positive semidefinite matrix by its Cholesky factor L, and the upper triangle by
 * zeros. A pivot of the size of rounding errors makes its column zero: the matrix is then rank-deficient.
 */
export function cholesky(matrix: Float64Array, r: number): Float64Array {
  let largest = 0
  for (let i = 0; i < r; i++) largest = Math.max(largest, matrix[i * r + i])
  const tolerance = largest * r * Number.EPSILON
  for (let i = 0; i < r; i++) {
    for (let j = 0; j <= i; j++) {
      const rest = matrix[i * r + j] - dot(matrix, i * r, matrix, j * r, j)
      const pivot = j === i ? rest : matrix[j * r + j]
      if (j === i) matrix[i * r + i] = rest > tolerance ? Math.sqrt(rest) : 0
      else matrix[i * r + j] = pivot > 0 ? rest / pivot : 0
    }
    matrix.fill(0, i * r + i + 1, (i + 1) * r)
  }
  return matrix
}

/** The lower triangle of Lᵀ S L, for a lower triangular L and the lower triangle of a symmetric S. */
export function congruence(l: Float64Array, s: Float64Array, r: number): Float64Array {
  const sl = new Float64Array(r * r)
  for (let i = 0; i < r; i++)
    for (let k = 0; k < r; k++) {
      const factor = k <= i ? s[i * r + k] : s[k * r + i]
      for (let j = 0; j <= k; j++) sl[i * r + j] += factor * l[k * r + j]
    }
  const product = new Float64Array(r * r)
  for (let k = 0; k < r; k++)
    for (let i = 0; i <= k; i++) {
      const factor = l[k * r + i]
      for (let j = 0; j <= i; j++) product[i * r + j] += factor * sl[k * r + j]
    }
  return product
}
