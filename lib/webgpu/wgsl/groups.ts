/** Tokens of pooling groups, and sums over the lanes of a workgroup. */

/**
 * The tokens of group g, first and end. The content of `offsets` is the caller's word, so it is clamped. Every thread of
 * the workgroup must call it; the result is uniform.
 */
export const readRange = `
var<workgroup> token_range: vec2u;
fn read_range(g: u32, tid: u32) -> vec2u {
  if (tid == 0u) {
    let begin = u32(clamp(offsets_int(g), 0, i32(P.tokens)));
    let end = u32(clamp(offsets_int(g + 1u), 0, i32(P.tokens)));
    token_range = vec2u(begin, max(begin, end));
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
