/**
 * A few small problems that together reach every kernel of the CUDA backend: with ragged ends in every direction, masks,
 * several blocks and splits. The mutation tests (test/mutations) run them.
 *
 * The plans depend on the device, so the problems run with those of two (LILY_CUDA_MULTIPROCESSORS, LILY_CUDA_L2), on a GPU and
 * on the emulator. With many multiprocessors the tokens are split over blocks, and gradients have partial sums. With one, and
 * a small L2, a separate kernel reads dy once.
 */
import { type Spec, splitTokens } from './cases.js'
import type { Job } from './child.js'
import { expectSameBits } from './compare.js'
import type { LinearJob, LinearSpec } from './linear.js'
import type { Result } from './run.js'

export const DEVICES = [
  { LILY_CUDA_MULTIPROCESSORS: '64', LILY_CUDA_L2: String(4 * 1024 * 1024) },
  { LILY_CUDA_MULTIPROCESSORS: '1', LILY_CUDA_L2: String(16 * 1024) },
] as const

const small = { tokens: 150, dIn: 33, dOut: 136, experts: 3, scaling: 2 }
const ragged = { ...small, rank: 9, lengths: splitTokens(small.tokens, 4, 1) }
// Several strips of columns and several splits, also in the separate kernel for dy, which supports ranks up to 4 here.
const wide = { ...small, tokens: 260, dIn: 136, dOut: 530 }
// From so many columns on sm_100 uses that kernel with a router, too.
const wider = { ...wide, dOut: 1040 }

const specs: Spec[] = [
  { ...small, routing: 'batch', rank: 7, masked: 0.3, activation: 'relu', seed: 1 },
  { ...wider, routing: 'batch', rank: 4, pool: 'logits', masked: 0.3, seed: 2 },
  { ...wide, routing: 'batch', rank: 33, masked: 0.3, seed: 3 },
  // A large rank: the router uses a separate kernel. One split of tokens: gradients are written without partials.
  { ...small, routing: 'batch', rank: 140, tokens: 60, masked: 0.3, seed: 4 },
  { ...small, routing: 'uniform', rank: 24, seed: 5 },
  { ...ragged, routing: 'sequence', masked: 0.3, seed: 6 },
  { ...ragged, routing: 'sequence', pool: 'logits', masked: 0.3, seed: 7 },
  { ...ragged, routing: 'fixed', seed: 8 },
  { ...wider, routing: 'batch', rank: 3, masked: 0.3, activation: 'relu', seed: 9 },
  // B does not fit into shared memory and is streamed.
  { ...small, routing: 'token', tokens: 70, dIn: 9, rank: 50, experts: 60, seed: 10 },
  // So many tokens that a block of dh has several tiles of 32 tokens, between two of which a sequence begins; a sequence has
  // several rounds of all slices.
  {
    ...ragged,
    routing: 'sequence',
    tokens: 4170,
    lengths: [70, 1, 61 * 32 - 71, 0, 2218],
    dIn: 9,
    dOut: 9,
    masked: 0.3,
    seed: 19,
  },
  { ...small, routing: 'lora', experts: 1, rank: 20, seed: 11 },
  { ...wide, routing: 'lora', experts: 1, rank: 4, seed: 12 },
  { ...small, routing: 'token', rank: 8, seed: 13 },
  // Few tokens: two splits of d, which the kernel of few tokens adds.
  { ...ragged, routing: 'sequence', tokens: 40, lengths: [3, 0, 37], dIn: 530, masked: 0.3, seed: 15 },
  { ...small, routing: 'batch', tokens: 9, dIn: 530, rank: 20, masked: 0.3, activation: 'relu', seed: 16 },
  // A large rank, and so many tokens that C is written and gradients are split.
  { ...small, routing: 'batch', tokens: 600, rank: 132, masked: 0.3, activation: 'relu', seed: 17 },
  { ...ragged, routing: 'sequence', rank: 132, masked: 0.3, seed: 18 },
  // Few tokens with so many experts that B passes through a ring of stages, and two tiles of LoRA's b.
  { ...ragged, routing: 'fixed', tokens: 9, lengths: [4, 5], dOut: 40, rank: 60, experts: 62, seed: 20 },
  { ...small, routing: 'batch', tokens: 9, dOut: 40, rank: 60, experts: 62, seed: 21 },
  { ...small, routing: 'lora', experts: 1, tokens: 9, rank: 70, seed: 22 },
  { ...small, routing: 'lora', experts: 1, tokens: 9, rank: 70, seed: 23 },
  // So many columns that one launch reads dy twice, for q and for D, and the next forms dh.
  { ...small, routing: 'batch', tokens: 60, dOut: 4096, rank: 33, masked: 0.3, seed: 25 },
  // So many tokens that dB has partial sums, which are written to every expert.
  { ...small, routing: 'batch', tokens: 1200, rank: 20, masked: 0.3, seed: 24 },
  // With many multiprocessors and the tiles of the mutation tests a tile of tokens for q is longer than their split for D.
  { ...small, routing: 'token', tokens: 520, dIn: 9, dOut: 9, rank: 50, experts: 2, seed: 31 },
  // Offsets in device memory that do not ascend, and tokens before the first sequence and after the last.
  { ...small, routing: 'sequence', rank: 9, offsets: [9, 70, 31, 150 - 40], seed: 32 },
  { ...small, routing: 'fixed', rank: 9, offsets: [-5, 70, 31, 40, 120], seed: 33 },
  { ...small, routing: 'sequence', tokens: 40, rank: 9, offsets: [3, 20, 5, 35], seed: 34 },
  { ...small, routing: 'sequence', tokens: 60, rank: 132, offsets: [3, 20, 5, 52], seed: 35 },
  // Too many tokens for the kernel of few: with many multiprocessors blocks split d, and a separate kernel computes h.
  { ...small, routing: 'batch', tokens: 70, dIn: 1060, rank: 20, masked: 0.3, activation: 'relu', seed: 36 },
  { ...small, routing: 'token', tokens: 70, dIn: 1600, rank: 36, seed: 37 },
  { ...small, routing: 'uniform', tokens: 70, dIn: 4100, rank: 24, seed: 38 },
  // Without tokens the weights alone are written.
  { ...small, routing: 'batch', tokens: 0, rank: 9, seed: 39 },
  // dw of given weights and dz: of small, few and large, of a separate kernel for dy, and without tokens.
  { ...small, routing: 'fixed', rank: 24, seed: 40 },
  { ...small, routing: 'learned', rank: 24, seed: 41 },
  { ...wider, routing: 'learned', rank: 4, seed: 42 },
  { ...small, routing: 'learned', tokens: 9, rank: 20, seed: 43 },
  { ...small, routing: 'learned', tokens: 60, rank: 140, seed: 44 },
  { ...small, routing: 'learned', tokens: 0, rank: 9, seed: 45 },
]

/** In bfloat16, with parameters in bfloat16 or float32; every second problem defers dB. */
const complete = specs.map((spec, i): Job => ({
  spec: { ...spec, activations: 'bfloat16', ...(i % 3 === 0 && { parameters: 'float32' }) },
  how: {
    outputs: 'add',
    ...(spec.routing === 'fixed' && { needs: { dWeights: true } }),
    deferB: spec.routing !== 'lora' && i % 2 === 0,
    hasDeviceOffsets: spec.offsets !== undefined,
  },
}))

/** Problems again, without some of their gradients: the plan must not be that of the call with all of them. */
const partial = [
  { dx: false, da: false },
  { da: false, dRouter: false, db: false },
].map((needs): Job => ({ spec: complete[0].spec, how: { outputs: 'add', needs } }))

/** Of given weights, of sequences or of one group, and of a learned mixture nothing but their gradient. */
const weightsAlone = complete
  .filter(({ spec: { seed } }) => [8, 40, 41].includes(seed))
  .map(({ spec, how }): Job => {
    const needs = { dx: false, da: false, db: false, dWeights: spec.routing === 'fixed' }
    return { spec, how: { ...how, deferB: false, needs } }
  })

/** Ragged rows with padding between them: all begin at multiples of 16 bytes, and their last vectors are not whole. */
const uneven = { ...small, tokens: 60, dOut: 141, activations: 'bfloat16' } as const
const padded = (
  [
    { ...uneven, routing: 'batch', rank: 7, masked: 0.3, seed: 26 },
    { ...uneven, routing: 'batch', rank: 140, seed: 27 },
    { ...uneven, routing: 'token', tokens: 70, rank: 8, seed: 28 },
    { ...uneven, routing: 'lora', experts: 1, rank: 20, seed: 29 },
    { ...uneven, routing: 'batch', tokens: 9, rank: 20, seed: 30 },
  ] satisfies Spec[]
).map((spec, i): Job => ({
  spec: { ...spec, ...(i % 2 === 0 && { parameters: 'float32' }) },
  how: { outputs: 'add', pitchMultiple: 8 },
}))

export const kernelJobs = [...complete, ...partial, ...weightsAlone, ...padded]

/**
 * h has 16 bits, and the tiles 32. Not among the problems above: the mutation tests have no other engine. With sequences all of
 * the kernels without a tile run, too.
 */
export const highJobs = (['token', 'sequence'] as const).map((routing, i): Job => ({
  spec: { ...(i === 0 ? small : ragged), routing, rank: 20, activations: 'bfloat16', precision: 'high', seed: 36 + i },
  how: { outputs: 'add', deferB: i === 1, hasDeviceOffsets: i === 1 },
}))

const dropped = { ...small, tokens: 70, dOut: 40, rank: 20, dropout: 0.4, activations: 'bfloat16' } as const

/** With dropout, for each place where x is read or dx is written. */
export const dropoutJobs: Job[] = [
  // Few tokens, which have no kernel of their own then.
  { spec: { ...dropped, routing: 'batch', tokens: 5, dIn: 2056, seed: 1 }, how: { outputs: 'add' } },
  // Splits of d.
  {
    spec: { ...dropped, routing: 'batch', dIn: 1064, activation: 'relu', masked: 0.3, seed: 2 },
    how: { outputs: 'overwrite' },
  },
  // Copies of rows that are not aligned, and last vectors that are not whole.
  {
    spec: { ...dropped, routing: 'sequence', dIn: 141, lengths: [30, 40], masked: 0.3, seed: 3 },
    how: { outputs: 'add' },
  },
  { spec: { ...dropped, routing: 'token', dIn: 141, seed: 4 }, how: { outputs: 'overwrite', pitchMultiple: 8 } },
  {
    spec: { ...dropped, routing: 'lora', experts: 1, dIn: 136, rank: 60, parameters: 'float32', seed: 5 },
    how: { outputs: 'add' },
  },
  // Large ranks. With weights per token, backward has the kernels of small ones.
  { spec: { ...dropped, routing: 'batch', dIn: 141, rank: 132, activation: 'relu', seed: 6 }, how: { outputs: 'add' } },
  { spec: { ...dropped, routing: 'uniform', tokens: 300, dIn: 264, rank: 132, seed: 7 }, how: { outputs: 'add' } },
  { spec: { ...dropped, routing: 'token', dIn: 136, rank: 132, seed: 8 }, how: { outputs: 'add' } },
  // One group of several blocks. With one multiprocessor backward_hidden completes dh of the first, after backward_dy_once.
  {
    spec: { ...wider, routing: 'batch', rank: 4, masked: 0.3, dropout: 0.4, activations: 'bfloat16', seed: 9 },
    how: { outputs: 'add' },
  },
  {
    spec: { ...wide, routing: 'batch', rank: 33, dropout: 0.4, activations: 'bfloat16', seed: 10 },
    how: { outputs: 'add' },
  },
]

/**
 * That no row depends on the plan, which each device has another of: sums along a row are split at fixed places. With one
 * pooling group w is a sum over blocks of tokens, and with it y and dx.
 */
export function expectSameRows(
  first: readonly Result[],
  second: readonly Result[],
  jobs: readonly Job[] = kernelJobs,
): void {
  jobs.forEach(({ spec, how: { needs } }, i) => {
    for (const name of spec.routing === 'batch' ? (['hidden'] as const) : (['y', 'hidden', 'dx'] as const)) {
      if (name === 'dx' && needs?.dx === false) continue
      const [one, other] = [first[i].values[name], second[i].values[name]]
      expectSameBits(`${name} of ${JSON.stringify(spec)}`, one as Float32Array, other as Float32Array)
    }
  })
}

/** With so many multiprocessors the last block of a product of large ranks, or of a frozen layer, has fewer tiles than others. */
export const TWO_MULTIPROCESSORS = { ...DEVICES[0], LILY_CUDA_MULTIPROCESSORS: '2' } as const

/** A block computes several tiles of y and of dx in turn: with one multiprocessor all, with two 3 of 5. */
export const severalTilesJob: Job = {
  spec: {
    routing: 'lora',
    tokens: 520,
    dIn: 136,
    dOut: 136,
    rank: 200,
    experts: 1,
    scaling: 2,
    activations: 'bfloat16',
    seed: 21,
  },
  how: { outputs: 'add' },
}

const linearSpecs: LinearSpec[] = [
  { tokens: 150, dIn: 33, dOut: 136, bias: true, seed: 1 },
  // With one multiprocessor a block has several tiles; of dx, with two, the last block fewer.
  { tokens: 260, dIn: 136, dOut: 530, bias: true, seed: 2 },
  // The sum of the same tile has fewer steps than its ring has stages.
  { tokens: 500, dIn: 9, dOut: 500, seed: 3 },
]

/** Frozen linear layers likewise: their kernel is one of its own. */
export const linearJobs = linearSpecs.map((spec, i): LinearJob => ({
  spec: { ...spec, activations: 'bfloat16', ...(i % 2 === 0 && { parameters: 'float32' }) },
  how: { outputs: 'add' },
}))

/** With one multiprocessor they reach every tile of that kernel, on an architecture with wgmma and on one without. */
export const linearTileSpecs: LinearSpec[] = [
  { tokens: 9, dIn: 40, dOut: 40, seed: 4 },
  { tokens: 20, dIn: 136, dOut: 70, seed: 5 },
  { tokens: 70, dIn: 136, dOut: 136, bias: true, seed: 6 },
]
