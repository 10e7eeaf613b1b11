/** ONNX has weights [d_in, d_out], this package [d_out, d_in]. */

/** a matrix [rows, columns], transposed. */
export function transposed(data: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(data.length)
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) result[j * rows + i] = data[i * columns + j]
  return result
}
