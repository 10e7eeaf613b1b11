/**
 * The number of kept tokens of the one pooling group: kept[0]. Symbols as in docs/math.md. One workgroup, one pass over the
 * mask.
 */
import type { Operand, Part } from '../../binding/gpu-pass.js'

export const countKept = (mask: Operand | null, kept: Operand): Part => ({
  name: 'count_kept',
  workgroups: 1,
  operands: { kept, mask },
  wgsl: `
var<workgroup> counts: array<u32, THREADS>;
fn count_kept(id: u32, tid: u32, item: u32) {
  var count = 0u;
  for (var t = tid; t < P.tokens; t += THREADS) { ${mask === null ? 'count++;' : 'if (mask1(0u, t) != 0.0) { count++; }'} }
  counts[tid] = count;
  workgroupBarrier();
  if (tid == 0u) {
    for (var i = 1u; i < THREADS; i++) { count += counts[i]; }
    kept_put1(0u, 0u, f32(count));
  }
}`,
})

/** Whether a token has a gradient: it has a group, which has a kept token. With one group all tokens share kept[0]. */
export const hasGradient = `
fn has_gradient(t: u32) -> bool { return kept1(0u, min(t, P.kept_cols - 1u)) > 0.0; }`
