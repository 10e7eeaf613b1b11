/**
 * From v to the gradients that each token's weights and h receive. Symbols as in docs/math.md.
 *
 *     q_t = s sum_e w(t)_e v_te    token_d_weights[t, e] = s <h_t, v_te>        v: [segments M, E r], without s
 *
 * Each workgroup owns a few tokens. v is loaded twice, the second time from cache.
 */
import { ceilDiv, type Operand, type Part } from '../../binding/gpu-pass.js'
import { wgsl } from './text.js'

const TOKENS = 16
const LANES = 16

/** `q` and `token_d_weights` are written. `tokens` are the tokens of v: a range of the call's rows. */
export function gather(call: {
  readonly v: Operand
  readonly tokens: number
  readonly hidden: Operand
  readonly tokenWeights: Operand
  readonly q: Operand | null
  readonly tokenDWeights: Operand | null
}): Part {
  const { v, tokens, hidden, tokenWeights, q, tokenDWeights } = call
  return {
    name: 'gather',
    workgroups: ceilDiv(tokens, TOKENS),
    operands: { v, hidden, token_weights: tokenWeights, q, token_d_weights: tokenDWeights },
    params: { gather_tokens: tokens },
    wgsl: wgsl`
var<workgroup> gather_dots: array<f32, 256>;
fn v_sum4(t: u32, j: u32) -> vec4f {
  var sum = vec4f();
  for (var row = t; row < P.v_rows; row += P.gather_tokens) { sum += v4(row, j); }
  return sum;
}
fn v_sum(t: u32, j: u32) -> f32 {
  var sum = 0.0;
  for (var row = t; row < P.v_rows; row += P.gather_tokens) { sum += v1(row, j); }
  return sum;
}
fn gather(id: u32, tid: u32, item: u32) {
  let first = id * ${TOKENS}u;
  let count = min(${TOKENS}u, P.gather_tokens - first);
  ${
    q &&
    `for (var i = tid; i < count * P.hidden_quads; i += 256u) {
    let t = first + i / P.hidden_quads;
    let k = i % P.hidden_quads * 4u;
    var sum = vec4f();
    for (var e = 0u; e < P.experts; e++) { sum = fma(vec4f(token_weights1(t, e)), v_sum4(t, e * P.rank + k), sum); }
    q_put4(t, k, P.scaling * sum);
  }`
  }
  ${
    tokenDWeights &&
    `for (var base = 0u; base < count * P.experts; base += ${256 / LANES}u) {
    let pair = base + tid / ${LANES}u;
    let t = first + pair / P.experts;
    let e = pair % P.experts;
    var dot = 0.0;
    if (pair < count * P.experts) {
      for (var k = tid % ${LANES}u; k < P.rank; k += ${LANES}u) { dot = fma(hidden1(t, k), v_sum(t, e * P.rank + k), dot); }
    }
    gather_dots[tid] = dot;
    workgroupBarrier();
    if (tid % ${LANES}u == 0u && pair < count * P.experts) {
      for (var i = 1u; i < ${LANES}u; i++) { dot += gather_dots[tid + i]; }
      token_d_weights_put1(t, e, P.scaling * dot);
    }
    workgroupBarrier();
  }`
  }
}`,
  }
}
