/** Copies of numbers on the host, and their conversion between float32 and the 16-bit float types. */
import { bytesPerElement, type DType, type HostData, plainView, viewOf } from '../base/dtype.js'
import { allocateOnHost } from '../memory/allocate.js'
import type { Operand } from '../memory/operand.js'

/** A row-major copy of an operand in host memory, without the gaps between its rows. */
export function copyRows({ memory, byteOffset, dtype, rows, columns, pitch }: Operand): HostData {
  const data = plainView(dtype, memory as HostData)
  const bytes = bytesPerElement(dtype)
  const copy = allocateOnHost('a copy', dtype, rows * columns)
  if (columns === 0) return copy // of any number of rows
  const [buffer, start] = [data.buffer, data.byteOffset + byteOffset]
  const [count, length] = pitch === columns ? [1, rows * columns] : [rows, columns]
  for (let i = 0; i < count; i++) {
    copy.set(viewOf(dtype, buffer, start + i * pitch * bytes, length), i * length)
  }
  return copy
}

/** The values of host memory as float32. float32 data is returned as it is, other types are copied. */
export function toFloat32(dtype: DType, data: HostData): Float32Array {
  if (dtype === 'float32') return data as Float32Array
  const bits = plainView(dtype, data)
  const values = allocateOnHost('float32', 'float32', bits.length) as Float32Array
  const wide = bitsOf(values)
  const widen = dtype === 'bfloat16' ? fromBFloat16 : fromFloat16
  for (let i = 0; i < wide.length; i++) wide[i] = widen(bits[i])
  return values
}

/** The same in memory of its own, which the caller can neither change nor transfer meanwhile. */
export function copyFloat32(dtype: DType, data: HostData): Float32Array {
  return dtype === 'float32' ? (data.slice() as Float32Array) : toFloat32(dtype, data)
}

/** Rounds float32 values to `dtype`, to nearest, ties to even. For float32 `values` itself is returned. */
export function fromFloat32(dtype: DType, values: Float32Array): HostData {
  if (dtype === 'float32') return values
  const rounded = allocateOnHost(dtype, dtype, values.length)
  const bits = plainView(dtype, rounded)
  const wide = bitsOf(values)
  const round = dtype === 'bfloat16' ? toBFloat16 : toFloat16
  for (let i = 0; i < bits.length; i++) bits[i] = round(wide[i])
  return rounded
}

/** Mask of the exponent bits. All of them are set in infinities and NaNs only. */
const EXPONENT = { float32: 0x7f800000, bfloat16: 0x7f80, float16: 0x7c00 } as const

/** Types of parameters. */
export type FloatDType = keyof typeof EXPONENT

/** Index of the first element that is an infinity or NaN; -1 if all are finite. */
export function firstNotFinite(dtype: FloatDType, data: Float32Array | Uint16Array): number {
  const bits = data instanceof Float32Array ? bitsOf(data) : data
  const exponent = EXPONENT[dtype]
  return bits.findIndex((value: number) => (value & exponent) === exponent)
}

function bitsOf({ buffer, byteOffset, length }: Float32Array): Uint32Array {
  return new Uint32Array(buffer, byteOffset, length)
}

// Conversions of the bits of a number. A NaN keeps the sign and as much of the payload as fits, and gets the quiet bit.

/** Bits without the sign: larger ones are NaNs. */
const INFINITY = 0x7f800000

/** A bfloat16 is the upper 16 bits of a float32. */
function fromBFloat16(half: number): number {
  return half << 16
}

/** If the mantissa overflows, the addition carries into the exponent, up to infinity. */
function toBFloat16(bits: number): number {
  if ((bits & 0x7fffffff) > INFINITY) return (bits >>> 16) | 0x40
  return roundOff(bits, 16)
}

/** A float16 has 5 bits of exponent with a bias of 15, and 10 of mantissa; a float32 8 with a bias of 127, and 23. */
function fromFloat16(half: number): number {
  const sign = (half & 0x8000) << 16
  const magnitude = half & 0x7fff
  if (magnitude > 0x7c00) return sign | 0x7fc00000 | (magnitude << 13)
  if (magnitude === 0x7c00) return sign | INFINITY
  if (magnitude >= 0x0400) return sign | ((magnitude << 13) + ((127 - 15) << 23))
  if (magnitude === 0) return sign
  // A subnormal number is a multiple of 2^-24, and normal in float32: the shift moves its first bit to bit 23, which adds
  // 1 to the exponent.
  const shift = Math.clz32(magnitude) - 8
  return sign | (((127 - 2 - shift) << 23) + (magnitude << shift))
}

function toFloat16(bits: number): number {
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > INFINITY) return sign | 0x7e00 | ((magnitude >>> 13) & 0x03ff)
  const exponent = magnitude >>> 23
  if (exponent >= 127 + 16) return sign | 0x7c00
  if (exponent > 127 - 15) return sign | roundOff(magnitude - ((127 - 15) << 23), 13)
  // Subnormal numbers are multiples of 2^-24. Numbers below half of that become zero.
  if (exponent < 127 - 25) return sign
  return sign | roundOff((magnitude & 0x7fffff) | 0x800000, 127 - 1 - exponent)
}

/** bits / 2^count, rounded to nearest, ties to even. */
function roundOff(bits: number, count: number): number {
  return (bits + (1 << (count - 1)) - 1 + ((bits >>> count) & 1)) >>> count
}
