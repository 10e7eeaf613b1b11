/** The container format GGUF, version 3 (ggml/docs/gguf.md): numbers of types, and how files are laid out. */

/** 'GGUF' as a number, the low byte first. */
export const MAGIC = 0x46554747
export const VERSION = 3

/** Data begins at multiples of it, unless general.alignment says otherwise. */
export const DEFAULT_ALIGNMENT = 32

/** Types of the values of the metadata. */
export const VALUE = { uint32: 4, float32: 6, string: 8, array: 9 } as const

/** Bytes of a value of each type; null where the length varies. */
export const VALUE_BYTES: readonly (number | null)[] = [1, 1, 2, 2, 4, 4, 4, 1, null, null, 8, 8, 8]

/** Types of tensors, by ggml's number. */
export const TENSOR_TYPES = { 0: 'float32', 1: 'float16', 30: 'bfloat16' } as const
export type TensorType = (typeof TENSOR_TYPES)[keyof typeof TENSOR_TYPES]

/** Dimensions of a tensor, at most. */
export const MAX_DIMENSIONS = 4

export const KEYS = {
  architecture: 'general.architecture',
  alignment: 'general.alignment',
  type: 'general.type',
  adapterType: 'adapter.type',
  alpha: 'adapter.lora.alpha',
} as const

/** The keys of the heads, which base models also have. llama.cpp ignores them in an adapter. */
export const headKeys = (architecture: string) => ({
  query: `${architecture}.attention.head_count`,
  key: `${architecture}.attention.head_count_kv`,
})

/** The names of the matrices of an adapter's layer: A is [r, d_in], B is [d_out, r]. */
export const SUFFIX = { a: '.lora_a', b: '.lora_b' } as const

export const alignUp = (position: number, alignment: number): number => Math.ceil(position / alignment) * alignment
