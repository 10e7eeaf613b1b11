/**
 * The problem of the self-tests, small enough to solve by hand: M = 4, d_in = d_out = 2, r = 1, E = 2, s = 2; the last two
 * tokens repeat the first two, because up to two tokens have kernels without matrix units. The router is zero, so both weights
 * are 1/2, and all intermediate results have few bits: the outputs are exact in any order of summation and in every data type.
 */
export const SCALING = 2

export const operands = {
  x: { data: [1, 2, 3, 4, 1, 2, 3, 4], shape: [4, 2] },
  a: { data: [1, 1], shape: [1, 2] },
  router: { data: [0, 0], shape: [2, 1] },
  b: { data: [1, 0, 0, 2], shape: [2, 1, 2] },
  dy: { data: [1, 1, 1, 1, 1, 1, 1, 1], shape: [4, 2] },
} as const

const expected = {
  y: [3, 6, 7, 14, 3, 6, 7, 14], // hidden = x a^T = 3, 7, ...; combined = 1/2 (b_0 + b_1) = 1/2, 1; y = 2 hidden combined
  dx: [3, 3, 3, 3, 3, 3, 3, 3], // q = 2 dy combined^T = 3, 3, ...; d_logits router = 0; dx = q a
  da: [24, 36], // q^T x
  dRouter: [-50, 50], // d_combined = 2 hidden^T dy = 40, 40; d_weights = 40, 80; d_logits = -+2.5 for each token
  db: [20, 20, 20, 20], // 1/2 d_combined for both experts
}

export type ResultName = keyof typeof expected

/** Describes the first result that differs; null if none does. */
export function wrongResult(results: Readonly<Record<ResultName, ArrayLike<number>>>, dtype: string): string | null {
  for (const [name, values] of Object.entries(expected)) {
    const found = Array.from(results[name as ResultName])
    if (String(found) !== String(values)) {
      return `${name} in ${dtype} is ${String(found)}, expected ${String(values)}`
    }
  }
  return null
}
