/** Data types of a case: of x, y, dy, dx, and of parameters with their gradients. `mixed` is as PEFT trains. */
export const dtypes = {
  float32: { activations: 'float32', parameters: 'float32' },
  bfloat16: { activations: 'bfloat16', parameters: 'bfloat16' },
  float16: { activations: 'float16', parameters: 'float16' },
  mixed: { activations: 'bfloat16', parameters: 'float32' },
} as const

export type DTypeName = keyof typeof dtypes
export type DTypes = (typeof dtypes)[DTypeName]
export type Float = DTypes['activations']

export const dtypeNames = Object.keys(dtypes) as readonly DTypeName[]
export const bytesOf = (dtype: Float): number => (dtype === 'float32' ? 4 : 2)

/** A float32's bits to those of a bfloat16, and of a float16: cut off, with zero for what is too small. */
const upperHalf = (bits: number): number => bits >>> 16
function float16(bits: number): number {
  const magnitude = (bits & 0x7fffffff) - (112 << 23)
  return magnitude < 1 << 23 ? 0 : ((bits >>> 16) & 0x8000) | (magnitude >>> 13)
}

/** Numbers below 65504 in the memory of a type. */
export function encode(values: Float32Array, dtype: Float): Float32Array | Uint16Array {
  if (dtype === 'float32') return values
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  return Uint16Array.from(bits, dtype === 'bfloat16' ? upperHalf : float16)
}

const tables = new Map<Float, Float32Array>()

/** Every finite number of 16 bits: a look-up decodes faster than arithmetic in JavaScript. */
function tableOf(dtype: Float): Float32Array {
  const known = tables.get(dtype)
  if (known !== undefined) return known
  const table = new Float32Array(65536)
  const bits = new Uint32Array(table.buffer)
  for (let i = 0; i < 65536; i++) {
    if (dtype === 'bfloat16') {
      bits[i] = i << 16
    } else {
      // In a float32's place its exponent is 112 too small; the product brings denormals right as well.
      bits[i] = ((i & 0x8000) << 16) | ((i & 0x7fff) << 13)
      table[i] *= 2 ** 112
    }
  }
  tables.set(dtype, table)
  return table
}

/** Numbers of a type as float32. What is float32 is not copied. */
export function decode(data: ArrayLike<number>, dtype: Float): Float32Array {
  if (data instanceof Float32Array) return data
  const table = tableOf(dtype)
  const values = new Float32Array(data.length)
  for (let i = 0; i < values.length; i++) values[i] = table[data[i]]!
  return values
}
