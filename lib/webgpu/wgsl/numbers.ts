/** WGSL that converts between float32 and the bits of 16-bit numbers, rounding to nearest, ties to even. */
import type { Operand } from '../../binding/gpu-pass.js'

const toBfloat16 = `
fn to_bfloat16(value: f32) -> u32 {
  let b = bitcast<u32>(value);
  if ((b & 0x7fffffffu) > 0x7f800000u) { return (b >> 16u) | 0x40u; }
  return (b + 0x7fffu + ((b >> 16u) & 1u)) >> 16u;
}`

// From 65520 on values round to infinity. Below 2^-14 the result is a multiple of 2^-24.
const toFloat16 = `
fn to_float16(value: f32) -> u32 {
  let b = bitcast<u32>(value);
  let sign = (b >> 16u) & 0x8000u;
  let size = b & 0x7fffffffu;
  if (size > 0x7f800000u) { return sign | 0x7e00u; }
  if (size >= 0x477ff000u) { return sign | 0x7c00u; }
  if (size < 0x38800000u) { return sign | u32(round(bitcast<f32>(size) * 16777216.0)); }
  let c = size - 0x38000000u;
  return sign | ((c + 0xfffu + ((c >> 13u) & 1u)) >> 13u);
}`

/** Definitions of the conversions that stores use. */
export const conversions: Partial<Record<Operand['dtype'], string>> = { bfloat16: toBfloat16, float16: toFloat16 }

/** The expression of the number at element `i` of a buffer; word(n) is the expression of its 32-bit word n. */
export function decoded(dtype: Exclude<Operand['dtype'], 'int32'>, word: (n: string) => string): string {
  const half = `(${word('i >> 1u')} >> ((i & 1u) * 16u))`
  switch (dtype) {
    case 'float32':
      return `bitcast<f32>(${word('i')})`
    case 'bfloat16':
      return `bitcast<f32>(${half} << 16u)`
    case 'float16':
      return `unpack2x16float(${half}).x`
    case 'uint8':
      return `f32((${word('i >> 2u')} >> ((i & 3u) * 8u)) & 0xffu)`
  }
}
