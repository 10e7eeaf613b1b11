/**
 * The weights of every token's group. Symbols as in docs/math.md.
 *
 *     pooled   w_g = mean of the values (p) over the kept tokens of group g, or softmax of the sum of the values (l)
 *     given    w_g as given
 *     token_weights[t, e] = w_g(t)e;  kept[t] = number of kept tokens of g(t)
 *
 * Tokens that no group contains have w = 0 and kept = 0, like tokens of a group without a kept token.
 *
 * The tokens of a group are spread over a few workgroups, each of which forms the sums over the whole group: few long
 * groups keep many workgroups busy, at the price of repeated loads of M E numbers. The order of a sum depends on the
 * positions in the group alone.
 */
import { ceilDiv, dense, type Operand, type Part, written } from '../../binding/gpu-pass.js'
import type { Region } from '../../binding/gpu-call.js'
import { keeps, laneWidth, readRange, sumLanes } from './groups.js'
import { finishWeights } from './weights.js'
import { wgsl } from './text.js'

/** Workgroups that all groups together have at least. */
const WORKGROUPS = 64

/** Workgroups for each group. */
export const slicesOf = (groups: number) => (groups === 0 ? 1 : ceilDiv(WORKGROUPS, groups))

/** Workgroups for the slices of all tokens: of the groups, and of the two more of `readRange`. */
export const sliceWorkgroups = (groups: number) => (groups === 0 ? 0 : (groups + 2) * slicesOf(groups))

/** The tokens of one slice of a group: statements that define `g`, `range`, `begin` and `end` from `id`. */
export const sliceOfGroup = `let g = id / P.slices;
  let range = read_range(g, tid);
  let share = (range.y - range.x + P.slices - 1u) / P.slices;
  let begin = min(range.x + id % P.slices * share, range.y);
  let end = min(begin + share, range.y);`

interface PoolCall {
  readonly groups: number
  readonly experts: number
  readonly offsets: Operand
  readonly mask: Operand | null
  /** [M, E]: values to pool; null: the weights are given. */
  readonly values: Operand | null
  /** [G, E]: read if they are given, otherwise written; null: not kept. */
  readonly weights: Region | null
  /** [M, E], written. */
  readonly tokenWeights: Operand
  /** [1, M], written: null if nothing reads it. */
  readonly kept: Operand | null
}

export function pool(call: PoolCall): Part {
  const { groups, experts, offsets, mask, values, weights, tokenWeights, kept } = call
  const slices = slicesOf(groups)
  const table = weights && dense(weights, groups, experts)
  const hasSums = values !== null || kept !== null
  return {
    name: 'pool',
    workgroups: sliceWorkgroups(groups),
    operands: {
      offsets,
      token_weights: tokenWeights,
      mask: hasSums ? mask : null,
      values,
      kept,
      weights: values && table ? written(table) : table,
    },
    params: { lane_width: laneWidth(experts), slices },
    helpers: [readRange, hasSums && sumLanes, values && finishWeights],
    wgsl: wgsl`
fn pool(id: u32, tid: u32, item: u32) {
  ${sliceOfGroup}
  ${
    hasSums &&
    wgsl`let c = tid % P.lane_width;
  var sum = 0.0;
  let last = select(range.x, range.y, g < P.groups);
  for (var t = range.x + tid / P.lane_width; t < last; t += 256u / P.lane_width) {
    if (${keeps(mask !== null, 't')}) {
      if (c == P.experts) { sum += 1.0; }${values && ' else { sum += values1(t, c); }'}
    }
  }
  sum_lanes(tid, sum);`
  }
  ${values && 'finish_weights(tid);'}
  ${values && weights && 'if (id % P.slices == 0u && tid < P.experts) { weights_put1(g, tid, w[tid]); }'}
  for (var i = tid; i < (end - begin) * P.experts; i += 256u) {
    token_weights_put1(begin + i / P.experts, i % P.experts, ${values === null ? 'weights1(g, i % P.experts)' : 'w[i % P.experts]'});
  }
  ${kept && 'for (var t = begin + tid; t < end; t += 256u) { kept_put1(0u, t, sums[P.experts]); }'}
}`,
  }
}
