/** Reproducible random numbers. */

/** Uniform in [0, 1): a 32-bit integer hash of a counter. */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    let z = state
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b)
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35)
    return ((z ^ (z >>> 16)) >>> 0) / 2 ** 32
  }
}

/** Normally distributed, with the given standard deviation. In a loop, because `from` with a function takes twice as long. */
export function gaussian(random: () => number, length: number, deviation = 1): Float32Array {
  const result = new Float32Array(length)
  for (let i = 0; i < length; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - random()))
    result[i] = deviation * radius * Math.cos(2 * Math.PI * random())
  }
  return result
}

/**
 * Multiples of 1/8 from -1 to 1. Sums of their products are exact in float32 (up to 2^18 terms), so float32 and float64
 * agree on the sign of each sum, including zero, and relu gives the same mask in both.
 */
export function eighths(random: () => number, length: number): Float32Array {
  const result = new Float32Array(length)
  for (let i = 0; i < length; i++) result[i] = (Math.floor(random() * 17) - 8) / 8
  return result
}

export function integer(random: () => number, from: number, to: number): number {
  return from + Math.floor(random() * (to - from + 1))
}
