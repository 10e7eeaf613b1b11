/**
 * The mask of dropout. Symbols as in docs/math.md.
 *
 *     m[t, j] = 1 if the number of 16 bits of the element is n or more        numbers: Philox 4x32-10
 *
 * Computes the mask of eight columns of a token at a time: bit i of kept_bits(t, j) is m[t, 8 j + i]. Nothing is loaded.
 * WGSL has no products of 64 bits: their high words are added from products of halves.
 */
import type { Part } from '../../binding/gpu-pass.js'

const keptBits = `
fn high_words(a: vec2u, b: vec2u) -> vec2u {
  let half = vec2u(16u);
  let low = vec2u(0xffffu);
  let mid = (a >> half) * (b & low) + (((a & low) * (b & low)) >> half);
  return (a >> half) * (b >> half) + (mid >> half) + (((a & low) * (b >> half) + (mid & low)) >> half);
}
fn kept_bits(t: u32, eight: u32) -> u32 {
  let factors = vec2u(0xd2511f53u, 0xcd9e8d57u);
  var c = vec4u(eight, t, P.position_low, P.position_high);
  var key = vec2u(P.seed_low, P.seed_high);
  for (var round = 0u; round < 10u; round++) {
    let high = high_words(c.xz, factors);
    let low = c.xz * factors;
    c = vec4u(high.y ^ c.y ^ key.x, low.y, high.x ^ c.w ^ key.y, low.x);
    key += vec2u(0x9e3779b9u, 0xbb67ae85u);
  }
  let even = select(vec4u(), vec4u(1u, 4u, 16u, 64u), (c & vec4u(0xffffu)) >= vec4u(P.dropout));
  let odd = select(vec4u(), vec4u(2u, 8u, 32u, 128u), (c >> vec4u(16u)) >= vec4u(P.dropout));
  let bits = even | odd;
  return bits.x | bits.y | bits.z | bits.w;
}
fn flags(bits: vec4u, shifts: vec4u) -> vec4<bool> { return ((bits >> shifts) & vec4u(1u)) != vec4u(); }`

/**
 * The part with what its text uses of dropout: kept_bits, flags, and the factor P.dropout_scale.
 *
 * @param draw the words of seed and position
 */
export function withDropout(part: Part, threshold: number, draw: readonly number[]): Part {
  const [seedLow, seedHigh, positionLow, positionHigh] = draw
  return {
    ...part,
    params: {
      ...part.params,
      dropout: threshold,
      seed_low: seedLow,
      seed_high: seedHigh,
      position_low: positionLow,
      position_high: positionHigh,
    },
    floats: { ...part.floats, dropout_scale: 65536 / (65536 - threshold) },
    helpers: [...(part.helpers ?? []), keptBits],
  }
}
