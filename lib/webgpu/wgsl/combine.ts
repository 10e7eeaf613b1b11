/**
 * The combined projector of one pooling group. Symbols as in docs/math.md.
 *
 *     C[k, n] = sum_e w_e B_e[k, n]        C: [r, d_out], float32, in the workspace; B: [E r, d_out]
 *
 * One pass over B; each workgroup forms w first, and the first one keeps it for backward.
 */
import { ceilDiv, type Operand, type Part } from '../../binding/gpu-pass.js'
import type { Prepare } from './expand.js'

/** Quads of C per thread, so that forming w costs little. */
const QUADS = 4

export function combine(b: Operand, c: Operand, prepare: Prepare): Part {
  const quads = ceilDiv(c.cols, 4)
  const workgroups = ceilDiv(c.rows * quads, QUADS * 256)
  return {
    name: 'combine',
    workgroups,
    operands: { b, c, ...prepare.operands },
    params: prepare.params,
    helpers: [...prepare.helpers, combined],
    wgsl: `
fn combine(id: u32, tid: u32, item: u32) {
  ${prepare.statements}
  for (var j = 0u; j < ${QUADS}u; j++) {
    let i = (id * ${QUADS}u + j) * 256u + tid;
    let k = i / P.c_quads;
    let n = i % P.c_quads * 4u;
    if (k < P.rank) { c_put4(k, n, combined(k, n)); }
  }
}`,
  }
}

/** Four columns of C. */
export const combined = `
fn combined(k: u32, n: u32) -> vec4f {
  var sum = vec4f();
  for (var e = 0u; e < P.experts; e++) { sum = fma(vec4f(w[e]), b4(e * P.rank + k, n), sum); }
  return sum;
}`
