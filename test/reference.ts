/**
 * The operation in float64: plain loops over the published formulas (arXiv 2407.09946), sharing nothing with lib/.
 *
 * Every matrix carries, beside its values, the variance of the error that a plain float32 computation would make in
 * them, in units of the float32 rounding squared, as if errors were independent: the errors of what enters a sum, and
 * the rounding of each partial sum. So a test can ask for float32 accuracy of any shape, where terms cancel, too.
 */

export type Routing = 'batch' | 'sequence' | 'token' | 'uniform' | 'fixed' | 'lora'

/** Row-major operands. b is [E * r, dOut], but [dOut, r] with routing 'lora', which has no router and one expert. */
export interface Problem {
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
  router?: ArrayLike<number> | undefined
  b: ArrayLike<number>
  /** [M], 1 keeps; of batch and sequence. */
  mask?: ArrayLike<number> | undefined
  /** [G + 1]; of sequence and fixed. */
  offsets?: ArrayLike<number> | undefined
  /** [G, E]; of fixed. */
  weights?: ArrayLike<number> | undefined
}

export interface Forward {
  y: Matrix
  hidden: Matrix
  /** [M, E]: of token routing, and of batch and sequence with pooled probabilities. */
  probabilities: Matrix | undefined
  /** [G, E]: the share of every expert in every group; [M, E] with token routing. */
  weights: Matrix
}

export interface Gradients {
  dx: Matrix
  da: Matrix
  dRouter: Matrix
  db: Matrix
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
    return new Matrix(rows, cols, Float64Array.from(values))
  }

  reshape(rows: number, cols: number): Matrix {
    return new Matrix(rows, cols, this.value, this.variance)
  }

  /** Rows first .. last - 1, as a view. */
  slice(first: number, last: number): Matrix {
    const range = [first * this.cols, last * this.cols] as const
    return new Matrix(last - first, this.cols, this.value.subarray(...range), this.variance.subarray(...range))
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
    result.value.forEach((_, i) => {
      result.value[i] = this.value[i] + factor * other.value[i]
      result.variance[i] = this.variance[i] + factor ** 2 * other.variance[i] + result.value[i] ** 2
    })
    return result
  }

  times(factor: number): Matrix {
    return new Matrix(this.rows, this.cols).plus(this, factor)
  }
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
        value[j] += left * right
        variance[j] += leftVariance * right * right + left * left * b.variance[at] + value[j] * value[j]
      }
    }
  }
  return result
}

/** A vectorised exp is good to about two roundings. */
const EXP_VARIANCE = 4

/** softmax of every row; an error of a logit is a relative error of its exponential. */
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

/** Gradient of softmax: p * (dp - <p, dp>), for every row. */
function softmaxGradient(p: Matrix, dp: Matrix): Matrix {
  const result = new Matrix(p.rows, p.cols)
  for (let i = 0; i < p.rows; i++) {
    const [pRow, dpRow] = [p.slice(i, i + 1), dp.slice(i, i + 1)]
    const mean = multiply(pRow, dpRow.transpose())
    for (let e = 0; e < p.cols; e++) {
      const difference = dpRow.value[e] - mean.value[0]
      const variance = dpRow.variance[e] + mean.variance[0] + difference ** 2
      result.value[i * p.cols + e] = pRow.value[e] * difference
      result.variance[i * p.cols + e] =
        pRow.value[e] ** 2 * (variance + difference ** 2) + pRow.variance[e] * difference ** 2
    }
  }
  return result
}

interface Group {
  first: number
  last: number
  /** Tokens that count. */
  kept: number[]
}

function groupsOf({ routing, tokens, mask, offsets }: Problem): Group[] {
  const bounds =
    routing === 'token' ? Array.from({ length: tokens + 1 }, (_, t) => t) : offsets ? Array.from(offsets) : [0, tokens]
  return bounds.slice(1).map((last, g) => {
    const first = bounds[g]
    const all = Array.from({ length: last - first }, (_, i) => first + i)
    return { first, last, kept: all.filter((t) => !mask || mask[t] !== 0) }
  })
}

const isPooled = (problem: Problem) => problem.routing === 'batch' || problem.routing === 'sequence'
const isRouted = (problem: Problem) => isPooled(problem) || problem.routing === 'token'

/** A matrix of one row for every group: the sum of the group's kept rows. */
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
    result.value.set(scaled.value, i * matrix.cols)
    result.variance.set(scaled.variance, i * matrix.cols)
  })
  return result
}

/** b as [E * r, dOut] */
function expertsOf(problem: Problem): Matrix {
  const { rank, experts, dOut, b } = problem
  if (problem.routing === 'lora') return Matrix.exact(dOut, rank, b).transpose()
  return Matrix.exact(experts * rank, dOut, b)
}

function combine(weights: Matrix, g: number, b: Matrix, rank: number): Matrix {
  const flat = b.reshape(weights.cols, rank * b.cols)
  return multiply(weights.slice(g, g + 1), flat).reshape(rank, b.cols)
}

export function forward(problem: Problem): Forward {
  const { tokens, dIn, dOut, rank, experts, scaling = 1, pool = 'probabilities' } = problem
  const x = Matrix.exact(tokens, dIn, problem.x)
  const a = Matrix.exact(rank, dIn, problem.a)
  const b = expertsOf(problem)
  const groups = groupsOf(problem)

  const hidden = multiply(x, a.transpose())
  if (problem.activation === 'relu')
    hidden.value.forEach((h, i) => {
      if (h <= 0) hidden.value[i] = hidden.variance[i] = 0
    })

  let probabilities: Matrix | undefined
  let weights: Matrix
  if (isRouted(problem)) {
    const logits = multiply(hidden, Matrix.exact(experts, rank, problem.router ?? []).transpose())
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
  } else {
    const ones = new Float64Array(groups.length * experts).fill(1)
    weights = Matrix.exact(groups.length, experts, ones).times(1 / experts)
  }

  const y = new Matrix(tokens, dOut)
  groups.forEach(({ first, last }, g) => {
    if (first === last) return
    const part = multiply(hidden.slice(first, last), combine(weights, g, b, rank)).times(scaling)
    y.value.set(part.value, first * dOut)
    y.variance.set(part.variance, first * dOut)
  })
  return { y, hidden, probabilities, weights }
}

export function backward(problem: Problem, saved: Forward, dyValues: ArrayLike<number>): Gradients {
  const { tokens, dIn, dOut, rank, experts, scaling = 1 } = problem
  const x = Matrix.exact(tokens, dIn, problem.x)
  const a = Matrix.exact(rank, dIn, problem.a)
  const b = expertsOf(problem)
  const dy = Matrix.exact(tokens, dOut, dyValues)
  const groups = groupsOf(problem)
  const { hidden, weights } = saved

  const dWeights = new Matrix(groups.length, experts)
  const db = new Matrix(experts * rank, dOut)
  let dHidden = new Matrix(tokens, rank)
  groups.forEach(({ first, last }, g) => {
    if (first === last) return
    const [hGroup, dyGroup] = [hidden.slice(first, last), dy.slice(first, last)]
    const q = multiply(dyGroup, combine(weights, g, b, rank).transpose()).times(scaling)
    dHidden.value.set(q.value, first * rank)
    dHidden.variance.set(q.variance, first * rank)

    const d = multiply(hGroup.transpose(), dyGroup).times(scaling)
    const share = multiply(weights.slice(g, g + 1).transpose(), d.reshape(1, rank * dOut))
    share.value.forEach((value, i) => {
      db.value[i] += value
      db.variance[i] += share.variance[i] + db.value[i] ** 2
    })
    const dw = multiply(b.reshape(experts, rank * dOut), d.reshape(rank * dOut, 1))
    dWeights.value.set(dw.value, g * experts)
    dWeights.variance.set(dw.variance, g * experts)
  })

  let dRouter = new Matrix(experts, rank)
  if (isRouted(problem)) {
    const dLogits = new Matrix(tokens, experts)
    groups.forEach(({ kept }, g) => {
      const dw = dWeights.slice(g, g + 1)
      for (const t of kept) {
        const dl = saved.probabilities
          ? softmaxGradient(saved.probabilities.slice(t, t + 1), dw.times(1 / kept.length))
          : softmaxGradient(weights.slice(g, g + 1), dw)
        dLogits.value.set(dl.value, t * experts)
        dLogits.variance.set(dl.variance, t * experts)
      }
    })
    dRouter = multiply(dLogits.transpose(), hidden)
    dHidden = dHidden.plus(multiply(dLogits, Matrix.exact(experts, rank, problem.router ?? [])))
  }
  if (problem.activation === 'relu')
    hidden.value.forEach((h, i) => {
      if (h === 0) dHidden.value[i] = dHidden.variance[i] = 0
    })

  return {
    dx: multiply(dHidden, a),
    da: multiply(dHidden.transpose(), x),
    dRouter,
    db: problem.routing === 'lora' ? db.transpose() : db,
  }
}
