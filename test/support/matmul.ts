/** Batched matrix products: makes a problem, runs it, and its reference. Child processes use this file, too. */
import { type BackendInfo, backends, matMul, matMulAsync } from '../../lib/index.js'
import { linear, Matrix } from './reference.js'
import { expectClose } from './compare.js'
import { type Float, roundAll, unpack } from './dtypes.js'
import { answer } from './fork.js'
import { type Layout, Operand } from './operands.js'
import { gaussian, randomFrom } from './random.js'

export interface MatMulSpec {
  /** Leading dimensions. */
  a: number[]
  b: number[]
  m: number
  k: number
  n: number
  transposeA?: boolean
  transposeB?: boolean
  bias?: boolean
  dtype?: Float
  precision?: 'default' | 'high' | 'tf32'
  outputs?: 'new' | 'add' | 'overwrite'
  layout?: Layout
  isAsync?: boolean
}

export interface MatMulReport {
  backend: BackendInfo
  results: Float32Array[]
}

export const DENSE: Layout = { gap: 0, margin: 0 }
const sizeOf = (shape: readonly number[]) => shape.reduce((p, q) => p * q, 1)

/** The leading dimensions of y. */
export function leadingOf({ a, b }: Pick<MatMulSpec, 'a' | 'b'>): number[] {
  const rank = Math.max(a.length, b.length)
  const at = (shape: number[], axis: number) => shape[axis - rank + shape.length] ?? 1
  return Array.from({ length: rank }, (_, axis) => (at(a, axis) === 1 ? at(b, axis) : at(a, axis)))
}

/** The matrix of an operand with these leading dimensions that belongs to matrix `index` of `all`. */
function indexOf(shape: number[], all: number[], index: number): number {
  let [found, stride] = [0, 1]
  for (let axis = all.length - 1; axis >= 0; axis--) {
    const size = shape[axis - all.length + shape.length] ?? 1
    if (size !== 1) found += (index % all[axis]) * stride
    stride *= size
    index = Math.floor(index / all[axis])
  }
  return found
}

interface Values {
  a: Float32Array
  b: Float32Array
  bias: Float32Array
  old: Float32Array
}

function valuesOf({ a, b, m, k, n, dtype = 'float32' }: MatMulSpec): Values {
  const random = randomFrom(m + k + n)
  const of = (count: number) => Float32Array.from(roundAll(dtype, gaussian(random, count)))
  const rows = sizeOf(leadingOf({ a, b })) * m
  return { a: of(sizeOf(a) * m * k), b: of(sizeOf(b) * k * n), bias: of(n), old: of(rows * n) }
}

export async function runMatMul(spec: MatMulSpec): Promise<Float32Array> {
  const { a, b, m, k, n, transposeA = false, transposeB = false, dtype = 'float32', layout = DENSE } = spec
  const { precision = 'default', outputs = 'new', isAsync = false } = spec
  const values = valuesOf(spec)
  const leading = leadingOf(spec)
  const inputs: Operand[] = []
  const place = (numbers: Float32Array, shape: number[], rows: number, columns: number) => {
    const operand = new Operand(dtype, sizeOf(shape) * rows, columns, numbers, layout)
    inputs.push(operand)
    return operand.tensor(...shape, rows)
  }
  const given = outputs === 'add' ? values.old : new Float32Array(values.old.length).fill(NaN)
  const output = outputs === 'new' ? undefined : new Operand(dtype, sizeOf(leading) * m, n, given, layout)
  const operands = {
    a: place(values.a, a, ...(transposeA ? ([k, m] as const) : ([m, k] as const))),
    b: place(values.b, b, ...(transposeB ? ([n, k] as const) : ([k, n] as const))),
    bias: spec.bias === true ? { ...place(values.bias, [], 1, n), shape: [n], strides: [1] } : undefined,
    y: output?.tensor(...leading, m),
  }
  const options = { transposeA, transposeB, precision, accumulate: outputs !== 'overwrite' }
  const { y } = isAsync ? await matMulAsync(operands, options) : matMul(operands, options)
  if (!inputs.every((operand) => operand.isUnchanged())) throw new Error('an input was written to')
  if (output?.isPaddingUnchanged() === false) throw new Error('the padding of y was written to')
  return output?.values() ?? Float32Array.from(unpack(dtype, y.data))
}

/** Compares a result with float64: each product is that of a linear layer. */
export function expectMatMul(spec: MatMulSpec, y: Float32Array, precision = spec.precision): void {
  const { m, k, n, transposeA = false, transposeB = false, dtype = 'float32' } = spec
  const values = valuesOf(spec)
  const leading = leadingOf(spec)
  const matrix = (numbers: Float32Array, at: number, rows: number, columns: number, isTransposed: boolean) => {
    const part = numbers.subarray(at * rows * columns, (at + 1) * rows * columns)
    return isTransposed ? Matrix.exact(columns, rows, part).transpose().value : part
  }
  const bias = spec.bias === true ? values.bias : undefined
  for (let i = 0; i < sizeOf(leading); i++) {
    const x = matrix(values.a, indexOf(spec.a, leading, i), m, k, transposeA)
    const weight = matrix(values.b, indexOf(spec.b, leading, i), n, k, !transposeB)
    const sizes = { tokens: m, dIn: k, dOut: n, activations: dtype, parameters: dtype, precision }
    let expected = linear({ ...sizes, x, weight, bias, dy: new Float32Array(m * n) }).y
    const range = [i * m * n, (i + 1) * m * n] as const
    if (spec.outputs === 'add') expected = expected.plus(Matrix.exact(m, n, values.old.subarray(...range)))
    expectClose(`y ${i} of ${JSON.stringify(spec)}`, y.subarray(...range), expected.rounded(dtype, true))
  }
}

export const TRANSPOSES = [0, 1, 2, 3].map((i) => ({ transposeA: i % 2 === 1, transposeB: i > 1 }))

/** Edges of vectors, of blocks of rows, of panels and of chunks; few rows and few columns. */
const SIZES = [
  { m: 1, k: 1, n: 1 },
  { m: 7, k: 5, n: 3 },
  { m: 65, k: 113, n: 136 },
  { m: 33, k: 257, n: 65 },
  { m: 128, k: 64, n: 128 },
  { m: 3, k: 530, n: 70 },
  { m: 96, k: 530, n: 2 },
]
const BATCHES = [
  { a: [], b: [] },
  { a: [3], b: [3] },
  { a: [2, 2], b: [] },
  { a: [], b: [3] },
  { a: [2, 1], b: [1, 3] },
]
/** Every size and transpose, with the other properties by turns. */
export const SPECS = SIZES.flatMap((size, i) =>
  TRANSPOSES.map((transposes, j): MatMulSpec => ({
    ...size,
    ...transposes,
    ...BATCHES[(i + j) % BATCHES.length],
    dtype: (['float32', 'float32', 'bfloat16', 'float16'] as const)[(i + j) % 4],
    bias: (i + j) % 3 === 0,
    outputs: (['new', 'add', 'overwrite'] as const)[(i + 2 * j) % 3],
    layout: { gap: (i + j) % 4, margin: i % 3 },
    isAsync: (i + j) % 5 === 0,
  })),
)

answer(async (specs: MatMulSpec[]): Promise<MatMulReport> => {
  const [backend] = backends()
  const results: Float32Array[] = []
  if (backend.available) for (const spec of specs) results.push(await runMatMul(spec))
  return { backend, results }
})
