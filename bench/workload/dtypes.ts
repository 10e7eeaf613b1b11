/**
 * Data types of a case: `activations` is the type of x, y, dy and dx; `parameters` is the type of the parameters and their
 * gradients. `mixed` is PEFT's default.
 */
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

/** Converts the bits of a float32 to a bfloat16's or a float16's: truncates, and flushes small values to zero. */
const upperHalf = (bits: number): number => bits >>> 16
function float16(bits: number): number {
  const magnitude = (bits & 0x7fffffff) - (112 << 23)
  return magnitude < 1 << 23 ? 0 : ((bits >>> 16) & 0x8000) | (magnitude >>> 13)
}

/** Stores numbers of magnitude up to 65504 in the memory format of `dtype`. */
export function encode(values: Float32Array, dtype: Float): Float32Array | Uint16Array {
  if (dtype === 'float32') return values
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  return Uint16Array.from(bits, dtype === 'bfloat16' ? upperHalf : float16)
}

const tables = new Map<Float, Float32Array>()

/** All 16-bit numbers as float32: in JavaScript a table lookup is faster than arithmetic. */
function tableOf(dtype: Float): Float32Array {
  const known = tables.get(dtype)
  if (known !== undefined) return known
  const table = new Float32Array(65536)
  const bits = new Uint32Array(table.buffer)
  for (let i = 0; i < 65536; i++) {
    if (dtype === 'bfloat16') {
      bits[i] = i << 16
    } else {
      // Read as float32, the exponent is 112 too small. The multiplication also corrects denormals.
      bits[i] = ((i & 0x8000) << 16) | ((i & 0x7fff) << 13)
      table[i] *= 2 ** 112
    }
  }
  tables.set(dtype, table)
  return table
}

/** Converts `data` to float32; returns float32 data as it is, without a copy. */
export function decode(data: ArrayLike<number>, dtype: Float): Float32Array {
  if (data instanceof Float32Array) return data
  const table = tableOf(dtype)
  const values = new Float32Array(data.length)
  for (let i = 0; i < values.length; i++) values[i] = table[data[i]]!
  return values
}
