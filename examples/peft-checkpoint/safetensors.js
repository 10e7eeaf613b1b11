import { readFileSync } from 'node:fs'

/**
 * The float32 tensors of a safetensors file: an 8-byte header length, a JSON header, then the numbers.
 *
 * @param {string} path
 * @returns {Map<string, { data: Float32Array, shape: number[] }>}
 */
export function readSafetensors(path) {
  const file = readFileSync(path)
  const start = 8 + Number(file.readBigUInt64LE(0))
  const { __metadata__: _, ...header } = JSON.parse(file.toString('utf8', 8, start))
  const tensors = new Map()
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (dtype !== 'F32') throw new Error(`${path}: ${name} is ${dtype}; this example reads F32`)
    // A copy, because a Float32Array must begin at a multiple of 4 bytes.
    const bytes = new Uint8Array(file.subarray(start + data_offsets[0], start + data_offsets[1]))
    tensors.set(name, { data: new Float32Array(bytes.buffer), shape })
  }
  return tensors
}
