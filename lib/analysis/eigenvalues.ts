/**
 * Eigenvalues of a symmetric matrix without its vectors: libraries compute those too, or a singular value decomposition,
 * which takes ten times longer at the sizes here (r up to 4096).
 */

/** All eigenvalues of the matrix [n, n], whose lower half is given and is overwritten; the largest first. */
export function eigenvalues(lower: Float64Array, n: number): Float64Array {
  const { diagonal, next } = tridiagonalize(lower, n)
  return bisect(diagonal, next)
}

/** A symmetric matrix with the same eigenvalues that is zero beside its diagonal and the elements next to it. */
interface Tridiagonal {
  readonly diagonal: Float64Array
  /** next[i] couples i - 1 and i; next[0] is 0. */
  readonly next: Float64Array
}

/**
 * Householder's reflections, from the last row up: each makes a row zero but for the element before the diagonal
 * (Golub and Van Loan, Matrix Computations, 8.3.1).
 */
function tridiagonalize(lower: Float64Array, n: number): Tridiagonal {
  const next = new Float64Array(n)
  const p = new Float64Array(n)
  for (let i = n - 1; i > 0; i--) {
    const v = lower.subarray(i * n, i * n + i)
    const before = v[i - 1]
    let norm2 = 0
    for (const value of v) norm2 += value * value
    if (norm2 - before * before <= 0) {
      next[i] = before
      continue
    }
    next[i] = before > 0 ? -Math.sqrt(norm2) : Math.sqrt(norm2)
    v[i - 1] -= next[i]
    reflect(lower, n, v, norm2 - before * next[i], p)
  }
  return { diagonal: Float64Array.from({ length: n }, (_, i) => lower[i * n + i]), next }
}

/** S := H S H on the leading rows, as many as v has, with H = 1 - v vᵀ / half and half = |v|² / 2. */
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

/** Each eigenvalue is enclosed by how many lie below a number (Golub and Van Loan, 8.4.1); nothing can fail to converge. */
function bisect(diagonal: Float64Array, next: Float64Array): Float64Array {
  const n = diagonal.length
  let bound = 0
  for (let i = 0; i < n; i++) {
    const beside = Math.abs(next[i]) + (i + 1 < n ? Math.abs(next[i + 1]) : 0)
    bound = Math.max(bound, Math.abs(diagonal[i]) + beside)
  }
  const values = new Float64Array(n)
  let most = bound
  for (let k = 0; k < n; k++) {
    let low = -bound
    let high = most
    // The k-th largest has n - 1 - k below it.
    while (high - low > bound * Number.EPSILON) {
      const middle = low + (high - low) / 2
      if (middle === low || middle === high) break
      if (countBelow(diagonal, next, middle, bound) > n - 1 - k) high = middle
      else low = middle
    }
    values[k] = low + (high - low) / 2
    most = high
  }
  return values
}

/** Eigenvalues below x: the negative pivots of the matrix less x. */
function countBelow(diagonal: Float64Array, next: Float64Array, x: number, bound: number): number {
  // Stands for a pivot of zero; so small that the eigenvalues of what is counted are those of the matrix.
  const tiny = bound * Number.EPSILON ** 2
  let count = 0
  let pivot = 1
  for (let i = 0; i < diagonal.length; i++) {
    pivot = diagonal[i] - x - (next[i] * next[i]) / pivot
    if (Math.abs(pivot) < tiny) pivot = -tiny
    if (pivot < 0) count++
  }
  return count
}
