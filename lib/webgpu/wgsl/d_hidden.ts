/**
 * The gradients of the logits and of h. Symbols as in docs/math.md.
 *
 *     dw         one group: the sum of its partial sums; groups: the sum of the group's tokens; token routing: the token's
 *     dl_t  = p_t * (dw - <p_t, dw>) / n    pool logits: w * (dw - <w, dw>); 0 for tokens that the mask drops or no group contains
 *     dh_t  = (q_t + sum_e dl_te R_e) * phi'(h_t); 0 for tokens whose group has no kept token, and for tokens of no group
 *
 * With dropout dh is multiplied by its factor.
 *
 * Each workgroup owns a few tokens or, with groups, a share of the tokens of one group, whose dw it adds first. One pass
 * over q, p and h; d_logits [M, E] and d_hidden [M, r] are written once, in float32.
 */
import { ceilDiv, type Operand, type Part } from '../../binding/gpu-pass.js'
import { keeps, laneWidth, readRange, sumLanes } from './groups.js'
import { hasGradient } from './kept.js'
import { sliceOfGroup, slicesOf, sliceWorkgroups } from './pool.js'
import { wgsl } from './text.js'

const TOKENS = 16

/** What dl requires. */
export interface LogitGradient {
  /** Partial sums of dw [P, E], or a row for each token, [M, E]. */
  readonly dWeights: Operand
  readonly source: 'partials' | 'groups' | 'tokens'
  /** p [M, E], or with pool logits w [G, E]. */
  readonly statistic: Operand
  readonly poolsLogits: boolean
  readonly router: Operand
  readonly dLogits: Operand
  readonly mask: Operand | null
  /** [G + 1]; with source 'groups'. */
  readonly offsets: Operand | null
  readonly groups: number
}

export interface DHidden {
  readonly tokens: number
  readonly experts: number
  readonly logits: LogitGradient | null
  /** Partial sums of q, [segments M, r]; null: dh is not required. */
  readonly q: Operand | null
  /** The factor of q: an expression. */
  readonly factor: string
  readonly hidden: Operand
  readonly dHidden: Operand | null
  /** [1] or [1, M]: for the mean over the kept tokens, and to tell which tokens have a gradient. */
  readonly kept: Operand | null
  /** Whether tokens may have no gradient. */
  readonly leavesOut: boolean
  /** What phi' multiplies: an expression of the sum `dh`. */
  readonly value: string
}

export function dHidden(call: DHidden): Part {
  const { tokens, experts, logits, q, factor, hidden, dHidden: out, kept, leavesOut, value } = call
  const isGrouped = logits?.source === 'groups'
  const slices = isGrouped ? slicesOf(logits.groups) : 1
  const workgroups = isGrouped ? sliceWorkgroups(logits.groups) : ceilDiv(tokens, TOKENS)
  return {
    name: 'd_hidden',
    workgroups,
    operands: {
      q,
      hidden: q && hidden,
      d_hidden: out,
      kept,
      ...(logits && {
        d_weights: logits.dWeights,
        statistic: logits.statistic,
        d_logits: logits.dLogits,
        router: logits.router,
        mask: logits.mask,
        offsets: isGrouped ? logits.offsets : null,
      }),
    },
    params: { slices, lane_width: laneWidth(experts) },
    helpers: [logits && sumLanes, isGrouped && readRange, leavesOut && hasGradient],
    wgsl: wgsl`${logits && logitGradient(logits, kept !== null)}
fn d_hidden(id: u32, tid: u32, item: u32) {
  ${
    isGrouped
      ? sliceOfGroup
      : `let g = 0u;
  let begin = id * ${TOKENS}u;
  let end = min(begin + ${TOKENS}u, P.tokens);`
  }
  ${logits && sumOf(logits)}
  for (var t0 = begin; t0 < end; t0 += ${TOKENS}u) {
    let count = min(${TOKENS}u, end - t0);
    ${logits && 'if (tid < count) { form_d_logits(t0, tid, g); } workgroupBarrier();'}
    ${out && rowsOfDHidden(logits !== null, leavesOut, factor, value)}
    ${logits && 'workgroupBarrier();'}
  }
}`,
  }
}

/** sums[e] = dw_e */
function sumOf({ source }: LogitGradient): string {
  if (source === 'tokens') return ''
  const [first, end] = source === 'groups' ? ['range.x', 'range.y'] : ['0u', 'P.d_weights_rows']
  return `var sum = 0.0;
  for (var i = ${first} + tid / P.lane_width; i < ${end}; i += 256u / P.lane_width) { sum += d_weights1(i, tid % P.lane_width); }
  sum_lanes(tid, sum);`
}

/**
 * The dw of the expert with the largest p is subtracted from each dw, which does not change dl. If that p is close to 1,
 * <p, dw> is close to its dw, and the difference of the two would consist of rounding errors.
 */
function logitGradient({ source, poolsLogits, mask }: LogitGradient, hasKept: boolean): string {
  const dw = (e: string) => (source === 'tokens' ? `d_weights1(t0 + t, ${e})` : `sums[${e}]`)
  const p = (e: string) => (poolsLogits ? `statistic1(g, ${e})` : `statistic1(t0 + t, ${e})`)
  const averages = hasKept && source !== 'tokens' && !poolsLogits
  return wgsl`
var<workgroup> d_logits_of: array<f32, ${TOKENS * 64}>;
fn form_d_logits(t0: u32, t: u32, g: u32) {
  let keep = g < P.groups && ${keeps(mask !== null, 't0 + t')};
  var top = 0u;
  for (var e = 1u; e < P.experts; e++) { if (${p('e')} > ${p('top')}) { top = e; } }
  let dw_top = ${dw('top')};
  var mean = 0.0;
  for (var e = 0u; e < P.experts; e++) { mean = fma(${p('e')}, ${dw('e')} - dw_top, mean); }
  for (var e = 0u; e < P.experts; e++) {
    var value = 0.0;
    if (keep) { value = ${p('e')} * (${dw('e')} - dw_top - mean)${averages && ' / kept1(0u, min(t0 + t, P.kept_cols - 1u))'}; }
    d_logits_of[t * P.experts + e] = value;
    d_logits_put1(t0 + t, e, value);
  }
}`
}

const rowsOfDHidden = (hasLogits: boolean, leavesOut: boolean, factor: string, value: string) => wgsl`
    for (var i = tid; i < count * P.d_hidden_quads; i += 256u) {
      let t = i / P.d_hidden_quads;
      let k = i % P.d_hidden_quads * 4u;
      var dh = vec4f();
      for (var row = t0 + t; row < P.q_rows; row += P.tokens) { dh += q4(row, k); }
      dh *= ${factor};
      ${hasLogits && 'for (var e = 0u; e < P.experts; e++) { dh = fma(vec4f(d_logits_of[t * P.experts + e]), router4(e, k), dh); }'}
      dh = select(${value}, vec4f(), (hidden4(t0 + t, k) == vec4f()) & vec4<bool>(P.relu != 0u));
      ${leavesOut && 'if (!has_gradient(t0 + t)) { dh = vec4f(); }'}
      d_hidden_put4(t0 + t, k, dh);
    }`
