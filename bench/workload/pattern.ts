/** The numbers of all operands, the same as from `filled` in bench/peers/adapters.py. */

/** A prime: rows, or experts, that repeat exactly would have equal gradients of the router's probabilities. */
export const PATTERN = 65_521

/** Numbers in [-scale, scale) before they repeat. */
export function patternNumbers(scale: number): Float32Array {
  let state = 1
  return Float32Array.from({ length: PATTERN }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return scale * (state / 2 ** 31 - 1)
  })
}

/** Fills an array of float32 with the pattern from its number `begin` on. */
export function fillPattern(values: Float32Array, scale: number, begin: number): void {
  const pattern = patternNumbers(scale)
  for (let i = 0; i < values.length; i++) values[i] = pattern[(begin + i) % PATTERN]
}
