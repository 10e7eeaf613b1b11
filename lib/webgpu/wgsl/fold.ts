/**
 * Computes the gradients of B and of w from the partial sums of D, and C for a later q. Symbols as in docs/math.md.
 *
 *     D = sum over splits    dB_e (+)= w_e D    dw_e = <B_e, D>, one partial sum per workgroup    C = sum_e w_e B_e
 *
 * Without a kept token D is zero, whatever its partial sums are. One pass over the partial sums and over B, from which both dw
 * and C are formed, and over dB if it accumulates. A deferred D is written instead of dB.
 */
import { ceilDiv, type Operand, type Part } from '../../binding/gpu-pass.js'
import type { Prepare } from './expand.js'
import { hasGradient } from './kept.js'
import { wgsl } from './text.js'

export interface Fold {
  /** [splits r, d_out] */
  readonly partials: Operand
  readonly rank: number
  /** [E r, d_out], written. */
  readonly db: Operand | null
  /** [r, d_out], written: the sum of several splits. */
  readonly deferred: Operand | null
  /** [E r, d_out] */
  readonly b: Operand
  /** [workgroups, E], written: null unless dw is required. */
  readonly dWeights: Operand | null
  /** [r, d_out], written: null unless q is required, with dw. */
  readonly c: Operand | null
  /** [1]: number of kept tokens; null: there is one. */
  readonly kept: Operand | null
  /** Forms w; null without db and c. */
  readonly prepare: Prepare | null
}

/** Most workgroups: each leaves a partial sum of dw, which every workgroup of a later pass loads. */
const MOST_WORKGROUPS = 128

/** Workgroups of the fold: rows of the partial sums of dw. */
export const foldWorkgroups = (rank: number, columns: number) =>
  Math.min(MOST_WORKGROUPS, ceilDiv(rank * ceilDiv(columns, 4), 256))

export function fold(call: Fold): Part {
  const { partials, rank, db, deferred, b, dWeights, c, kept, prepare } = call
  const workgroups = foldWorkgroups(rank, partials.cols)
  return {
    name: 'fold',
    workgroups,
    operands: { partials, db, deferred, b: dWeights && b, d_weights: dWeights, c, kept, ...prepare?.operands },
    params: { fold_steps: ceilDiv(rank * ceilDiv(partials.cols, 4), workgroups * 256), ...prepare?.params },
    helpers: [...(prepare?.helpers ?? []), kept && hasGradient],
    wgsl: wgsl`
var<workgroup> products: array<f32, 256>;
var<workgroup> fold_sums: array<f32, 64>;
fn fold(id: u32, tid: u32, item: u32) {
  ${prepare?.statements}
  if (tid < P.experts) { fold_sums[tid] = 0.0; }
  for (var step = 0u; step < P.fold_steps; step++) {
    let i = (id * P.fold_steps + step) * 256u + tid;
    let k = i / P.partials_quads;
    let n = i % P.partials_quads * 4u;
    var d = vec4f();
    ${c && 'var sum = vec4f();'}
    if (k < P.rank) {
      for (var row = k; row < P.partials_rows; row += P.rank) { d += partials4(row, n); }
      ${kept && 'if (!has_gradient(0u)) { d = vec4f(); }'}
      ${deferred && 'deferred_put4(k, n, d);'}
      ${db && 'for (var e = 0u; e < P.experts; e++) { db_put4(e * P.rank + k, n, w[e] * d); }'}
    }
    ${
      dWeights &&
      wgsl`for (var e = 0u; e < P.experts; e++) {
      var product = 0.0;
      if (k < P.rank) {
        let b = b4(e * P.rank + k, n);
        product = dot(b, d);
        ${c && 'sum = fma(vec4f(w[e]), b, sum);'}
      }
      products[tid] = product;
      workgroupBarrier();
      if (tid < 16u) {
        for (var j = tid + 16u; j < 256u; j += 16u) { product += products[j]; }
        products[tid] = product;
      }
      workgroupBarrier();
      if (tid == 0u) {
        for (var j = 1u; j < 16u; j++) { product += products[j]; }
        fold_sums[e] += product;
      }
      workgroupBarrier();
    }`
    }
    ${c && 'if (k < P.rank) { c_put4(k, n, sum); }'}
  }
  ${dWeights && 'if (tid < P.experts) { d_weights_put1(id, tid, fold_sums[tid]); }'}
}`,
  }
}
