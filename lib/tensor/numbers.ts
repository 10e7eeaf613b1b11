/** Numbers of 16 bits on the host. */
import { getFloat16, setFloat16 } from '@petamoriken/float16'
import { type DType, type HostData, viewOf } from '../base/dtype.js'
import { allocateOnHost } from '../memory/allocate.js'

const float = new Float32Array(1)
const bitsOf = new Uint32Array(float.buffer)
const scratch = new DataView(new ArrayBuffer(2))

/** The values of host memory as float32: a copy, but of float32 itself. */
export function toFloat32(dtype: DType, data: HostData): Float32Array {
  if (dtype === 'float32') return data as Float32Array
  const bits = viewOf(dtype, data.buffer, data.byteOffset, data.length)
  const values = allocateOnHost('float32', 'float32', bits.length) as Float32Array
  const valueOf = dtype === 'bfloat16' ? fromBFloat16 : fromFloat16
  for (let i = 0; i < values.length; i++) values[i] = valueOf(bits[i])
  return values
}

/** The nearest numbers of a type, the even one of two; float32 ones are not copied. */
export function fromFloat32(dtype: DType, values: Float32Array): HostData {
  if (dtype === 'float32') return values
  const bits = allocateOnHost(dtype, dtype, values.length)
  const bitsOfValue = dtype === 'bfloat16' ? toBFloat16 : toFloat16
  for (let i = 0; i < bits.length; i++) bits[i] = bitsOfValue(values[i])
  return bits
}

/** bfloat16 is the upper half of a float32. */
function fromBFloat16(bits: number): number {
  bitsOf[0] = bits << 16
  return float[0]
}

function toBFloat16(value: number): number {
  float[0] = value
  const bits = bitsOf[0]
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
