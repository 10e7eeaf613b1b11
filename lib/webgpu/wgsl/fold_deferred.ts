/**
 * Adds the deferred gradients of a few layers to the gradient of B, layer by layer. Symbols as in docs/math.md.
 *
 *     out_e (+)= sum_g w_ge D_g    or out (+)= D, already weighted        D: [G r, d_out] or [E r, d_out], float32
 *
 * The sum of a layer is added to the old number before the sum of the next layer, so the bits do not depend on how layers are
 * spread over passes. One pass over D for each expert (from cache), and over out if it accumulates.
 */
import { ceilDiv, type Operand, type Part } from '../../binding/gpu-pass.js'

interface Layer {
  readonly matrices: Operand
  /** [G, E]; null: one matrix for each expert. */
  readonly weights: Operand | null
}

/** @param out [E r, d_out], written */
export function foldDeferred(layers: readonly Layer[], out: Operand): Part {
  const quads = ceilDiv(out.cols, 4)
  const operands = layers.flatMap(({ matrices, weights }, i): [string, Operand][] => [
    [`matrices${i}`, matrices],
    ...(weights === null ? [] : ([[`weights${i}`, weights]] as [string, Operand][])),
  ])
  return {
    name: 'fold_deferred',
    workgroups: ceilDiv(out.rows * quads, 256),
    operands: { ...Object.fromEntries(operands), out: { ...out, accumulate: false } },
    params: { fold_adds: out.accumulate ? 1 : 0 },
    wgsl: `
fn fold_deferred(id: u32, tid: u32, item: u32) {
  let i = id * 256u + tid;
  let row = i / P.out_quads;
  let n = i % P.out_quads * 4u;
  if (row >= P.out_rows) { return; }
  var total = vec4f();
  if (P.fold_adds != 0u) { total = out4(row, n); }
  var sum: vec4f;
  ${layers.map(({ weights }, layer) => sumOf(layer, weights !== null)).join('\n')}
  out_put4(row, n, total);
}`,
  }
}

/** Adds the sum of one layer to `total`. */
const sumOf = (layer: number, isWeighted: boolean) =>
  isWeighted
    ? `sum = vec4f();
  for (var g = 0u; g < P.weights${layer}_rows; g++) {
    sum = fma(vec4f(weights${layer}1(g, row / P.rank)), matrices${layer}4(g * P.rank + row % P.rank, n), sum);
  }
  total += sum;`
    : `total += matrices${layer}4(row, n);`
