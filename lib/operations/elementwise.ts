/** Functions of each element, and sums of rows: what lib/tfjs gives TensorFlow.js beside matrix products. */
import {
  ELEMENTWISE,
  type ElementwiseFunction,
  type ElementwiseProblem,
  type Extent,
  NO_SIZES,
  region,
} from './call.js'
import { run } from './dispatch.js'

/** Extent of an operand that does not repeat. */
export const ALL: Extent = { hasRows: true, hasColumns: true }

/** y = f(a, b) for each of the m x n elements of y, which must not overlap a and b. */
export function elementwise(
  name: ElementwiseFunction,
  [m, n]: readonly [number, number],
  y: Float32Array,
  a: Float32Array,
  ofA: Extent = ALL,
  b: Float32Array | null = null,
  ofB: Extent = ALL,
): void {
  compute({ function: name, m, n, a: ofA, b: ofB, scale: 1, sizes: NO_SIZES }, y, n, a, b)
}

/** y [m] = scale times the sums of the rows of a [m, n]. */
export function rowSums([m, n]: readonly [number, number], y: Float32Array, a: Float32Array, scale: number): void {
  compute({ function: 'rowSum', m, n, a: ALL, b: ALL, scale, sizes: NO_SIZES }, y, 1, a, null)
}

function compute(
  problem: ElementwiseProblem,
  y: Float32Array,
  width: number,
  a: Float32Array,
  b: Float32Array | null,
): void {
  const { m, n } = problem
  const matrix = (memory: Float32Array, { hasRows, hasColumns }: Extent) =>
    region({ memory, byteOffset: 0 }, hasRows ? m : 1, hasColumns ? n : 1)
  const operands = [
    matrix(a, problem.a),
    b === null ? null : matrix(b, problem.b),
    region({ memory: y, byteOffset: 0 }, m, width),
  ]
  run({ calls: [{ kind: ELEMENTWISE, problem, operands, placement: null }], placement: null })
}
