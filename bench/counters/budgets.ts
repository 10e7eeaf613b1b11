/**
 * What calls may cost, in bfloat16 with y, dx and all gradients accumulated into: counts of the emulator (with grids of
 * at least 64 blocks) and of the formula in traffic.ts. test/cuda/counters.test.ts holds the kernels to them; each
 * limit is as asked for or narrower, and beside it stands what was counted.
 */
import type { Shape } from '../shapes.js'

export interface Budget {
  /** Bytes touched, against the fewest. */
  readonly touched: number
  /** Sectors asked for, against those of the same bytes side by side. */
  readonly coalescing: number
  /** Cycles of shared memory, against those without bank conflicts. */
  readonly wavefronts: number
  readonly launches: number
}

export const budgets: readonly { shape: Shape; forward: Budget; backward: Budget }[] = [
  {
    shape: { tokens: 1024, d: 1024, rank: 16, experts: 4 },
    forward: { touched: 1.03, coalescing: 1.02, wavefronts: 1.05, launches: 2 }, // 1.013, 1.001, 1.032
    backward: { touched: 1.18, coalescing: 1.02, wavefronts: 1.05, launches: 4 }, // 1.165, 1.000, 1.024
  },
  {
    shape: { tokens: 512, d: 2048, rank: 64, experts: 4 },
    forward: { touched: 1.03, coalescing: 1.02, wavefronts: 1.05, launches: 2 }, // 1.019, 1.000, 1.008
    backward: { touched: 1.18, coalescing: 1.02, wavefronts: 1.05, launches: 4 }, // 1.161, 1.000, 1.028
  },
]

/**
 * What the formula does not know: one token, and a large rank. Backward of one token is as for many: nothing was asked of
 * it, its limit is what was counted: B is read by two launches, and C written and read.
 */
export const unmodelled: typeof budgets = [
  {
    shape: { tokens: 1, d: 4096, rank: 16, experts: 4 },
    forward: { touched: 1.1, coalescing: 1.02, wavefronts: 1.15, launches: 2 }, // 1.002, 1.000, 1.136
    backward: { touched: 1.42, coalescing: 1.02, wavefronts: 1.05, launches: 4 }, // 1.395, 1.000, 1.013
  },
  {
    shape: { tokens: 512, d: 1024, rank: 448, experts: 2 },
    forward: { touched: 1.3, coalescing: 1.02, wavefronts: 1.1, launches: 3 }, // 1.235, 1.000, 1.074
    backward: { touched: 1.6, coalescing: 1.02, wavefronts: 1.05, launches: 4 }, // 1.381, 1.000, 1.001
  },
]

/** Of the formula, at 8192 tokens and d = 4096, on any of its devices: bytes moved against the fewest. */
export const atScale: readonly { shape: Shape; forward: number; backward: number }[] = [
  { shape: { tokens: 8192, d: 4096, rank: 16, experts: 4 }, forward: 1.05, backward: 1.15 }, // 1.003, 1.076
  { shape: { tokens: 8192, d: 4096, rank: 64, experts: 4 }, forward: 1.05, backward: 1.15 }, // 1.011, 1.135
]
