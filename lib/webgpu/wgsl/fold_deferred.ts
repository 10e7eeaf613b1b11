/**
 * Adds the deferred gradients of one layer to that of B. Symbols as in docs/math.md.
 *
 *     out_e (+)= sum_g w_ge D_g    or out (+)= D, already weighted        D: [G r, d_out] or [E r, d_out], float32
 *
 * One pass over D for each expert (from cache), and over out if it accumulates.
 */
import { bytesOf, ceilDiv, type Operand, type Part } from '../pass.js'

export function foldDeferred(call: {
  readonly matrices: Operand
  /** [G, E]; null: one matrix for each expert. */
  readonly weights: Operand | null
  /** [E r, d_out], written. */
  readonly out: Operand
}): Part {
  const { matrices, weights, out } = call
  const quads = ceilDiv(out.cols, 4)
  return {
    name: 'fold_deferred',
    workgroups: ceilDiv(out.rows * quads, 256),
    operands: { matrices, out, ...(weights !== null && { weights }) },
    params: { fold_quads: quads },
    wgsl: `
fn fold_deferred(id: u32, tid: u32) {
  let i = id * 256u + tid;
  let row = i / P.fold_quads;
  let n = i % P.fold_quads * 4u;
  if (row >= P.out_rows) { return; }
  ${
    weights === null
      ? 'let sum = matrices4(row, n);'
      : `var sum = vec4f();
  for (var g = 0u; g < P.weights_rows; g++) {
    sum = fma(vec4f(weights1(g, row / P.rank)), matrices4(g * P.rank + row % P.rank, n), sum);
  }`
  }
  out_put4(row, n, sum);
}`,
    loads: bytesOf(matrices) * (weights === null ? 1 : weights.cols) + (out.accumulate ? bytesOf(out) : 0),
  }
}
