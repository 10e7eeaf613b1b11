/** The number types of operands, independent of lib/: rounding, and conversion to bits. */
import { isLong } from './runs.js'

export type Float = 'float32' | 'bfloat16' | 'float16'

/** Data types of a problem. `parameters` defaults to `activations`, and `gradients` to the type of the parameters. */
export interface Types {
  /** Type of x, y, dy and dx. */
  activations?: Float | undefined
  /** Type of a, router and b. */
  parameters?: Float | undefined
  /** Type of da, dRouter and db if they are given. */
  gradients?: Float | undefined
  precision?: 'default' | 'high' | 'tf32' | undefined
}

/** Every supported combination, by a name for tests. */
const ALL: Readonly<Record<string, Types>> = {
  float32: {},
  bfloat16: { activations: 'bfloat16' },
  float16: { activations: 'float16' },
  'bfloat16, gradients in float32': { activations: 'bfloat16', gradients: 'float32' },
  'mixed bfloat16': { activations: 'bfloat16', parameters: 'float32' },
  'mixed float16': { activations: 'float16', parameters: 'float32' },
  'mixed bfloat16, high': { activations: 'bfloat16', parameters: 'float32', precision: 'high' },
  'mixed float16, high': { activations: 'float16', parameters: 'float32', precision: 'high' },
}

/** The combinations that a kernel of AMX multiplies; all others run on the kernels of another instruction set. */
const ofTiles = ({ activations, precision }: Types) => activations === 'bfloat16' && precision !== 'high'

const isModelled = process.env.LILY_CPU_ISA === 'amx-model'

/** From this rank on the hardware multiplies float32 as terms of bfloat16; its model does at every rank. */
export const LEAST_TERMS_RANK = 128

/** The name of the combination without 16-bit types. AMX multiplies it with precision 'tf32', as two terms of bfloat16. */
export const FLOAT32 = isModelled ? 'float32, tf32' : 'float32'

/** On the software adapter of WebGPU compiling takes long, so that other combinations are for long runs. */
const isBrief = process.env.LILY_TEST_BACKEND === 'webgpu' && !isLong
const BRIEF = ['float32', 'bfloat16', 'mixed float16']

/** The combinations under test, by a name for tests. */
export const TYPES: Readonly<Record<string, Types>> = isModelled
  ? {
      [FLOAT32]: { precision: 'tf32' },
      ...Object.fromEntries(Object.entries(ALL).filter(([, types]) => ofTiles(types))),
    }
  : isBrief
    ? Object.fromEntries(BRIEF.map((name) => [name, ALL[name]]))
    : ALL

/** Those with 16-bit activations. */
export const SIXTEEN_BITS = Object.values(TYPES).filter(({ activations = 'float32' }) => activations !== 'float32')

/**
 * What a number may be rounded to: a type, or `terms`, the sum of two bfloat16 numbers. A product of such sums adds up all
 * products of their terms except that of the two lower ones.
 *
 * In units of the operand's exponent, the lower term is what remains of the rounding to bfloat16, uniform in +-2^-8. What
 * remains of the rounding of the lower term has a variance of 4/7 * (2^-16)^2 / 12: its spacing is 2^-16 in half of the
 * cases, 2^-17 in a quarter, and so on. The variance of the product that is left out is ((2^-7)^2 / 12)^2. So the variance
 * of the error of a product is 2^-32 (4/7 (p^2 + q^2) + 4/3) / 12 with the mantissas p and q of the operands, whose
 * squares have a mean of 7/3: 4 * 2^-32 / 12. Operands that are rounded to 17 digits, a spacing of 2^-16, have
 * 2^-32 (p^2 + q^2) / 12, with a mean of 4.7 * 2^-32 / 12. So that is what `terms` counts as.
 */
export type Rounded = Float | 'terms'

/** Bits of the significand, and exponents of the smallest and largest normal numbers. */
const FORMATS = {
  float32: { digits: 24, least: -126, most: 127 },
  bfloat16: { digits: 8, least: -126, most: 127 },
  float16: { digits: 11, least: -14, most: 15 },
  terms: { digits: 17, least: -126, most: 127 },
} as const

/** The maximum relative error of rounding. */
export function roundoff(dtype: Rounded): number {
  return 2 ** -FORMATS[dtype].digits
}

/** Views of the same memory, for access to the bits of a number. */
const double = new Float64Array(1)
const halves = new Uint32Array(double.buffer)
const float = new Float32Array(1)
const bitsOf = new Uint32Array(float.buffer)
/** Index of the half that contains the exponent: 1 on little-endian machines. */
const HIGH = new Uint8Array(Uint32Array.of(1).buffer)[0]

/** Distance between neighbouring numbers of the type around a value. */
export function quantum(dtype: Rounded, value: number): number {
  const { digits, least } = FORMATS[dtype]
  double[0] = value
  const exponent = ((halves[HIGH] >>> 20) & 0x7ff) - 1023
  halves[1 - HIGH] = 0
  halves[HIGH] = (Math.max(exponent, least) - digits + 1 + 1023) << 20
  return double[0]
}

/** Rounds to the nearest number of the type, ties to even. */
export function round(dtype: Rounded, value: number): number {
  if (dtype === 'float32' || !Number.isFinite(value)) return Math.fround(value)
  const step = quantum(dtype, value)
  const steps = value / step
  const below = Math.floor(steps)
  const rest = steps - below
  const rounded = step * (rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? below + 1 : below)
  return Math.abs(rounded) < 2 ** (FORMATS[dtype].most + 1) ? rounded : Infinity * Math.sign(value)
}

export function roundAll(dtype: Float, values: ArrayLike<number>): Float32Array {
  const rounded = new Float32Array(values)
  if (dtype === 'float32') return rounded
  for (let i = 0; i < rounded.length; i++) rounded[i] = round(dtype, values[i])
  return rounded
}

/** Rounds numbers to the type and stores them in the array format of an operand. */
export function pack(dtype: Float, values: ArrayLike<number>): Float32Array | Uint16Array {
  const rounded = roundAll(dtype, values)
  if (dtype === 'float32') return rounded
  const packed = new Uint16Array(rounded.length)
  for (let i = 0; i < packed.length; i++)
    packed[i] = dtype === 'bfloat16' ? bfloat16Bits(rounded[i]) : float16Bits(rounded[i])
  return packed
}

/** bfloat16 is the upper half of a float32. */
function bfloat16Bits(value: number): number {
  float[0] = value
  return bitsOf[0] >>> 16
}

function float16Bits(value: number): number {
  float[0] = value
  const bits = bitsOf[0]
  const sign = (bits >>> 16) & 0x8000
  if (Number.isNaN(value)) return sign | 0x7e00
  if (!Number.isFinite(value)) return sign | 0x7c00
  const size = Math.abs(value)
  // 2^-24 is the smallest subnormal number.
  if (size < 2 ** -14) return sign | (size / 2 ** -24)
  return sign | (((bits & 0x7fffffff) - (112 << 23)) >>> 13)
}

/** Converts the array of an operand to a new float32 array. */
export function unpack(dtype: string, data: ArrayLike<number>): Float32Array {
  const values = new Float32Array(data)
  if (dtype === 'float32') return values
  for (let i = 0; i < values.length; i++) values[i] = dtype === 'bfloat16' ? bfloat16(data[i]) : float16(data[i])
  return values
}

function bfloat16(bits: number): number {
  bitsOf[0] = bits << 16
  return float[0]
}

function float16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const [exponent, fraction] = [(bits >> 10) & 0x1f, bits & 0x3ff]
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25))
}
