/** Copies of numbers on the host, and their conversion between float32 and the 16-bit float types. */
import { getFloat16, setFloat16 } from '@petamoriken/float16'
import { bytesPerElement, type DType, type HostData, plainView, viewOf } from '../base/dtype.js'
import { bufferOf, byteOffsetOf } from '../base/views.js'
import { allocateOnHost } from '../memory/allocate.js'
import type { Operand } from '../memory/operand.js'

const float32 = new Float32Array(1)
const float32Bits = new Uint32Array(float32.buffer)
const scratch = new DataView(new ArrayBuffer(2))

/** A row-major copy of an operand in host memory, without the gaps between its rows. */
export function copyRows({ memory, byteOffset, dtype, rows, columns, pitch }: Operand): HostData {
  const data = plainView(dtype, memory as HostData)
  const bytes = bytesPerElement(dtype)
  const copy = allocateOnHost('a copy', dtype, rows * columns)
  if (columns === 0) return copy // of any number of rows
  const [buffer, start] = [bufferOf(data), byteOffsetOf(data) + byteOffset]
  for (let row = 0; row < rows; row++) {
    copy.set(viewOf(dtype, buffer, start + row * pitch * bytes, columns), row * columns)
  }
  return copy
}

/** The values of host memory as float32. float32 data is returned as it is, other types are copied. */
export function toFloat32(dtype: DType, data: HostData): Float32Array {
  if (dtype === 'float32') return data as Float32Array
  const bits = plainView(dtype, data)
  const values = allocateOnHost('float32', 'float32', bits.length) as Float32Array
  const valueOf = dtype === 'bfloat16' ? fromBFloat16 : fromFloat16
  for (let i = 0; i < values.length; i++) values[i] = valueOf(bits[i])
  return values
}

/** The same in memory of its own, which the caller can neither change nor transfer meanwhile. */
export function copyFloat32(dtype: DType, data: HostData): Float32Array {
  return dtype === 'float32' ? (data.slice() as Float32Array) : toFloat32(dtype, data)
}

/** Rounds float32 values to `dtype`, to nearest, ties to even. For float32 `values` itself is returned. */
export function fromFloat32(dtype: DType, values: Float32Array): HostData {
  if (dtype === 'float32') return values
  const bits = allocateOnHost(dtype, dtype, values.length)
  const round = dtype === 'bfloat16' ? toBFloat16 : toFloat16
  for (let i = 0; i < bits.length; i++) bits[i] = round(values[i])
  return bits
}

/** Mask of the exponent bits. All of them are set in infinities and NaNs only. */
const EXPONENT = { float32: 0x7f800000, bfloat16: 0x7f80, float16: 0x7c00 } as const

/** Types of parameters. */
export type FloatDType = keyof typeof EXPONENT

/** Index of the first element that is an infinity or NaN; -1 if all are finite. */
export function firstNotFinite(dtype: FloatDType, data: Float32Array | Uint16Array): number {
  const bits = data instanceof Float32Array ? new Uint32Array(data.buffer, data.byteOffset, data.length) : data
  const exponent = EXPONENT[dtype]
  return bits.findIndex((value: number) => (value & exponent) === exponent)
}

/** A bfloat16 is the upper 16 bits of a float32. */
function fromBFloat16(bits: number): number {
  float32Bits[0] = bits << 16
  return float32[0]
}

/** The rounding below could turn a NaN into an infinity or a zero, so NaNs are truncated, with the quiet bit set. */
function toBFloat16(value: number): number {
  float32[0] = value
  const bits = float32Bits[0]
  if (Number.isNaN(value)) return (bits >>> 16) | 0x40
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
}

function fromFloat16(bits: number): number {
  scratch.setUint16(0, bits)
  return getFloat16(scratch, 0)
}

function toFloat16(value: number): number {
  setFloat16(scratch, 0, value)
  return scratch.getUint16(0)
}
