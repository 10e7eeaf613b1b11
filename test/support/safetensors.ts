import { readFileSync } from 'node:fs'

export interface StoredTensor {
  readonly shape: readonly number[]
  readonly data: Float32Array | Float64Array
}

/** The tensors of a safetensors file: F32, F64, and BF16 widened to float32. */
export function readSafetensors(path: string): Map<string, StoredTensor> {
  const file = readFileSync(path)
  const headerEnd = 8 + Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true))
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, headerEnd))) as Record<string, Entry>
  const tensors = new Map<string, StoredTensor>()
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const [begin, end] = entry.data_offsets
    // Copy: typed arrays require alignment, which the file does not guarantee.
    const bytes = new Uint8Array(file.subarray(headerEnd + begin, headerEnd + end)).buffer
    tensors.set(name, { shape: entry.shape, data: numbers(entry.dtype, bytes) })
  }
  return tensors
}

interface Entry {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

function numbers(dtype: string, bytes: ArrayBuffer): Float32Array | Float64Array {
  if (dtype === 'F32') return new Float32Array(bytes)
  if (dtype === 'F64') return new Float64Array(bytes)
  if (dtype !== 'BF16') throw new Error(`no reader for safetensors of type ${dtype}`)
  // bfloat16 is the upper half of a float32.
  return new Float32Array(Uint32Array.from(new Uint16Array(bytes), (bits) => bits << 16).buffer)
}
