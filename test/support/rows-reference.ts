/**
 * A call with an adapter per row, in float64: docs/math.md, "Adapters per row". Each adapter is a problem of its own rows,
 * which reference.ts computes.
 */
import type { Types } from './dtypes.js'
import { backward, forward, type Forward, type Gradients, Matrix, type Problem, rowsOf } from './reference.js'

/** An adapter. Mask and offsets are those of its own rows, in their order. */
export type RowsAdapter = Omit<Problem, 'x' | 'tokens' | 'dIn' | 'dOut' | 'scale' | keyof Types>

export interface RowsProblem extends Types {
  tokens: number
  dIn: number
  dOut: number
  x: ArrayLike<number>
  adapters: readonly RowsAdapter[]
  /** [M]: the adapter of each token, -1 for the base. */
  of: ArrayLike<number>
  /** [M] */
  scale?: ArrayLike<number> | undefined
}

export interface RowsForward {
  /** What the call adds: 0 in the rows of the base. */
  y: Matrix
  /** By adapter. */
  each: Forward[]
}

/** The tokens of an adapter, ascending. */
export function tokensOf({ of }: Pick<RowsProblem, 'of'>, adapter: number): number[] {
  return Array.from(of, (k, t) => (k === adapter ? t : -1)).filter((t) => t >= 0)
}

/** The ordinary problem of one adapter: its rows of x alone. */
export function problemOf(problem: RowsProblem, adapter: number): Problem {
  const { activations, parameters, precision, dIn, dOut, scale } = problem
  const tokens = tokensOf(problem, adapter)
  const x = rowsOf(Matrix.exact(problem.tokens, dIn, problem.x), tokens)
  return {
    ...{ activations, parameters, precision },
    ...problem.adapters[adapter],
    ...{ dIn, dOut, tokens: tokens.length, x: x.value },
    scale: scale && tokens.map((t) => scale[t]),
  }
}

export function forwardRows(problem: RowsProblem, exact = true): RowsForward {
  const y = new Matrix(problem.tokens, problem.dOut)
  const each = problem.adapters.map((_, k) => {
    const result = forward(problemOf(problem, k), exact)
    tokensOf(problem, k).forEach((t, i) => y.set(t, result.y.slice(i, i + 1)))
    return result
  })
  return { y, each }
}

/** dx is 0 in the rows of the base; the other gradients are by adapter. */
export function backwardRows(
  problem: RowsProblem,
  saved: RowsForward,
  dy: ArrayLike<number>,
  exact = true,
): { dx: Matrix; each: Gradients[] } {
  const dx = new Matrix(problem.tokens, problem.dIn)
  const all = Matrix.exact(problem.tokens, problem.dOut, dy)
  const each = problem.adapters.map((_, k) => {
    const tokens = tokensOf(problem, k)
    const gradients = backward(problemOf(problem, k), saved.each[k], rowsOf(all, tokens).value, exact)
    tokens.forEach((t, i) => dx.set(t, gradients.dx.slice(i, i + 1)))
    return gradients
  })
  return { dx, each }
}
