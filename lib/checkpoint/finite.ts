/** Search for infinities and NaNs. */
import type { StoredTensor } from './safetensors-file.js'

/** Mask of the exponent bits. All of them are set in infinities and NaNs only. */
const EXPONENT = { float32: 0x7f800000, bfloat16: 0x7f80, float16: 0x7c00 } as const

/** Index of the first element that is an infinity or NaN; -1 if all are finite. */
export function firstNotFinite({ dtype, data }: StoredTensor): number {
  const bits = data instanceof Float32Array ? new Uint32Array(data.buffer, data.byteOffset, data.length) : data
  const exponent = EXPONENT[dtype]
  return bits.findIndex((value: number) => (value & exponent) === exponent)
}
