/**
 * AdamW: the sum of squares of all gradients, the norm, and the update. The formulas are at AdamW in lib/optimiser/adamw.ts;
 * arithmetic is float32, and the factors of a step come from float64.
 *
 *     squares[i]   partial sums over SPLIT elements of one gradient
 *     norm         sqrt of their sum, in order
 *     update       one pass over value, grad, exp_avg and exp_avg_sq
 */
import { ceilDiv, type Operand, type Part } from '../pass.js'

/** Elements of a gradient for each partial sum. */
const SPLIT = 8192

export const squaresOf = (elements: number) => ceilDiv(elements, SPLIT)

/** Adds 256 numbers of the threads, in order: the result is that of thread 0. */
const reduce = `
var<workgroup> numbers: array<f32, 256>;
fn reduce(tid: u32, number: f32) -> f32 {
  numbers[tid] = number;
  workgroupBarrier();
  var sum = number;
  if (tid < 16u) {
    for (var i = tid + 16u; i < 256u; i += 16u) { sum += numbers[i]; }
    numbers[tid] = sum;
  }
  workgroupBarrier();
  if (tid == 0u) {
    for (var i = 1u; i < 16u; i++) { sum += numbers[i]; }
  }
  return sum;
}`

/** grad: [1, elements]; squares: [1, n], written. */
export const sumOfSquares = (grad: Operand, squares: Operand): Part => ({
  name: 'sum_of_squares',
  workgroups: squares.cols,
  operands: { grad, squares },
  helpers: [reduce],
  wgsl: `
fn sum_of_squares(id: u32, tid: u32) {
  var sum = 0.0;
  for (var i = tid; i < ${SPLIT}u; i += 256u) {
    let g = grad1(0u, id * ${SPLIT}u + i);
    sum = fma(g, g, sum);
  }
  let total = reduce(tid, sum);
  if (tid == 0u) { squares_put1(0u, id, total); }
}`,
})

/** squares: [1, n]; norm: [1, 1], written. */
export const gradientNorm = (squares: Operand, norm: Operand): Part => ({
  name: 'gradient_norm',
  workgroups: 1,
  operands: { squares, norm },
  helpers: [reduce],
  wgsl: `
fn gradient_norm(id: u32, tid: u32) {
  var sum = 0.0;
  for (var i = tid; i < P.squares_cols; i += 256u) { sum += squares1(0u, i); }
  let total = reduce(tid, sum);
  if (tid == 0u) { norm_put1(0u, 0u, sqrt(total)); }
}`,
})

export function adamwUpdate(call: {
  /** All [1, elements]; value and moments are written. */
  readonly value: Operand
  readonly grad: Operand
  readonly expAvg: Operand
  readonly expAvgSq: Operand
  readonly norm: Operand | null
  readonly floats: Readonly<Record<string, number>>
}): Part {
  const { value, grad, expAvg, expAvgSq, norm, floats } = call
  return {
    name: 'update',
    // Four elements per thread, without a loop: SwiftShader, which is Chromium's software adapter, takes minutes to compile
    // one around so many guarded accesses.
    workgroups: ceilDiv(value.cols, 256 * 4),
    operands: { value, grad, exp_avg: expAvg, exp_avg_sq: expAvgSq, ...(norm !== null && { norm }) },
    floats,
    wgsl: `
fn update(id: u32, tid: u32) {
  var clip = 1.0;
  ${
    norm === null
      ? ''
      : `let limited = P.max_norm / (norm1(0u, 0u) + 1e-6);
  // A NaN stays a NaN.
  clip = select(limited, 1.0, limited > 1.0);`
  }
  let i = (id * 256u + tid) * 4u;
  let g = clip * grad4(0u, i);
  let m = P.beta1 * exp_avg4(0u, i) + P.beta1_rest * g;
  let v = P.beta2 * exp_avg_sq4(0u, i) + P.beta2_rest * g * g;
  let change = P.step_size * m / (sqrt(v) * P.root_factor + P.eps);
  let next = P.keep * value4(0u, i) - change;
  exp_avg_put4(0u, i, m);
  exp_avg_sq_put4(0u, i, v);
  value_put4(0u, i, next);
}`,
  }
}
