/**
 * A few small problems that reach every kernel of the CUDA backend, most of them by a way of their own: with ragged ends
 * in every direction, masks, several blocks and splits. What mutates the kernels (test/mutations) runs these.
 *
 * How backward reads dy depends on the second-level cache, so they are run with several sizes of it (LILY_EMULATOR_L2):
 * with the usual one dy fits; in 16 KiB dy goes through a kernel of its own up to r = 32, and in splits beyond.
 */
import { splitTokens, type Spec } from './cases.js'
import type { Job } from './child.js'

export const CACHES = ['4M', '16K']

const small = { tokens: 150, dIn: 33, dOut: 136, experts: 3, scaling: 2 }
const ragged = { ...small, rank: 9, lengths: splitTokens(small.tokens, 4, 1) }

const specs: Spec[] = [
  { ...small, routing: 'batch', rank: 7, masked: 0.3, activation: 'relu', seed: 1 },
  // Several blocks of columns for dy's own kernel, several splits.
  { ...small, routing: 'batch', rank: 16, tokens: 260, dOut: 530, pool: 'logits', masked: 0.3, seed: 2 },
  { ...small, routing: 'batch', rank: 33, tokens: 260, masked: 0.3, seed: 3 },
  // More than a tile: the router has a kernel of its own.
  { ...small, routing: 'batch', rank: 140, tokens: 70, masked: 0.3, seed: 4 },
  { ...small, routing: 'uniform', rank: 24, seed: 5 },
  { ...ragged, routing: 'sequence', masked: 0.3, seed: 6 },
  { ...ragged, routing: 'sequence', pool: 'logits', masked: 0.3, seed: 7 },
  { ...ragged, routing: 'fixed', seed: 8 },
  { ...small, routing: 'token', rank: 8, seed: 9 },
  // So many tokens that one launch does all of forward.
  { ...small, routing: 'token', tokens: 4040, dIn: 9, dOut: 70, rank: 5, seed: 10 },
  { ...small, routing: 'lora', experts: 1, rank: 20, seed: 11 },
]

/** In bfloat16, alone or with parameters in float32; every second one with its dB deferred. */
export const kernelJobs = specs.map((spec, i): Job => ({
  spec: { ...spec, activations: 'bfloat16', ...(i % 3 === 0 && { parameters: 'float32' }) },
  how: spec.routing !== 'lora' && i % 2 === 0 ? { outputs: 'add', deferB: true } : { outputs: 'add' },
}))
