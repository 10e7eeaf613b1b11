/**
 * Eigenvalues of a symmetric matrix, without eigenvectors. The available libraries compute eigenvectors too, or a
 * singular value decomposition, which takes ten times longer at the sizes used here (r up to 4096).
 */

/**
 * All eigenvalues of a symmetric matrix [n, n], in descending order. Only its lower triangle is read; it is
 * overwritten.
 */
export function eigenvalues(lower: Float64Array, n: number): Float64Array {
  return bisect(tridiagonalize(lower, n))
}

/** A symmetric tridiagonal matrix. */
interface Tridiagonal {
  readonly diagonal: Float64Array
  /** offDiagonal[i] is the element in row i, column i - 1; offDiagonal[0] is 0. */
  readonly offDiagonal: Float64Array
}

/**
 * Reduces a symmetric matrix to a tridiagonal one with the same eigenvalues, by Householder reflections from the last
 * row up. Each makes the elements of one row to the left of the subdiagonal zero (Golub and Van Loan, Matrix
 * Computations, 8.3.1).
 */
function tridiagonalize(lower: Float64Array, n: number): Tridiagonal {
  const offDiagonal = new Float64Array(n)
  const p = new Float64Array(n)
  for (let i = n - 1; i > 0; i--) {
    const v = lower.subarray(i * n, i * n + i)
    const subdiagonal = v[i - 1]
    let norm2 = 0
    for (const value of v) norm2 += value * value
    if (norm2 - subdiagonal * subdiagonal <= 0) {
      offDiagonal[i] = subdiagonal
      continue
    }
    offDiagonal[i] = subdiagonal > 0 ? -Math.sqrt(norm2) : Math.sqrt(norm2)
    v[i - 1] -= offDiagonal[i]
    reflect(lower, n, v, norm2 - subdiagonal * offDiagonal[i], p)
  }
  return { diagonal: Float64Array.from({ length: n }, (_, i) => lower[i * n + i]), offDiagonal }
}

/**
 * S := H S H for the leading submatrix of the size of v, with H = I - v vᵀ / half and half = |v|² / 2.
 *
 * @param p scratch memory of at least that size
 */
function reflect(lower: Float64Array, n: number, v: Float64Array, half: number, p: Float64Array): void {
  const size = v.length
  p.fill(0, 0, size)
  for (let i = 0; i < size; i++) {
    const row = i * n
    const vi = v[i]
    let sum = lower[row + i] * vi
    for (let j = 0; j < i; j++) {
      const value = lower[row + j]
      sum += value * v[j]
      p[j] += value * vi
    }
    p[i] += sum
  }
  let projection = 0
  for (let i = 0; i < size; i++) {
    p[i] /= half
    projection += p[i] * v[i]
  }
  projection /= 2 * half
  for (let i = 0; i < size; i++) p[i] -= projection * v[i]
  for (let i = 0; i < size; i++) {
    const row = i * n
    const vi = v[i]
    const pi = p[i]
    for (let j = 0; j <= i; j++) lower[row + j] -= vi * p[j] + pi * v[j]
  }
}

/**
 * Eigenvalues of a tridiagonal matrix by bisection on the number of eigenvalues below a point (Golub and Van Loan,
 * 8.4.1). The bisection always converges.
 */
function bisect(matrix: Tridiagonal): Float64Array {
  const { diagonal, offDiagonal } = matrix
  const n = diagonal.length
  // Gershgorin's bound of the absolute values.
  let bound = 0
  for (let i = 0; i < n; i++) {
    const radius = Math.abs(offDiagonal[i]) + (i + 1 < n ? Math.abs(offDiagonal[i + 1]) : 0)
    bound = Math.max(bound, Math.abs(diagonal[i]) + radius)
  }
  const values = new Float64Array(n)
  let upper = bound
  for (let k = 0; k < n; k++) {
    let low = -bound
    let high = upper
    // n - 1 - k eigenvalues are smaller than the k-th largest.
    while (high - low > bound * Number.EPSILON) {
      const middle = low + (high - low) / 2
      if (middle === low || middle === high) break
      if (countBelow(matrix, middle, bound) > n - 1 - k) high = middle
      else low = middle
    }
    values[k] = low + (high - low) / 2
    upper = high
  }
  return values
}

/** The number of eigenvalues below x: the number of negative pivots of the matrix minus x I. */
function countBelow({ diagonal, offDiagonal }: Tridiagonal, x: number, bound: number): number {
  // Replaces a pivot of zero. It is too small to change an eigenvalue beyond rounding.
  const tiny = bound * Number.EPSILON ** 2
  let count = 0
  let pivot = 1
  for (let i = 0; i < diagonal.length; i++) {
    pivot = diagonal[i] - x - (offDiagonal[i] * offDiagonal[i]) / pivot
    if (Math.abs(pivot) < tiny) pivot = -tiny
    if (pivot < 0) count++
  }
  return count
}
