import type { StoredTensor } from './safetensors-file.js'

/** Bits of the exponent; all of them are set in infinities and in what is no number. */
const EXPONENT = { float32: 0x7f800000, bfloat16: 0x7f80, float16: 0x7c00 } as const

/** The index of the first element that is infinite or not a number; -1 where all are finite. */
export function firstNotFinite({ dtype, data }: StoredTensor): number {
  const bits = data instanceof Float32Array ? new Uint32Array(data.buffer, data.byteOffset, data.length) : data
  const exponent = EXPONENT[dtype]
  return bits.findIndex((value: number) => (value & exponent) === exponent)
}
