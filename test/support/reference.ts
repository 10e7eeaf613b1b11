/**
 * The operation in float64: plain loops over the published formulas (arXiv 2407.09946), independent of lib/.
 *
 * Every matrix carries, besides its values, the variance of the error that a plain computation in the data types of the
 * problem would have, in units of the float32 rounding squared, under the assumption of independent errors: the errors
 * of the terms of a sum, the rounding of each partial sum to float32, and every rounding to 16 bits. From this, tests
 * derive a tolerance for any shape, also if terms cancel.
 *
 * With `exact: false` the same formulas give the plain computation: they round everything that a 16-bit computation may
 * round. With 16-bit activations these are hidden and the operands of matrix units: the combined b, or u = p (x) h of
 * token routing, and the gradient of hidden; with float32 parameters also a, router and b. Precision 'high' rounds none of
 * them. In float32, precision 'tf32' rounds both operands of each large product to two bfloat16 terms, as the CPU does with
 * AMX. The caller rounds the results, after accumulating them.
 */
import { type Dropout, maskOf, thresholdOf } from './philox.js'
import { quantum, round, type Rounded, roundoff, type Float, type Types } from './dtypes.js'

export type Routing = 'batch' | 'sequence' | 'token' | 'uniform' | 'fixed' | 'learned' | 'lora'

/** Row-major operands. b is [E * r, dOut], or [dOut, r] for routing 'lora', which has no router and one expert. */
export interface Problem extends Types {
  routing: Routing
  pool?: 'probabilities' | 'logits' | undefined
  activation?: 'none' | 'relu' | undefined
  scaling?: number | undefined
  tokens: number
  dIn: number
  dOut: number
  rank: number
  experts: number
  x: ArrayLike<number>
  a: ArrayLike<number>
  /** [E, r]; for learned [E], the logits. */
  router?: ArrayLike<number> | undefined
  b: ArrayLike<number>
  /** [M], 1 keeps a token; for batch and sequence. */
  mask?: ArrayLike<number> | undefined
  /** [G + 1]; for sequence and fixed. Any numbers: an offset counts as the largest of those up to it, from 0 to M. */
  offsets?: ArrayLike<number> | undefined
  /** [G, E]; for fixed. */
  weights?: ArrayLike<number> | undefined
  /** [M]: a factor on what the call adds to each row of y. */
  scale?: ArrayLike<number> | undefined
  dropout?: Dropout | undefined
}

export interface Forward {
  y: Matrix
  hidden: Matrix
  /** [M, E]; for token routing, and for batch and sequence with pooled probabilities. */
  probabilities: Matrix | undefined
  /** [G, E]: the weight of every expert in every group; [M, E] for token routing. */
  weights: Matrix
}

export interface Gradients {
  dx: Matrix
  da: Matrix
  dRouter: Matrix
  db: Matrix
  /** [G, E]: of w. */
  dWeights: Matrix
}

export class Matrix {
  constructor(
    readonly rows: number,
    readonly cols: number,
    readonly value = new Float64Array(rows * cols),
    readonly variance = new Float64Array(rows * cols),
  ) {}

  static exact(rows: number, cols: number, values: ArrayLike<number>): Matrix {
    if (values.length !== rows * cols) throw new Error(`${values.length} numbers for ${rows} x ${cols}`)
    return new Matrix(rows, cols, new Float64Array(values))
  }

  reshape(rows: number, cols: number): Matrix {
    return new Matrix(rows, cols, this.value, this.variance)
  }

  /** Rows first .. last - 1, as a view. */
  slice(first: number, last: number): Matrix {
    const range = [first * this.cols, last * this.cols] as const
    return new Matrix(last - first, this.cols, this.value.subarray(...range), this.variance.subarray(...range))
  }

  /** Copies rows to first, first + 1, ... */
  set(first: number, rows: Matrix): void {
    this.value.set(rows.value, first * this.cols)
    this.variance.set(rows.variance, first * this.cols)
  }

  transpose(): Matrix {
    const result = new Matrix(this.cols, this.rows)
    for (let i = 0; i < this.rows; i++)
      for (let j = 0; j < this.cols; j++) {
        result.value[j * this.rows + i] = this.value[i * this.cols + j]
        result.variance[j * this.rows + i] = this.variance[i * this.cols + j]
      }
    return result
  }

  /** this + factor * other */
  plus(other: Matrix, factor = 1): Matrix {
    const result = new Matrix(this.rows, this.cols)
    for (let i = 0; i < result.value.length; i++) {
      result.value[i] = this.value[i] + factor * other.value[i]
      result.variance[i] = this.variance[i] + factor ** 2 * other.variance[i] + result.value[i] ** 2
    }
    return result
  }

  times(factor: number): Matrix {
    return new Matrix(this.rows, this.cols).plus(this, factor)
  }

  /** Rounds to a type, or keeps the values and adds the variance of rounding: a uniform distribution between two numbers. */
  rounded(dtype: Rounded | undefined, exact: boolean): Matrix {
    if (dtype === undefined || dtype === 'float32') return this
    if (!exact)
      return new Matrix(
        this.rows,
        this.cols,
        this.value.map((v) => round(dtype, v)),
        this.variance,
      )
    const variance = this.variance.map((old, i) => old + roundingVariance(dtype, this.value[i]))
    return new Matrix(this.rows, this.cols, this.value, variance)
  }
}

/** Variance of rounding a value that is uniformly distributed between two numbers of a type. */
function roundingVariance(dtype: Rounded, value: number): number {
  const distance = quantum(dtype, value) / roundoff('float32')
  return (distance * distance) / 12
}

/** a [m, k] times b [k, n] */
function multiply(a: Matrix, b: Matrix): Matrix {
  const result = new Matrix(a.rows, b.cols)
  const n = b.cols
  for (let i = 0; i < a.rows; i++) {
    const value = result.value.subarray(i * n, (i + 1) * n)
    const variance = result.variance.subarray(i * n, (i + 1) * n)
    for (let k = 0; k < a.cols; k++) {
      const left = a.value[i * a.cols + k]
      const leftVariance = a.variance[i * a.cols + k]
      for (let j = 0, at = k * n; j < n; j++, at++) {
        const right = b.value[at]
        const sum = value[j] + left * right
        value[j] = sum
        variance[j] += leftVariance * right * right + left * left * b.variance[at] + sum * sum
      }
    }
  }
  return result
}

/** The error of a vectorised exp is about two roundings. */
const EXP_VARIANCE = 4

/** softmax of every row. An absolute error of a logit is a relative error of its exponential. */
function softmax(logits: Matrix): Matrix {
  const result = new Matrix(logits.rows, logits.cols)
  for (let i = 0; i < logits.rows; i++) {
    const row = logits.slice(i, i + 1)
    const max = Math.max(...row.value)
    const exps = Array.from(row.value, (l) => Math.exp(l - max))
    const sum = exps.reduce((total, e) => total + e, 0)
    const relative = Array.from(row.value, (l, e) => row.variance[e] + (l - max) ** 2 + EXP_VARIANCE)
    const ofSum = exps.reduce((total, e, j) => total + (e / sum) ** 2 * relative[j], 0)
    exps.forEach((e, j) => {
      result.value[i * logits.cols + j] = e / sum
      result.variance[i * logits.cols + j] = (e / sum) ** 2 * (relative[j] + ofSum + 1)
    })
  }
  return result
}

/** Gradient of softmax: p * (dp - <p, dp>), for every row of p; dp is one row for all of them. */
function softmaxGradient(p: Matrix, dp: Matrix): Matrix {
  const result = new Matrix(p.rows, p.cols)
  for (let i = 0; i < p.rows; i++) {
    const pRow = p.slice(i, i + 1)
    const mean = multiply(pRow, dp.transpose())
    for (let e = 0; e < p.cols; e++) {
      const difference = dp.value[e] - mean.value[0]
      const variance = dp.variance[e] + mean.variance[0] + difference ** 2
      result.value[i * p.cols + e] = pRow.value[e] * difference
      result.variance[i * p.cols + e] =
        pRow.value[e] ** 2 * (variance + difference ** 2) + pRow.variance[e] * difference ** 2
    }
  }
  return result
}

/**
 * The variance that the errors of dw add to the gradient of the router, the sum over tokens of softmaxGradient(p, dw) (x) h.
 * All tokens of a group share them, so they grow with the number of tokens, not with its root: after ReLU no h is negative,
 * and nothing cancels. The gradient is linear in dw; its sensitivity to dw_j is the gradient for a unit vector.
 */
function sharedVariance(p: Matrix, dw: Matrix, hidden: Matrix): Float64Array {
  const [experts, rank] = [dw.cols, hidden.cols]
  const result = new Float64Array(experts * rank)
  const sensitivity = new Float64Array(experts * rank)
  for (let j = 0; j < experts; j++) {
    sensitivity.fill(0)
    for (let t = 0; t < p.rows; t++)
      for (let e = 0; e < experts; e++) {
        // softmaxGradient of the unit vector, without its variance.
        const gradient = p.value[t * experts + e] * ((e === j ? 1 : 0) - p.value[t * experts + j])
        for (let i = 0; i < rank; i++) sensitivity[e * rank + i] += gradient * hidden.value[t * rank + i]
      }
    sensitivity.forEach((of, i) => (result[i] += of * of * dw.variance[j]))
  }
  return result
}

interface Group {
  first: number
  last: number
  /** Tokens that the mask keeps. */
  kept: number[]
}

function groupsOf({ routing, tokens, mask, offsets }: Problem): Group[] {
  const given = Array.from(offsets ?? [0, tokens])
  const bounds =
    routing === 'token'
      ? Array.from({ length: tokens + 1 }, (_, t) => t)
      : given.map((_, g) => Math.min(Math.max(0, ...given.slice(0, g + 1)), tokens))
  return bounds.slice(1).map((last, g) => {
    const first = bounds[g]
    const all = Array.from({ length: last - first }, (_, i) => first + i)
    return { first, last, kept: all.filter((t) => !mask || mask[t] !== 0) }
  })
}

const isPooled = (problem: Problem) => problem.routing === 'batch' || problem.routing === 'sequence'
const isRouted = (problem: Problem) => isPooled(problem) || problem.routing === 'token'

/** Matrices of a number of columns, one below the other. */
function stack(cols: number, parts: Matrix[]): Matrix {
  const result = new Matrix(
    parts.reduce((rows, part) => rows + part.rows, 0),
    cols,
  )
  let first = 0
  for (const part of parts) {
    result.set(first, part)
    first += part.rows
  }
  return result
}

/** Some rows of a matrix. */
export const rowsOf = (matrix: Matrix, indices: readonly number[]) =>
  stack(
    matrix.cols,
    indices.map((i) => matrix.slice(i, i + 1)),
  )

/** A matrix with one row per group: the sum of the kept rows of the group. */
function sumOfKept(rows: Matrix, groups: Group[]): Matrix {
  const choice = new Matrix(groups.length, rows.rows)
  groups.forEach(({ kept }, g) => {
    for (const t of kept) choice.value[g * rows.rows + t] = 1
  })
  return multiply(choice, rows)
}

/** Multiplies row i by factors[i]. */
function scaleRows(matrix: Matrix, factors: number[]): Matrix {
  const result = new Matrix(matrix.rows, matrix.cols)
  factors.forEach((factor, i) => {
    const scaled = matrix.slice(i, i + 1).times(factor)
    result.set(i, scaled)
  })
  return result
}

/** The rows times the factors of a call, in a type. */
function scaled(rows: Matrix, scale: ArrayLike<number> | undefined, type: Float | undefined, exact: boolean): Matrix {
  return scale === undefined ? rows : scaleRows(rows, Array.from(scale)).rounded(type, exact)
}

/** Roundings of intermediate values. */
interface Rounding {
  /** Type of hidden and of other intermediate operands of matrix units. */
  operands: Float | undefined
  /** Type of parameters as operands of matrix units, if it differs from their own. */
  parameters: Float | undefined
  /** Both operands of each large product, which keep their type elsewhere. */
  factors: Rounded | undefined
  exact: boolean
}

function roundingOf({ activations, parameters = activations, precision }: Types, exact: boolean): Rounding {
  const isMixed = parameters !== activations
  const operands = isMixed && precision === 'high' ? undefined : activations
  const isFloat32 = (activations ?? 'float32') === 'float32'
  const factors = isFloat32 && precision === 'tf32' ? 'terms' : undefined
  return { operands, parameters: isMixed ? operands : undefined, factors, exact }
}

function parameter(rows: number, cols: number, values: ArrayLike<number>, rounding: Rounding): Matrix {
  return Matrix.exact(rows, cols, values).rounded(rounding.parameters, rounding.exact)
}

/** b as [E * r, dOut] */
function expertsOf(problem: Problem, rounding: Rounding): Matrix {
  const { rank, experts, dOut, b } = problem
  if (problem.routing === 'lora') return parameter(dOut, rank, b, rounding).transpose()
  return parameter(experts * rank, dOut, b, rounding)
}

/**
 * C_g as an operand. A computation that multiplies w_ge h by B_e rounds w_ge h instead, which is the larger error if the
 * terms of C_g cancel. A single weight of 1 requires no combination.
 */
function combine(weights: Matrix, g: number, b: Matrix, rank: number, { operands, factors, exact }: Rounding): Matrix {
  const flat = b.reshape(weights.cols, rank * b.cols)
  const row = weights.slice(g, g + 1)
  const combined = multiply(row, flat).reshape(rank, b.cols)
  if (weights.cols === 1 && row.value[0] === 1) return combined.rounded(factors, exact)
  const type = factors ?? operands
  const result = combined.rounded(type, exact)
  if (type === undefined || type === 'float32' || !exact) return result
  result.variance.forEach((of, i) => {
    let squares = 0
    for (let e = 0, at = i; e < row.cols; e++, at += flat.cols) {
      const term = row.value[e] * flat.value[at]
      squares += term * term
    }
    result.variance[i] = Math.max(of, combined.variance[i] + roundingVariance(type, Math.sqrt(squares)))
  })
  return result
}

/** A frozen linear layer: weight is [dOut, dIn]. */
export interface Linear extends Types {
  tokens: number
  dIn: number
  dOut: number
  x: ArrayLike<number>
  weight: ArrayLike<number>
  bias: ArrayLike<number> | undefined
  dy: ArrayLike<number>
}

/** y = x W^T + bias and dx = dy W. */
export function linear(problem: Linear, exact = true): { y: Matrix; dx: Matrix } {
  const { tokens, dIn, dOut, bias } = problem
  const rounding = roundingOf(problem, exact)
  const factor = (matrix: Matrix) => matrix.rounded(rounding.factors, exact)
  const weight = factor(parameter(dOut, dIn, problem.weight, rounding))
  const y = multiply(factor(Matrix.exact(tokens, dIn, problem.x)), weight.transpose())
  const ones = Matrix.exact(tokens, 1, new Float64Array(tokens).fill(1))
  return {
    y: bias === undefined ? y : y.plus(multiply(ones, Matrix.exact(1, dOut, bias))),
    dx: multiply(factor(Matrix.exact(tokens, dOut, problem.dy)), weight),
  }
}

/** Dropout of x: the kept elements, and the factor on the products with them. */
function dropOut({ tokens, dIn, x, dropout }: Problem): { x: Matrix; mask: Uint8Array | undefined; factor: number } {
  const values = Matrix.exact(tokens, dIn, x)
  if (dropout === undefined) return { x: values, mask: undefined, factor: 1 }
  const mask = maskOf(tokens, dIn, dropout)
  dropWhereZero(values, mask)
  return { x: values, mask, factor: 65536 / (65536 - thresholdOf(dropout.rate)) }
}

function dropWhereZero(matrix: Matrix, mask: Uint8Array): void {
  mask.forEach((keeps, i) => {
    if (keeps === 0) matrix.value[i] = matrix.variance[i] = 0
  })
}

/** w of learned mixtures, [1, E]. */
function learnedWeights({ experts, router = [] }: Problem, rounding: Rounding): Matrix {
  return softmax(parameter(1, experts, router, rounding))
}

export function forward(problem: Problem, exact = true): Forward {
  const { tokens, dOut, rank, dIn, experts, scaling = 1, pool = 'probabilities' } = problem
  const rounding = roundingOf(problem, exact)
  const { x, factor: dropoutFactor } = dropOut(problem)
  const a = parameter(rank, dIn, problem.a, rounding)
  const b = expertsOf(problem, rounding)
  const groups = groupsOf(problem)

  const factor = (matrix: Matrix) => matrix.rounded(rounding.factors, exact)

  const sums = multiply(factor(x), factor(a).transpose())
  const hidden = (dropoutFactor === 1 ? sums : sums.times(dropoutFactor)).rounded(rounding.operands, exact)
  if (problem.activation === 'relu')
    hidden.value.forEach((h, i) => {
      if (h <= 0) hidden.value[i] = hidden.variance[i] = 0
    })

  let probabilities: Matrix | undefined
  let weights: Matrix
  if (isRouted(problem)) {
    const logits = multiply(hidden, parameter(experts, rank, problem.router ?? [], rounding).transpose())
    if (isPooled(problem) && pool === 'logits') {
      weights = softmax(sumOfKept(logits, groups))
      weights = scaleRows(
        weights,
        groups.map(({ kept }) => (kept.length > 0 ? 1 : 0)),
      )
    } else {
      probabilities = softmax(logits)
      weights = scaleRows(
        sumOfKept(probabilities, groups),
        groups.map(({ kept }) => 1 / Math.max(kept.length, 1)),
      )
    }
  } else if (problem.routing === 'fixed') {
    weights = Matrix.exact(groups.length, experts, problem.weights ?? [])
  } else if (problem.routing === 'learned') {
    weights = learnedWeights(problem, rounding)
  } else {
    const ones = new Float64Array(groups.length * experts).fill(1)
    weights = Matrix.exact(groups.length, experts, ones).times(1 / experts)
  }

  const left = scaled(hidden, problem.scale, rounding.operands, exact)
  const y = new Matrix(tokens, dOut)
  groups.forEach(({ first, last }, g) => {
    if (first === last) return
    const part = multiply(factor(left.slice(first, last)), combine(weights, g, b, rank, rounding)).times(scaling)
    y.set(first, part)
  })
  return { y, hidden, probabilities, weights }
}

export function backward(problem: Problem, saved: Forward, dyValues: ArrayLike<number>, exact = true): Gradients {
  const { tokens, dIn, dOut, rank, experts, scaling = 1 } = problem
  const rounding = roundingOf(problem, exact)
  const { x, mask, factor: dropoutFactor } = dropOut(problem)
  const a = parameter(rank, dIn, problem.a, rounding)
  const b = expertsOf(problem, rounding)
  const dy = scaled(Matrix.exact(tokens, dOut, dyValues), problem.scale, problem.activations, exact)
  const groups = groupsOf(problem)
  const { hidden, weights } = saved
  const factor = (matrix: Matrix) => matrix.rounded(rounding.factors, exact)

  const dWeights = new Matrix(groups.length, experts)
  const db = new Matrix(experts * rank, dOut)
  let dHidden = new Matrix(tokens, rank)
  groups.forEach(({ first, last }, g) => {
    if (first === last) return
    const [hGroup, dyGroup] = [factor(hidden.slice(first, last)), factor(dy.slice(first, last))]
    const q = multiply(dyGroup, combine(weights, g, b, rank, rounding).transpose()).times(scaling)
    dHidden.set(first, q)

    const d = multiply(hGroup.transpose(), dyGroup).times(scaling)
    const share = multiply(weights.slice(g, g + 1).transpose(), d.reshape(1, rank * dOut))
    for (let i = 0; i < db.value.length; i++) {
      db.value[i] += share.value[i]
      db.variance[i] += share.variance[i] + db.value[i] ** 2
    }
    const dw = multiply(b.reshape(experts, rank * dOut), d.reshape(rank * dOut, 1))
    dWeights.set(g, dw)
  })

  let dRouter = new Matrix(experts, rank)
  if (problem.routing === 'learned') dRouter = softmaxGradient(weights, dWeights).transpose()
  if (isRouted(problem)) {
    const dLogits = new Matrix(tokens, experts)
    // For every kept token, or with pooled logits for every group: the gradient of the logits for an exact dw, and hidden.
    const [left, right]: [Matrix[], Matrix[]] = [[], []]
    const shared = new Float64Array(experts * rank)
    groups.forEach(({ kept }, g) => {
      if (kept.length === 0) return
      const ofWeights = dWeights.slice(g, g + 1)
      const [p, dw, hGroup] = saved.probabilities
        ? [rowsOf(saved.probabilities, kept), ofWeights.times(1 / kept.length), rowsOf(hidden, kept)]
        : [weights.slice(g, g + 1), ofWeights, sumOfKept(hidden, [groups[g]])]
      left.push(softmaxGradient(p, Matrix.exact(1, experts, dw.value)))
      right.push(hGroup)
      sharedVariance(p, dw, hGroup).forEach((variance, i) => (shared[i] += variance))
      const dl = softmaxGradient(p, dw)
      kept.forEach((t, i) => dLogits.set(t, dl.slice(i % dl.rows, (i % dl.rows) + 1)))
    })
    dRouter = multiply(stack(experts, left).transpose(), stack(rank, right))
    shared.forEach((variance, i) => (dRouter.variance[i] += variance))
    dHidden = dHidden.plus(multiply(dLogits, parameter(experts, rank, problem.router ?? [], rounding)))
  }
  if (dropoutFactor !== 1) dHidden = dHidden.times(dropoutFactor)
  if (problem.activation === 'relu')
    hidden.value.forEach((h, i) => {
      if (h === 0) dHidden.value[i] = dHidden.variance[i] = 0
    })
  dHidden = dHidden.rounded(rounding.operands, exact)

  const dx = multiply(factor(dHidden), factor(a))
  if (mask !== undefined) dropWhereZero(dx, mask)
  return {
    dx,
    da: multiply(factor(dHidden).transpose(), factor(x)),
    dRouter,
    db: problem.routing === 'lora' ? db.transpose() : db,
    dWeights,
  }
}
