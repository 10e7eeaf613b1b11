/**
 * Limits of memory traffic and launches in bfloat16, with y, dx and all gradients accumulated: for the counts of the
 * emulator (with grids of at least 64 blocks) and for the formula in traffic.ts. test/cuda/counters.test.ts checks them.
 * The comment after each line has the counted values.
 */
import type { Shape } from '../workload/shapes.js'

export interface Budget {
  /** Bytes touched, relative to the minimum. */
  readonly touched: number
  /** Sectors requested, relative to contiguous accesses to the same bytes. */
  readonly coalescing: number
  /** Wavefronts of shared memory, relative to accesses without bank conflicts. */
  readonly wavefronts: number
  readonly launches: number
}

export const budgets: readonly { shape: Shape; forward: Budget; backward: Budget }[] = [
  {
    shape: { tokens: 1024, d: 1024, rank: 16, experts: 4 },
    forward: { touched: 1.03, coalescing: 1.02, wavefronts: 1.05, launches: 2 }, // 1.013, 1.001, 1.032
    backward: { touched: 1.18, coalescing: 1.02, wavefronts: 1.05, launches: 5 }, // 1.165, 1.000, 1.024
  },
  {
    shape: { tokens: 512, d: 2048, rank: 64, experts: 4 },
    forward: { touched: 1.03, coalescing: 1.02, wavefronts: 1.05, launches: 2 }, // 1.019, 1.000, 1.008
    backward: { touched: 1.18, coalescing: 1.02, wavefronts: 1.05, launches: 5 }, // 1.161, 1.000, 1.028
  },
]

/**
 * Shapes that the formula does not model: one token, and a large rank. Backward of one token has no special path: two
 * launches read B, and C is written and read. Its limit follows from its count.
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

/** Limits for the formula on each of its GPUs, at 8192 tokens and d = 4096: bytes moved, relative to the minimum. */
export const atScale: readonly { shape: Shape; forward: number; backward: number }[] = [
  { shape: { tokens: 8192, d: 4096, rank: 16, experts: 4 }, forward: 1.05, backward: 1.15 }, // 1.003, 1.076
  { shape: { tokens: 8192, d: 4096, rank: 64, experts: 4 }, forward: 1.05, backward: 1.15 }, // 1.011, 1.135
]
