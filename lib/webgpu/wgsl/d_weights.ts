/**
 * The gradients of given weights and of the logits of a learned mixture. Symbols as in docs/math.md.
 *
 *     dw_g = the sum of the partial sums; with groups, of the group's tokens
 *     d_weights (+)= dw        d_router (+)= dz = w * (dw - <w, dw>)
 *
 * A workgroup for each group; one pass over the partial sums.
 */
import type { Operand, Part } from '../../binding/gpu-pass.js'
import { laneWidth, readRange, sumLanes } from './groups.js'
import { wgsl } from './text.js'

interface WeightGradient {
  /** [P, E], or with offsets a row for each token, [M, E]. */
  readonly partials: Operand
  /** [G + 1]; null: one group. */
  readonly offsets: Operand | null
  readonly groups: number
  readonly experts: number
  /** [1, E]: w of a learned mixture; null: the weights are given. */
  readonly weights: Operand | null
  /** [G, E], or of a learned mixture [E, 1]. */
  readonly out: Operand
}

export function weightGradient({ partials, offsets, groups, experts, weights, out }: WeightGradient): Part {
  return {
    name: 'd_w',
    workgroups: groups,
    operands: { d_w_partials: partials, offsets, weights, [weights ? 'd_mixture' : 'd_weights']: out },
    params: { lane_width: laneWidth(experts) },
    helpers: [sumLanes, offsets && readRange],
    wgsl: wgsl`
fn d_w(id: u32, tid: u32, item: u32) {
  let range = ${offsets ? 'read_range(id, tid)' : 'vec2u(0u, P.d_w_partials_rows)'};
  var sum = 0.0;
  for (var i = range.x + tid / P.lane_width; i < range.y; i += THREADS / P.lane_width) { sum += d_w_partials1(i, tid % P.lane_width); }
  sum_lanes(tid, sum);
  if (tid < P.experts) { ${weights ? OF_MIXTURE : 'd_weights_put1(id, tid, sums[tid]);'} }
}`,
  }
}

/** Relative to the dw of the largest w, as in d_hidden.ts. */
const OF_MIXTURE = `
    var top = 0u;
    for (var e = 1u; e < P.experts; e++) { if (weights1(0u, e) > weights1(0u, top)) { top = e; } }
    var mean = 0.0;
    for (var e = 0u; e < P.experts; e++) { mean = fma(weights1(0u, e), sums[e] - sums[top], mean); }
    d_mixture_put4(tid, 0u, vec4f(weights1(0u, tid) * (sums[tid] - sums[top] - mean), vec3f()));`
