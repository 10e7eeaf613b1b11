/**
 * The weights w of the experts in one pooling group, in workgroup memory. Symbols as in docs/math.md.
 *
 *     pooled    w_e = sum_t p_te / n, or softmax of sum_t l_te, from partial sums [P, E + 1]; the last column counts the kept
 *               tokens. A group without one has w = 0
 *     given     w [1, E]
 *     uniform   w_e = 1 / E
 *     learned   w = softmax(z)
 */
import { dense, type Operand, written } from '../../binding/gpu-pass.js'
import type { Region } from '../../binding/gpu-call.js'
import type { Prepare } from './expand.js'
import { laneWidth, sumLanes } from './groups.js'
import { wgsl } from './text.js'

/** From sums[0 .. E] to w; ends with a barrier. */
export const finishWeights = `
var<workgroup> w: array<f32, 64>;
fn finish_weights(tid: u32) {
  if (tid < P.experts) {
    let kept = sums[P.experts];
    var value = 0.0;
    if (kept > 0.0 && P.logits == 0u) { value = sums[tid] / kept; }
    if (kept > 0.0 && P.logits != 0u) {
      var most = sums[0];
      for (var e = 1u; e < P.experts; e++) { most = max(most, sums[e]); }
      var total = 0.0;
      for (var e = 0u; e < P.experts; e++) { total += exp(sums[e] - most); }
      value = exp(sums[tid] - most) / total;
    }
    w[tid] = value;
  }
  workgroupBarrier();
}`

const pooled = `
fn prepare_weights(tid: u32) {
  let e = tid % P.lane_width;
  var sum = 0.0;
  for (var i = tid / P.lane_width; i < P.pooled_rows; i += THREADS / P.lane_width) { sum += pooled1(i, e); }
  sum_lanes(tid, sum);
  finish_weights(tid);
}`

const learned = `
fn prepare_weights(tid: u32) {
  if (tid <= P.experts) { sums[tid] = select(1.0, router1(tid, 0u), tid < P.experts); }
  workgroupBarrier();
  finish_weights(tid);
}`

const direct = (value: string) => `
var<workgroup> w: array<f32, 64>;
fn prepare_weights(tid: u32) {
  if (tid < P.experts) { w[tid] = ${value}; }
  workgroupBarrier();
}`

/** Where the weights come from. `pooled`: partial sums. */
export type WeightSource =
  | { readonly kind: 'pooled'; readonly partials: Operand }
  | { readonly kind: 'given'; readonly weights: Region }
  | { readonly kind: 'uniform' }
  /** [E, 1] */
  | { readonly kind: 'learned'; readonly logits: Operand }

/** Forms w in each workgroup; the first one writes it to `keep`. */
export function prepareWeights(source: WeightSource, experts: number, keep: Region | null): Prepare {
  const operands: Record<string, Operand> = {}
  if (keep !== null) operands.weights = written(dense(keep, 1, experts))
  const statements = wgsl`prepare_weights(tid);
  ${keep && 'if (id == 0u && tid < P.experts) { weights_put1(0u, tid, w[tid]); }'}`
  switch (source.kind) {
    case 'pooled':
      return {
        statements,
        operands: { ...operands, pooled: source.partials },
        params: { lane_width: laneWidth(experts), pooled_rows: source.partials.rows },
        helpers: [sumLanes, finishWeights, pooled],
      }
    case 'given':
      return {
        statements,
        operands: { ...operands, weights: dense(source.weights, 1, experts) },
        params: {},
        helpers: [direct('weights1(0u, tid)')],
      }
    case 'learned':
      return {
        statements,
        operands: { ...operands, router: source.logits },
        params: { lane_width: laneWidth(experts) },
        helpers: [sumLanes, finishWeights, learned],
      }
    case 'uniform':
      return { statements, operands, params: {}, helpers: [direct('1.0 / f32(P.experts)')] }
  }
}
