/**
 * Symmetric matrices of size r in float64, row-major, of which only the lower half is read or written. They stand for
 * matrices of [r, d] rows: what is wanted of a large product is in products of their rows.
 */

/** Columns at a time, so that a panel of all rows stays in a cache. */
const PANEL = 128

/** The lower half of X Xᵀ, of X [r, columns]. */
export function gram(x: Float64Array, r: number, columns: number): Float64Array {
  const product = new Float64Array(r * r)
  for (let start = 0; start < columns; start += PANEL) {
    const length = Math.min(PANEL, columns - start)
    for (let i = 0; i < r; i++)
      for (let j = 0; j <= i; j++) product[i * r + j] += dot(x, i * columns + start, x, j * columns + start, length)
  }
  return product
}

/** The product of two rows; in four sums, which a processor adds side by side. */
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
 * Replaces the lower half of a positive semidefinite matrix by its Cholesky factor L, which is zero above the diagonal.
 * A column whose pivot is no more than rounding is zero: the matrix has a lower rank.
 */
export function cholesky(matrix: Float64Array, r: number): Float64Array {
  let largest = 0
  for (let i = 0; i < r; i++) largest = Math.max(largest, matrix[i * r + i])
  const least = largest * r * Number.EPSILON
  for (let i = 0; i < r; i++) {
    for (let j = 0; j <= i; j++) {
      const rest = matrix[i * r + j] - dot(matrix, i * r, matrix, j * r, j)
      const pivot = j === i ? rest : matrix[j * r + j]
      if (j === i) matrix[i * r + i] = rest > least ? Math.sqrt(rest) : 0
      else matrix[i * r + j] = pivot > 0 ? rest / pivot : 0
    }
    matrix.fill(0, i * r + i + 1, (i + 1) * r)
  }
  return matrix
}

/** The lower half of Lᵀ S L, of a lower triangular L and the lower half of a symmetric S. */
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
