/**
 * A step of AdamW on a GPUDevice. With clipping, or if gradients that are not finite skip the step, there is a sum of
 * squares for each parameter, and the norm; then come the updates. The formulas are at AdamW in adamw.ts; arithmetic is float32, and the factors of a step come from float64.
 *
 *     squares[i]   partial sums over SPLIT elements of one gradient
 *     norm         sqrt of their sum, in order, and whether the step is skipped
 *     update       one pass over value, grad, exp_avg and exp_avg_sq
 */
import type { NumberType, Region } from '../binding/gpu-call.js'
import { ceilDiv, dense, type Operand, type Part, type Plan, Workspace, written } from '../binding/gpu-pass.js'
import type { AdamWNumbers } from '../operations/call.js'

/** A step of AdamW. */
export interface GpuStep extends Omit<AdamWNumbers, 'items' | 'sizes'> {
  /** [1], float32: the norm of all gradients, written; null without clipping. */
  readonly norm: Region | null
  /** [1], float32: the number of steps that were skipped because the norm was not finite, updated; null: none is. */
  readonly skipped: Region | null
  readonly parameters: readonly {
    readonly elements: number
    /** Contiguous, like all of these. */
    readonly value: Region & { readonly dtype: NumberType }
    readonly grad: Region & { readonly dtype: NumberType }
    /** float32 */
    readonly expAvg: Region
    readonly expAvgSq: Region
    readonly lr: number
    readonly weightDecay: number
  }[]
}

export function planStep(call: GpuStep): Plan {
  const workspace = new Workspace()
  const parts: Part[] = []
  const parameters = call.parameters.filter(({ elements }) => elements > 0)
  const norm = call.norm && dense(call.norm, 1, 1)
  const skipped = call.skipped && dense(call.skipped, 1, 1)
  const decision = skipped && workspace.take(1, 3)
  if (norm !== null || skipped !== null) {
    const counts = parameters.map(({ elements }) => ceilDiv(elements, SPLIT))
    const total = counts.reduce((sum, count) => sum + count, 0)
    const squares = workspace.take(1, total)
    let { byteOffset } = squares
    for (const [i, { elements, grad }] of parameters.entries()) {
      const ofParameter: Operand = { ...squares, byteOffset, cols: counts[i] }
      parts.push(sumOfSquares(dense(grad, 1, elements, grad.dtype), written(ofParameter)))
      byteOffset += 4 * counts[i]
    }
    parts.push(gradientNorm(call, squares, norm, skipped, decision))
  }
  for (const parameter of parameters) {
    const { elements, value, grad, expAvg, expAvgSq } = parameter
    const operands = {
      value: written(dense(value, 1, elements, value.dtype)),
      grad: dense(grad, 1, elements, grad.dtype),
      norm,
      decision,
      exp_avg: written(dense(expAvg, 1, elements)),
      exp_avg_sq: written(dense(expAvgSq, 1, elements)),
    }
    parts.push(adamwUpdate(operands, elements, factorsOf(call, parameter)))
  }
  return { passes: parts.map((part) => [part]), workspaceBytes: workspace.bytes }
}

/** The factors of a step, as native/core/adamw.cc forms them: in float64, rounded once. */
function factorsOf(
  { step, beta1, beta2, eps, maxNorm }: GpuStep,
  { lr, weightDecay }: GpuStep['parameters'][number],
): Record<string, number> {
  return {
    beta1,
    beta1_rest: 1 - beta1,
    beta2,
    beta2_rest: 1 - beta2,
    eps,
    max_norm: maxNorm,
    root_factor: 1 / Math.sqrt(1 - beta2 ** step),
    keep: 1 - lr * weightDecay,
    step_size: lr / (1 - beta1 ** step),
  }
}

/** Elements of a gradient for each partial sum. */
const SPLIT = 8192

/** Adds 256 numbers of the threads, in order; thread 0 has the result. */
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
const sumOfSquares = (grad: Operand, squares: Operand): Part => ({
  name: 'sum_of_squares',
  workgroups: squares.cols,
  operands: { grad, squares },
  helpers: [reduce],
  wgsl: `
fn sum_of_squares(id: u32, tid: u32, item: u32) {
  var sum = 0.0;
  for (var i = tid; i < ${SPLIT}u; i += 256u) {
    let g = grad1(0u, id * ${SPLIT}u + i);
    sum = fma(g, g, sum);
  }
  let total = reduce(tid, sum);
  if (tid == 0u) { squares_put1(0u, id, total); }
}`,
})

/**
 * The norm, and what it decides about the updates: whether the step is skipped, and the factors on step_size and
 * root_factor, in which the host has counted the skipped steps.
 */
const gradientNorm = (
  { step, beta1, beta2 }: GpuStep,
  squares: Operand,
  norm: Operand | null,
  skipped: Operand | null,
  /** [1, 3], written, with `skipped`. */
  decision: Operand | null,
): Part => ({
  name: 'gradient_norm',
  workgroups: 1,
  operands: {
    squares,
    norm: norm && written(norm),
    skipped: skipped && written(skipped),
    decision: decision && written(decision),
  },
  params: { step },
  floats: { beta1_rest: 1 - beta1, beta2_rest: 1 - beta2 },
  helpers: [reduce, skipped && correction],
  wgsl: `
fn gradient_norm(id: u32, tid: u32, item: u32) {
  var sum = 0.0;
  for (var i = tid; i < P.squares_cols; i += 256u) { sum += squares1(0u, i); }
  let total = reduce(tid, sum);
  if (tid != 0u) { return; }
  let norm = sqrt(total);
  ${norm === null ? '' : 'norm_put1(0u, 0u, norm);'}
  ${skipped === null ? '' : decide}
}`,
})

/** 1 - beta^steps from 1 - beta, without cancellation. With c(n) = 1 - beta^n: c(m + n) = c(m) + c(n) (1 - c(m)). */
const correction = `
fn correction(beta_rest: f32, steps: u32) -> f32 {
  var sum = 0.0;
  var power = beta_rest;
  for (var bits = steps; bits > 0u; bits >>= 1u) {
    if ((bits & 1u) != 0u) { sum += power * (1.0 - sum); }
    power *= 2.0 - power;
  }
  return sum;
}
fn correction_ratio(beta_rest: f32, steps: u32) -> f32 {
  // A quotient of equal numbers may be another one than 1.
  return select(correction(beta_rest, P.step) / correction(beta_rest, steps), 1.0, steps == P.step);
}`

/** The check for infinities and NaNs reads bits, because WGSL permits the assumption that numbers are finite. */
const decide = `
  let skips = (bitcast<u32>(norm) & 0x7f800000u) == 0x7f800000u;
  let skipped = skipped1(0u, 0u);
  let steps = P.step - u32(skipped);
  decision_put1(0u, 0u, select(0.0, 1.0, skips));
  decision_put1(0u, 1u, correction_ratio(P.beta1_rest, steps));
  decision_put1(0u, 2u, sqrt(correction_ratio(P.beta2_rest, steps)));
  skipped_put1(0u, 0u, select(skipped, skipped + 1.0, skips));`

/** `decision` is [1, 3]; null: the step is not skipped. All but it and `norm` are [1, elements]. */
function adamwUpdate(operands: Part['operands'], elements: number, floats: Part['floats'] & object): Part {
  return {
    name: 'update',
    // Four elements per thread, without a loop: SwiftShader, which is Chromium's software adapter, takes minutes to compile
    // one around so many guarded accesses.
    workgroups: ceilDiv(elements, 256 * 4),
    operands,
    floats,
    wgsl: `
fn update(id: u32, tid: u32, item: u32) {
  var step_size = P.step_size;
  var root_factor = P.root_factor;
  ${
    operands.decision === null
      ? ''
      : `if (decision1(0u, 0u) != 0.0) { return; }
  step_size *= decision1(0u, 1u);
  root_factor *= decision1(0u, 2u);`
  }
  var clip = 1.0;
  ${
    // A norm that is NaN leaves the factor NaN.
    operands.norm === null
      ? ''
      : `let limited = P.max_norm / (norm1(0u, 0u) + 1e-6);
  clip = select(limited, 1.0, limited > 1.0);`
  }
  let i = (id * 256u + tid) * 4u;
  let g = clip * grad4(0u, i);
  let m = P.beta1 * exp_avg4(0u, i) + P.beta1_rest * g;
  let v = P.beta2 * exp_avg_sq4(0u, i) + P.beta2_rest * g * g;
  let change = step_size * m / (sqrt(v) * root_factor + P.eps);
  let next = P.keep * value4(0u, i) - change;
  exp_avg_put4(0u, i, m);
  exp_avg_sq_put4(0u, i, v);
  value_put4(0u, i, next);
}`,
  }
}
