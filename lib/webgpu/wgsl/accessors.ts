/**
 * WGSL functions that read and write the operands of a pass. All buffers are arrays of 32-bit words; for an operand `x`:
 *
 *     x1(r, c)       the number in row r, column c, as float32; 0 outside of the matrix
 *     x4(r, c)       columns c .. c + 3 of row r
 *     x4t(r, c)      rows r .. r + 3 of column c
 *     x_int(i)       element i of an int32 array, and nothing else for those but x_put_int(i, v)
 *     x_put4(r, c, v)  stores or, with the operand's `accumulate`, adds the four columns that are in the matrix
 *
 * With the operand's `drops`, x_put4 stores zeros for the elements that dropout drops, or adds nothing to them: they keep their
 * bits, which a sum with zero may change.
 *
 * Two threads never write the same word of 16-bit numbers: where the rows of all operands in a buffer begin at even elements, a
 * thread writes both halves, and otherwise each half is exchanged atomically, because the second half of a row's last word may
 * be the first of another operand. The other half keeps its value, which may be the caller's.
 */
import type { Operand } from '../../binding/gpu-pass.js'
import { bytesPer } from '../../binding/gpu-pass.js'
import { conversions, decoded } from './numbers.js'
import { wgsl } from './text.js'

/** Whether stores into the buffer of the operand require atomics: some row begins in the middle of a word. */
export const needsAtomics = ({ isWritten, dtype, byteOffset, pitch, rows, listed }: Operand) =>
  isWritten && bytesPer[dtype] === 2 && (byteOffset % 4 !== 0 || ((listed?.rows ?? rows) > 1 && pitch % 2 !== 0))

export function accessors(name: string, operand: Operand, binding: string, isAtomic: boolean): string {
  const { dtype, isWritten, listed } = operand
  const word = (n: string) => (isAtomic ? `atomicLoad(&${binding}[${n}])` : `${binding}[${n}]`)
  const p = `P.${name}`
  if (dtype === 'int32') {
    return wgsl`fn ${name}_int(i: u32) -> i32 { return bitcast<i32>(${word(`${p}_at + min(i, ${p}_cols - 1u)`)}); }
${isWritten && `fn ${name}_put_int(i: u32, v: i32) { ${binding}[${p}_at + i] = bitcast<u32>(v); }`}`
  }
  return wgsl`
fn ${name}_i(r: u32, c: u32) -> u32 { return ${p}_at + ${listed ? `min(u32(max(index_int(r), 0)), ${p}_all - 1u)` : 'r'} * ${p}_pitch + c; }
fn ${name}_raw(i: u32) -> f32 { return ${decoded(dtype, word)}; }
fn ${name}1(r: u32, c: u32) -> f32 {
  let isInside = r < ${p}_rows && c < ${p}_cols;
  return select(0.0, ${name}_raw(select(${p}_at, ${name}_i(r, c), isInside))${listed?.scale && ' * scale1(0u, r)'}, isInside);
}
fn ${name}4(r: u32, c: u32) -> vec4f { return vec4f(${name}1(r, c), ${name}1(r, c + 1u), ${name}1(r, c + 2u), ${name}1(r, c + 3u)); }
fn ${name}4t(r: u32, c: u32) -> vec4f { return vec4f(${name}1(r, c), ${name}1(r + 1u, c), ${name}1(r + 2u, c), ${name}1(r + 3u, c)); }
${isWritten && stores(name, operand, binding, isAtomic)}`
}

function stores(name: string, operand: Operand, binding: string, isAtomic: boolean): string {
  const { dtype, drops = false } = operand
  const p = `P.${name}`
  const ifDrops = (text: string) => (drops ? text : '')
  const put4 = (each: string) =>
    `fn ${name}_put4(r: u32, c: u32, ${drops ? 'of_all' : 'v'}: vec4f) { ${ifDrops(`
  let kept = flags(vec4u(kept_bits(r, c / 8u)), vec4u(c & 4u) + vec4u(0u, 1u, 2u, 3u));
  let v = select(vec4f(), of_all, kept);
  `)}${each} }`
  const at = (value: string, index: string) => `
  var value = ${value};
  let i = ${index};
  if (${p}_add != 0u) { value += ${name}_raw(i); }`
  if (bytesPer[dtype] === 4 || isAtomic) {
    const store =
      bytesPer[dtype] === 2
        ? `let shift = (i & 1u) * 16u;
  atomicAnd(&${binding}[i >> 1u], ~(0xffffu << shift));
  atomicOr(&${binding}[i >> 1u], to_${dtype}(value) << shift);`
        : isAtomic
          ? `atomicStore(&${binding}[i], bitcast<u32>(value));`
          : `${binding}[i] = bitcast<u32>(value);`
    return `
fn ${name}_put1(r: u32, c: u32, v: f32${ifDrops(', kept: bool')}) {
  if (r >= ${p}_rows || c >= ${p}_cols${ifDrops(` || (${p}_add != 0u && !kept)`)}) { return; }${at('v', `${name}_i(r, c)`)}
  ${store}
}
${put4([0, 1, 2, 3].map((j) => `${name}_put1(r, c + ${j}u, v[${j}]${ifDrops(`, kept[${j}]`)});`).join(' '))}`
  }
  const [low, isStored] = drops
    ? [`select(old & 0xffffu, to_${dtype}(value), stored.x)`, 'hasNext && stored.y']
    : [`to_${dtype}(value)`, 'hasNext']
  const both = `${low} | select(old & 0xffff0000u, to_${dtype}(next) << 16u, ${isStored})`
  return `
fn ${name}_put2(r: u32, c: u32, v: vec2f${ifDrops(', kept: vec2<bool>')}) {
  if (r >= ${p}_rows || c >= ${p}_cols) { return; }${at('v.x', `${name}_i(r, c)`)}
  var next = v.y;
  let hasNext = c + 1u < ${p}_cols;
  if (${p}_add != 0u && hasNext) { next += ${name}_raw(i + 1u); }
  let old = ${binding}[i >> 1u];${ifDrops(`
  let stored = kept | vec2<bool>(${p}_add == 0u);`)}
  ${binding}[i >> 1u] = ${both};
}
${put4(`${name}_put2(r, c, v.xy${ifDrops(', kept.xy')}); ${name}_put2(r, c + 2u, v.zw${ifDrops(', kept.zw')});`)}`
}

export const conversionOf = ({ isWritten, dtype }: Operand) => (isWritten ? conversions[dtype] : undefined)
