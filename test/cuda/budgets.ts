/**
 * Limits of memory traffic and launches in bfloat16, with y, dx and all gradients accumulated: for the counts of the
 * emulator (with the multiprocessors of bench/counters/gpus.ts), and for plans on real GPUs. counters.test.ts checks
 * them. The comment after each line has the counted values.
 */
import type { GpuName } from '../../bench/counters/gpus.js'
import type { PlannedMethod } from '../../bench/counters/plan.js'
import type { Shape } from '../../bench/workload/shapes.js'

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
  // Backward has two launches that read dy, the second from L2: it is touched, but not moved, twice. The second shape had 1.174
  // with both products of dy in one launch.
  {
    shape: { tokens: 1024, d: 1024, rank: 16, experts: 4 },
    forward: { touched: 1.03, coalescing: 1.02, wavefronts: 1.05, launches: 2 }, // 1.013, 1.001, 1.032
    backward: { touched: 1.37, coalescing: 1.02, wavefronts: 1.05, launches: 4 }, // 1.354, 1.000, 1.024
  },
  {
    shape: { tokens: 512, d: 2048, rank: 64, experts: 4 },
    // Partial sums of h over four splits of d, which the launch of the router reads: 1.03 when d was not split.
    forward: { touched: 1.17, coalescing: 1.02, wavefronts: 1.05, launches: 3 }, // 1.157, 1.000
    backward: { touched: 1.25, coalescing: 1.02, wavefronts: 1.05, launches: 5 }, // 1.238
  },
]

/** Shapes whose traffic the plan does not model exactly: one token, and a large rank. */
export const unmodelled: typeof budgets = [
  {
    shape: { tokens: 1, d: 4096, rank: 16, experts: 4 },
    forward: { touched: 1.1, coalescing: 1.02, wavefronts: 1.15, launches: 2 }, // 1.002, 1.000, 1.001
    backward: { touched: 1.15, coalescing: 1.02, wavefronts: 1.08, launches: 4 }, // 1.001, 1.000, 1.063; Turing: 1.137
  },
  {
    shape: { tokens: 512, d: 1024, rank: 448, experts: 2 },
    forward: { touched: 1.56, coalescing: 1.02, wavefronts: 1.1, launches: 4 }, // 1.235, 1.000, 1.074; Turing: 1.546
    // C is combined, and dx and dA computed, by launches of their own: 1.385 touched before.
    backward: { touched: 1.6, coalescing: 1.02, wavefronts: 1.05, launches: 6 }, // 1.569, 1.000, 1.001
  },
]

/** Clocks of shared memory of the tile of eight warps, relative to those of the matrix units: the main loop needs 1.0. */
export const SHARED_CLOCKS = 1.05

/**
 * The least share of the floor that the model of time predicts at large ranks. It does not count what it averages away: waves of
 * blocks that combine C behind those of another product.
 */
export const largeRanks: readonly { rank: number; gpu: GpuName; forward: number; backward: number }[] = [
  { rank: 448, gpu: 'h100', forward: 0.6, backward: 0.54 },
  { rank: 448, gpu: 'a100', forward: 0.69, backward: 0.69 },
  { rank: 896, gpu: 'h100', forward: 0.64, backward: 0.66 },
  { rank: 896, gpu: 'a100', forward: 0.78, backward: 0.73 },
]

/** Shape of the limits for plans on real GPUs, with ranks below. */
export const AT_SCALE = { tokens: 8192, d: 4096, experts: 4 } as const

/** The methods with one pooling group, and those with weights per token. */
export const ONE_GROUP = ['batch', 'uniform', 'fixed', 'lora'] as const
const TOKEN_WEIGHTS = ['token', 'sequence'] as const

/**
 * Lists of calls in bfloat16, an adapter each: most bytes touched. At many tokens relative to a call of one adapter, in decoding
 * relative to x, y, which is added to, and all parameters once. The rows of an adapter are one run, or scattered: then a copy of x
 * is made.
 */
export const adapters = {
  many: { shape: { tokens: 2048, d: 4096, rank: 16, experts: 4 }, count: 8, touched: 1.3 }, // lora 1.04, batch 1.14
  decoding: { shape: { tokens: 32, d: 4096, rank: 16, experts: 4 }, count: 8, touched: 1.1, scattered: 1.3 }, // 1.01, 1.2
  counted: [
    { shape: { tokens: 256, d: 1024, rank: 16, experts: 1 }, count: 8, scattered: false, touched: 1.3 },
    { shape: { tokens: 32, d: 1024, rank: 16, experts: 1 }, count: 8, scattered: true, touched: 1.3 },
  ],
} as const

type Limits = Readonly<Record<GpuName, number>>

/**
 * Bytes that memory delivers and accepts in a planned call, relative to the minimum. The targets are 1.05 forward and 1.15
 * backward; a larger number is what the plan has.
 */
export const atScale: readonly { rank: number; forward: Limits; backward: Limits }[] = [
  {
    rank: 16,
    forward: { t4: 1.05, a100: 1.05, rtx4090: 1.05, h100: 1.05, b200: 1.05, rtx5090: 1.05 },
    backward: { t4: 1.15, a100: 1.15, rtx4090: 1.15, h100: 1.15, b200: 1.15, rtx5090: 1.15 },
  },
  {
    rank: 64,
    forward: { t4: 1.05, a100: 1.05, rtx4090: 1.05, h100: 1.05, b200: 1.18, rtx5090: 1.05 },
    backward: { t4: 1.27, a100: 1.24, rtx4090: 1.16, h100: 1.25, b200: 1.15, rtx5090: 1.16 },
  },
]

/**
 * Bytes of the sectors that blocks request, most of them from L2, relative to the bytes touched. The targets are 2.0 forward;
 * backward 2.2 with one pooling group and 3.0 with weights per token. A larger number is what the plan has. With weights per token and r = 128, 512 rows of B leave little room in
 * shared memory; in backward every tile of tokens reads all of B, and matrix units, not L2, take most of the time
 * (native/cuda/README.md, "Counts", has the bound).
 */
export const requests: readonly {
  methods: readonly PlannedMethod[]
  rank: number
  forward: Limits
  backward: Limits
}[] = [
  {
    methods: ONE_GROUP,
    rank: 16,
    forward: { t4: 2, a100: 2, rtx4090: 2, h100: 2, b200: 2, rtx5090: 2 },
    backward: { t4: 2.2, a100: 2.2, rtx4090: 2.2, h100: 2.2, b200: 2.2, rtx5090: 2.2 },
  },
  {
    methods: ONE_GROUP,
    rank: 32,
    forward: { t4: 2, a100: 2, rtx4090: 2, h100: 2, b200: 2, rtx5090: 2.02 },
    backward: { t4: 2.2, a100: 2.2, rtx4090: 2.21, h100: 2.2, b200: 2.2, rtx5090: 2.2 },
  },
  {
    methods: ONE_GROUP,
    rank: 64,
    forward: { t4: 2, a100: 2.02, rtx4090: 2.01, h100: 2.01, b200: 2, rtx5090: 2.02 },
    backward: { t4: 2.2, a100: 2.2, rtx4090: 2.2, h100: 2.2, b200: 2.2, rtx5090: 2.2 },
  },
  {
    methods: ONE_GROUP,
    rank: 128,
    forward: { t4: 5.43, a100: 2.44, rtx4090: 2.01, h100: 2.01, b200: 2.02, rtx5090: 2.03 },
    backward: { t4: 5.01, a100: 2.2, rtx4090: 4.79, h100: 2.2, b200: 2.2, rtx5090: 4.5 },
  },
  {
    methods: TOKEN_WEIGHTS,
    rank: 16,
    forward: { t4: 2, a100: 2, rtx4090: 2, h100: 2, b200: 2, rtx5090: 2 },
    backward: { t4: 3, a100: 3, rtx4090: 3, h100: 3, b200: 3, rtx5090: 3 },
  },
  {
    methods: TOKEN_WEIGHTS,
    rank: 32,
    forward: { t4: 2, a100: 2, rtx4090: 2, h100: 2, b200: 2, rtx5090: 2.09 },
    backward: { t4: 3, a100: 3, rtx4090: 3, h100: 3, b200: 3, rtx5090: 3 },
  },
  {
    methods: TOKEN_WEIGHTS,
    rank: 64,
    forward: { t4: 2.08, a100: 2, rtx4090: 2.08, h100: 2, b200: 2, rtx5090: 2.37 },
    backward: { t4: 4.66, a100: 3, rtx4090: 4.66, h100: 3, b200: 3, rtx5090: 4.23 },
  },
  {
    methods: TOKEN_WEIGHTS,
    rank: 128,
    forward: { t4: 3.04, a100: 3.76, rtx4090: 2.98, h100: 2.32, b200: 2.6, rtx5090: 4.23 },
    backward: { t4: 9.69, a100: 3.62, rtx4090: 9.69, h100: 4.14, b200: 4.14, rtx5090: 8.63 },
  },
]
