/** The offsets for sequence routing: up to eight sequences of equal length. */
export function sequenceOffsets(tokens: number): Int32Array {
  const count = Math.min(8, tokens)
  return Int32Array.from({ length: count + 1 }, (_, i) => Math.round((i * tokens) / count))
}
