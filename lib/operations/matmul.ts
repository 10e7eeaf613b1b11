/** Batched matrix products. */
import { checkFloat, checkTokenRows, checkType } from '../base/checks.js'
import type { DType } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { type Known, readChoice, readFlag, readProperties } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import { checkPlace, refuseOverlap } from '../memory/checks.js'
import { CPU, deviceText } from '../memory/device.js'
import { type Operand, windowOf } from '../memory/operand.js'
import { resolve, resolveIfGiven, type TensorLike } from '../tensor/resolve.js'
import type { Tensor } from '../tensor/tensor.js'
import { type Call, MATMUL, NO_SIZES, type Sized } from './call.js'
import { run, runAsync } from './dispatch.js'
import { Output } from './output.js'
import type { Precision } from './problem.js'
import { PRECISIONS } from './read.js'

/** Operands of {@link matMul}, all of one type. The leading dimensions of a and b are batches. */
export interface MatMulOperands {
  /** `[..., m, k]`, or `[..., k, m]` with transposeA. */
  readonly a: TensorLike
  /** `[..., k, n]`, or `[..., n, k]` with transposeB. */
  readonly b: TensorLike
  /** [n], added to every row. */
  readonly bias?: TensorLike | undefined
  /** `[..., m, n]`, accumulated in place. Without it a new tensor is returned. */
  readonly y?: TensorLike | undefined
}

/** Options of {@link matMul}. */
export interface MatMulOptions {
  /** Whether the matrices of a are stored transposed. Default false. */
  readonly transposeA?: boolean | undefined
  /** Whether the matrices of b are stored transposed. Default false. */
  readonly transposeB?: boolean | undefined
  /** Permitted rounding of the operands. Default 'default'. */
  readonly precision?: Precision | undefined
  /** Add to the given y. Default true; false overwrites it. */
  readonly accumulate?: boolean | undefined
}

/** Result of {@link matMul}. */
export interface MatMulResult {
  /** `[..., m, n]`: the given y, or a new tensor with the leading dimensions of a and b, broadcast. */
  readonly y: Tensor
}

/** Leading dimensions, taken together, along which an operand has one matrix each, or repeats the same ones. */
interface Batches {
  readonly count: number
  readonly hasA: boolean
  readonly hasB: boolean
}

/** What all products of an operation have in common. */
interface Product extends Settings {
  readonly m: number
  readonly k: number
  readonly n: number
  readonly dtype: DType
}

/** One call: products of `outer` x `inner` pairs of matrices. */
export interface MatMulProblem extends Product, Sized {
  readonly outer: Batches
  readonly inner: Batches
}

interface Inputs {
  readonly a: Operand
  readonly b: Operand
  readonly bias: Operand | null
  readonly y: Output | null
}

interface Settings {
  readonly transposeA: boolean
  readonly transposeB: boolean
  readonly precision: Precision
  readonly accumulate: boolean
}

interface Operands extends Inputs {
  readonly y: Output
}

/** A call that is ready to run, and its result. */
interface Prepared {
  readonly calls: readonly Call<MatMulProblem>[]
  readonly y: Output
}

const OPERANDS: Known = new Set(['a', 'b', 'bias', 'y'])
const OPTIONS: Known = new Set(['transposeA', 'transposeB', 'precision', 'accumulate'])
const ONCE: Batches = { count: 1, hasA: true, hasB: true }

/**
 * Matrix products in a batch: y += a b + bias (docs/linear.md#matrix-products), where the leading dimensions of a and b are
 * broadcast as in NumPy. On the cpu only.
 *
 * Sums are float32, and y is rounded once. A row of y depends on its row of a and on b alone: it has the same bits in every
 * batch and with every number of threads.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE (operands on a device),
 *   ERR_LILY_DISPOSED, ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_OUT_OF_MEMORY. A call that throws at a check has written
 *   nothing
 * @example
 * const { y: scores } = matMul({ a: q, b: k }, { transposeB: true })
 */
export function matMul(operands: MatMulOperands, options?: MatMulOptions): MatMulResult {
  const { calls, y } = prepare(operands, options)
  run({ calls, placement: null })
  return { y: y.tensor }
}

/**
 * {@link matMul} off the main thread; see {@link lilyForwardAsync}. Formulas: docs/linear.md#matrix-products.
 *
 * @throws LilyError (as a rejection) as matMul
 * @example
 * const { y } = await matMulAsync({ a, b })
 */
export async function matMulAsync(operands: MatMulOperands, options?: MatMulOptions): Promise<MatMulResult> {
  const { calls, y } = prepare(operands, options)
  await runAsync('matMul', { calls, placement: null })
  return { y: y.tensor }
}

function prepare(operands: MatMulOperands, options: MatMulOptions = {}): Prepared {
  const inputs = readProperties('operands', operands, OPERANDS, ({ a, b, bias, y }) => ({
    a: resolve('a', a),
    b: resolve('b', b),
    bias: resolveIfGiven('bias', bias),
    y: Output.of('y', y),
  }))
  const settings = readSettings(options)
  const { a, b, bias } = inputs
  checkPlaces(inputs)
  const [k, m] = sizesOf('a', a, settings.transposeA, '[..., m, k]', '[..., k, m]')
  const [n, depth] = sizesOf('b', b, settings.transposeB, '[..., k, n]', '[..., n, k]')
  if (depth !== k) {
    const expected = settings.transposeB ? `[..., n, ${k}]` : `[..., ${k}, n]`
    fail('ERR_LILY_SHAPE', 'b', `expected ${expected} (a has k ${k}), got ${shapeText(b.shape)}`)
  }
  const rank = Math.max(a.shape.length, b.shape.length) - 2
  const [ofA, ofB] = [leadingOf(a, rank), leadingOf(b, rank)]
  const leading = broadcast(ofA, ofB, inputs)
  checkResult(inputs, leading.reduce(multiply, m), n)

  const y = inputs.y ?? Output.fresh('y', a.dtype, [...leading, m, n], null)
  if (inputs.y !== null) y.accumulate = settings.accumulate
  const product = { ...settings, m, k, n, dtype: a.dtype }
  return { calls: y.operand.byteLength === 0 ? [] : callsOf({ a, b, bias, y }, product, batchesOf(ofA, ofB)), y }
}

function readSettings(options: object): Settings {
  return readProperties('options', options, OPTIONS, ({ transposeA, transposeB, precision, accumulate }) => ({
    transposeA: readFlag('transposeA', transposeA, false),
    transposeB: readFlag('transposeB', transposeB, false),
    precision: readChoice('precision', precision, PRECISIONS, 'default'),
    accumulate: readFlag('accumulate', accumulate, true),
  }))
}

function checkPlaces({ a, b, bias, y }: Inputs): void {
  if (a.device !== CPU) {
    fail(
      'ERR_LILY_DEVICE',
      'a',
      `a matrix product runs on the cpu only, got ${deviceText(a.device)}; copy the operands with toHost()`,
    )
  }
  checkPlace('a', a, 'a', a)
  checkPlace('b', b, 'a', a)
  checkPlace('bias', bias, 'a', a)
  if (y !== null) checkPlace('y', y.operand, 'a', a)
}

/** The columns and the rows of a matrix of an operand, or the other way round if it is stored transposed. */
function sizesOf(name: string, operand: Operand, isTransposed: boolean, plain: string, transposed: string) {
  const { shape } = operand
  checkFloat(name, operand)
  if (shape.length < 2) {
    fail('ERR_LILY_SHAPE', name, `expected ${isTransposed ? transposed : plain}, got ${shapeText(shape)}`)
  }
  const [rows, columns] = shape.slice(-2)
  return isTransposed ? [rows, columns] : [columns, rows]
}

/** The leading dimensions of an operand, with ones before them. */
function leadingOf({ shape }: Operand, rank: number): number[] {
  return [...new Array<number>(rank + 2 - shape.length).fill(1), ...shape.slice(0, -2)]
}

function broadcast(ofA: readonly number[], ofB: readonly number[], { a, b }: Inputs): number[] {
  return ofA.map((size, axis) => {
    if (size === 1 || size === ofB[axis]) return ofB[axis]
    if (ofB[axis] === 1) return size
    const expected = `leading dimensions that broadcast with those of a ${shapeText(a.shape)}`
    return fail('ERR_LILY_SHAPE', 'b', `expected ${expected}, got ${shapeText(b.shape)}`)
  })
}

const multiply = (p: number, q: number) => p * q

function checkResult({ a, b, bias, y }: Inputs, rows: number, n: number): void {
  checkType('b', b, a.dtype)
  if (bias !== null) {
    if (bias.shape.length !== 1 || bias.columns !== n) {
      fail('ERR_LILY_SHAPE', 'bias', `expected [${n}], got ${shapeText(bias.shape)}`)
    }
    checkType('bias', bias, a.dtype)
  }
  if (y === null) return
  checkTokenRows('y', y.operand, rows, n)
  checkType('y', y.operand, a.dtype)
  refuseOverlap('y', y.operand, 'a', a)
  refuseOverlap('y', y.operand, 'b', b)
  refuseOverlap('y', y.operand, 'bias', bias)
}

/** Dimensions of size 1 have no effect, and neighbours along which the same operands repeat are one. */
function batchesOf(ofA: readonly number[], ofB: readonly number[]): Batches[] {
  const batches: Batches[] = []
  for (const [axis, size] of ofA.entries()) {
    const [hasA, hasB] = [size !== 1, ofB[axis] !== 1]
    if (!hasA && !hasB) continue
    const last = batches.at(-1)
    const isSame = last?.hasA === hasA && last.hasB === hasB
    const count = (isSame ? last.count : 1) * (hasA ? size : ofB[axis])
    batches.splice(isSame ? -1 : batches.length, 1, { count, hasA, hasB })
  }
  return batches
}

/** One call for two dimensions of batches; more are a loop. */
function callsOf(operands: Operands, product: Product, batches: readonly Batches[]): Call<MatMulProblem>[] {
  const { a, b, bias, y } = operands
  const last = batches.at(-1)
  // Where b repeats, the matrices of a are multiplied as a single one with all their rows.
  if (last?.hasB === false && !product.transposeA) {
    return callsOf(operands, { ...product, m: product.m * last.count }, batches.slice(0, -1))
  }
  if (batches.length <= 2) {
    const [outer = ONCE, inner = ONCE] = batches
    const problem = { ...product, outer, inner, sizes: NO_SIZES }
    return [{ kind: MATMUL, problem, operands: [a, b, bias, y], placement: null }]
  }
  const [{ count, hasA, hasB }, ...rest] = batches
  return Array.from({ length: count }, (_, i) => {
    const part = (operand: Operand) => {
      const rows = operand.rows / count
      return windowOf(operand, i * rows, rows, 0, operand.columns)
    }
    const parts = { a: hasA ? part(a) : a, b: hasB ? part(b) : b, bias, y: y.in(part(y.operand)) }
    return callsOf(parts, product, rest)
  }).flat()
}
