/** Tokens of pooling groups, and sums over the lanes of a workgroup. */
import type { Operand, Part } from '../../binding/gpu-pass.js'

/**
 * Turns unchecked offsets into ascending ones, from 0 to M. Symbols as in docs/math.md.
 *
 *     offsets[g] = max(0, max over i <= g of min(unchecked[i], M))
 *
 * One workgroup, of whose threads each owns a share of the offsets, which it loads twice.
 */
export const ascend = (unchecked: Operand, offsets: Operand): Part => ({
  name: 'ascend',
  workgroups: 1,
  operands: { unchecked, offsets },
  wgsl: `
var<workgroup> largest: array<i32, THREADS>;
fn ascend(id: u32, tid: u32, item: u32) {
  let share = (P.groups + THREADS) / THREADS;
  let end = min((tid + 1u) * share, P.groups + 1u);
  var most = 0;
  for (var g = tid * share; g < end; g++) { most = max(most, min(unchecked_int(g), i32(P.tokens))); }
  largest[tid] = most;
  workgroupBarrier();
  most = 0;
  for (var i = 0u; i < tid; i++) { most = max(most, largest[i]); }
  for (var g = tid * share; g < end; g++) {
    most = max(most, min(unchecked_int(g), i32(P.tokens)));
    offsets_put_int(g, most);
  }
}`,
})

/**
 * The tokens of group g, first and end. Two more groups have the tokens that belong to none: G those before the first group,
 * G + 1 those after the last. Every thread of the workgroup must call it; the result is uniform.
 */
export const readRange = `
var<workgroup> token_range: vec2u;
fn read_range(g: u32, tid: u32) -> vec2u {
  if (tid == 0u) {
    let begin = select(u32(offsets_int(g)), 0u, g == P.groups);
    let end = select(u32(offsets_int(g + 1u)), u32(offsets_int(0u)), g == P.groups);
    token_range = select(vec2u(begin, end), vec2u(begin, P.tokens), g > P.groups);
  }
  return workgroupUniformLoad(&token_range);
}`

/**
 * sums[c] = the sum over the lanes of their `value` for column c. The threads are lanes of P.lane_width columns:
 * thread tid is lane tid / lane_width of column tid % lane_width. Begins and ends with a barrier.
 */
export const sumLanes = `
var<workgroup> lanes: array<f32, THREADS>;
var<workgroup> sums: array<f32, 128>;
fn sum_lanes(tid: u32, value: f32) {
  workgroupBarrier();
  lanes[tid] = value;
  workgroupBarrier();
  if (tid < P.lane_width) {
    var sum = 0.0;
    for (var i = tid; i < THREADS; i += P.lane_width) { sum += lanes[i]; }
    sums[tid] = sum;
  }
  workgroupBarrier();
}`

/** Columns for `sum_lanes` with E experts and one more: a power of two. */
export const laneWidth = (experts: number) => 2 ** Math.ceil(Math.log2(experts + 1))

/** Whether the mask keeps a token: an expression. */
export const keeps = (hasMask: boolean, token: string) => (hasMask ? `(mask1(0u, ${token}) != 0.0)` : 'true')
