/**
 * Adds the partial sums of a gradient, in order. Symbols as in docs/math.md.
 *
 *     out (+)= sum over splits of partials        dA, dR, and dB of weights per token
 *     out (+)= (sum over splits of partials)^T    LoRA: db = D^T
 *
 * partials: [splits rows, columns], float32. One pass over them, and over out if it accumulates.
 */
import { ceilDiv, type Operand, type Part } from '../../binding/gpu-pass.js'

export function sumPartials(
  name: string,
  partials: readonly [string, Operand],
  out: readonly [string, Operand],
  isTransposed = false,
): Part {
  const { rows, cols } = out[1]
  const quads = ceilDiv(cols, 4)
  // The rows of a split are the rows of out, or its columns.
  const load = isTransposed ? `${partials[0]}4t(row + n, k)` : `${partials[0]}4(row + k, n)`
  return {
    name,
    workgroups: ceilDiv(rows * quads, 256),
    operands: Object.fromEntries([partials, out]),
    params: { [`${name}_rows`]: isTransposed ? cols : rows },
    wgsl: `
fn ${name}(id: u32, tid: u32, item: u32) {
  let i = id * 256u + tid;
  let k = i / P.${out[0]}_quads;
  let n = i % P.${out[0]}_quads * 4u;
  var sum = vec4f();
  for (var row = 0u; row < P.${partials[0]}_rows; row += P.${name}_rows) { sum += ${load}; }
  ${out[0]}_put4(k, n, sum);
}`,
  }
}
