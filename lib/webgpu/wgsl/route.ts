/**
 * h and the router's result for each token. Symbols as in docs/math.md.
 *
 *     h_t = phi(sum over segments of x A^T)    l_t = R h_t    p_t = softmax(l_t)
 *
 * Values written: p [M, E], or l with pooled logits. With one pooling group each workgroup also writes its partial sums of
 * them over its kept tokens, and the number of these: [workgroups, E + 1], added by a later pass in order. Logits come from
 * h as it is stored, so 16-bit h is rounded.
 *
 * One pass: x A^T once; h written once and then read for each two experts, R once for each token, both from cache.
 */
import { ceilDiv, type Helpers, type Operand, type Operands, type Part } from '../../binding/gpu-pass.js'
import { keeps } from './groups.js'
import type { Finish } from './shrink.js'
import { wgsl } from './text.js'

/** Tokens of a workgroup, and of a step of the router. */
export const ROUTE_TOKENS = 16

/** Threads that share the sums of the logits of two experts. */
const LANES = 16

export interface Router {
  readonly router: Operand
  readonly hidden: Operand
  readonly mask: Operand | null
  /** [M, E], written: null if nothing reads them. */
  readonly values: Operand | null
  /** [workgroups, E + 1], written: null unless there is one pooling group. */
  readonly pooled: Operand | null
  /** Whether values are probabilities; otherwise they are logits. */
  readonly hasSoftmax: boolean
}

const routeTokens = ({ mask, values, pooled, hasSoftmax }: Router) => wgsl`
var<workgroup> logits: array<f32, ${ROUTE_TOKENS * 64}>;
var<workgroup> dots: array<vec2f, 256>;
fn route_tokens(id: u32, first: u32, last: u32, tid: u32, item: u32) {
  var pool = 0.0;
  for (var t0 = first; t0 < last; t0 += ${ROUTE_TOKENS}u) {
    let count = min(${ROUTE_TOKENS}u, last - t0);
    let values = count * P.experts;
    let twos = (P.experts + 1u) / 2u;
    for (var base = 0u; base < count * twos; base += ${256 / LANES}u) {
      let two = base + tid / ${LANES}u;
      let t = two / twos;
      let e = two % twos * 2u;
      var dot = vec2f();
      if (t < count) {
        for (var k = tid % ${LANES}u; k < P.rank; k += ${LANES}u) {
          dot = fma(vec2f(hidden1(t0 + t, k)), vec2f(router1(e, k), router1(e + 1u, k)), dot);
        }
      }
      dots[tid] = dot;
      workgroupBarrier();
      if (tid % ${LANES}u == 0u && t < count) {
        for (var i = 1u; i < ${LANES}u; i++) { dot += dots[tid + i]; }
        logits[t * P.experts + e] = dot.x;
        if (e + 1u < P.experts) { logits[t * P.experts + e + 1u] = dot.y; }
      }
      workgroupBarrier();
    }
    ${hasSoftmax && 'if (tid < count) { softmax(tid * P.experts); } workgroupBarrier();'}
    ${values && 'for (var i = tid; i < values; i += 256u) { values_put1(t0 + i / P.experts, i % P.experts, logits[i]); }'}
    ${
      pooled &&
      `for (var t = 0u; t < count && tid <= P.experts; t++) {
      if (${keeps(mask !== null, 't0 + t')}) {
        if (tid < P.experts) { pool += logits[t * P.experts + tid]; } else { pool += 1.0; }
      }
    }`
    }
    workgroupBarrier();
  }
  ${pooled && 'if (tid <= P.experts) { pooled_put1(id, tid, pool); }'}
}`

const softmax = `
fn softmax(row: u32) {
  var most = logits[row];
  for (var e = 1u; e < P.experts; e++) { most = max(most, logits[row + e]); }
  var total = 0.0;
  for (var e = 0u; e < P.experts; e++) {
    let value = exp(logits[row + e] - most);
    logits[row + e] = value;
    total += value;
  }
  for (var e = 0u; e < P.experts; e++) { logits[row + e] /= total; }
}`

/** The activation function. A NaN stays a NaN. */
export const phi = `
fn phi(v: vec4f) -> vec4f { return select(v, vec4f(), (v <= vec4f()) & vec4<bool>(P.relu != 0u)); }`

const operandsOf = ({ router, hidden, mask, values, pooled }: Router): Operands => ({
  router,
  hidden,
  mask: pooled && mask,
  values,
  pooled,
})

const helpersOf = (r: Router): Helpers => [r.hasSoftmax && softmax, routeTokens(r)]

const ROUTE = 'storageBarrier(); route_tokens(id, first, last, tid, item);'

/** The router after a whole shrink, in the same workgroup. */
export const routeAfterShrink = (r: Router): Finish => ({
  statements: ROUTE,
  operands: operandsOf(r),
  helpers: helpersOf(r),
})

/**
 * Adds the segments of a split shrink, [segments M, r], and runs the router, if there is one. `value` gives phi as an
 * expression of their `sum`.
 */
export function route(segments: Operand, hidden: Operand, router: Router | null, value: string): Part {
  return {
    name: 'route',
    workgroups: ceilDiv(hidden.rows, ROUTE_TOKENS),
    operands: { segments, hidden, ...(router && operandsOf(router)) },
    helpers: [phi, ...(router ? helpersOf(router) : [])],
    wgsl: wgsl`
fn route(id: u32, tid: u32, item: u32) {
  let first = id * ${ROUTE_TOKENS}u;
  let last = min(first + ${ROUTE_TOKENS}u, P.tokens);
  for (var i = tid; i < (last - first) * P.hidden_quads; i += 256u) {
    let t = first + i / P.hidden_quads;
    let k = i % P.hidden_quads * 4u;
    var sum = vec4f();
    for (var row = t; row < P.segments_rows; row += P.tokens) { sum += segments4(row, k); }
    hidden_put4(t, k, phi(${value}));
  }
  ${router && ROUTE}
}`,
  }
}
