/** Runs cases with each instruction set in a child process, and compares them with the reference. */
import { expect } from 'vitest'
import { makeCase, type Spec, splitTokens } from './cases.js'
import { checkResult } from './check.js'
import type { Job, Report } from './child.js'
import { SIXTEEN_BITS } from './dtypes.js'

const odd = { tokens: 65, dIn: 113, dOut: 136, rank: 33, experts: 3, scaling: 2 }
const wide = { tokens: 130, dIn: 260, dOut: 516, rank: 16, experts: 4 }
const ragged = { ...odd, lengths: splitTokens(odd.tokens, 5, 1) }

const specs: Spec[] = [
  { ...odd, routing: 'batch', seed: 1 },
  { ...odd, routing: 'batch', pool: 'logits', masked: 0.3, activation: 'relu', seed: 2 },
  { ...ragged, routing: 'sequence', masked: 0.3, seed: 3 },
  { ...odd, routing: 'token', seed: 4 },
  { ...odd, routing: 'uniform', seed: 5 },
  { ...ragged, routing: 'fixed', seed: 6 },
  { ...odd, routing: 'lora', experts: 1, seed: 7 },
  { ...wide, routing: 'batch', seed: 8 },
  { ...wide, routing: 'token', seed: 9 },
  { ...wide, routing: 'lora', experts: 1, seed: 10 },
  { routing: 'batch', tokens: 3, dIn: 5, dOut: 7, rank: 2, experts: 64, seed: 11 },
  { routing: 'batch', tokens: 1, dIn: 1, dOut: 1, rank: 1, experts: 1, seed: 12 },
  // The direct passes; the widest tile of their columns has 1024.
  { ...odd, routing: 'batch', tokens: 1, dIn: 1100, dOut: 4100, seed: 14 },
  { ...odd, routing: 'batch', tokens: 2, pool: 'logits', activation: 'relu', seed: 15 },
  { ...odd, routing: 'batch', tokens: 2, masked: 0.5, seed: 16 },
  { ...wide, routing: 'batch', tokens: 2, seed: 17 },
]
// Each in float32, and in one of the 16-bit types by turns.
export const jobs: Job[] = specs.flatMap((sizes, i) =>
  [{}, SIXTEEN_BITS[i % SIXTEEN_BITS.length], SIXTEEN_BITS[(i + 3) % SIXTEEN_BITS.length]].flatMap((types): Job[] => {
    const spec = { ...sizes, ...types }
    const deferred: Job = { spec, how: { deferB: true } }
    return [{ spec, how: { outputs: 'add' } }, ...(spec.routing === 'lora' || 'activations' in spec ? [] : [deferred])]
  }),
)

/** On one thread, shrink packs all splits of A but one, and then the last one: AddressSanitizer sees its scratch. */
export const unevenJobs: Job[] = ['bfloat16', 'float16'].map((activations) => ({
  spec: { routing: 'batch', tokens: 100, dIn: 1024, dOut: 64, rank: 144, experts: 2, seed: 13, activations } as Spec,
  how: { outputs: 'add' },
}))

/** A selection of the jobs with every routing, for slow processors. */
export const fewJobs = jobs.filter((_, i) => i % 4 === 0)

export function expectMatches(jobs: readonly Job[], { backend, results }: Report, simd: string): void {
  expect(backend.devices[0]?.simd).toBe(simd)
  expect(results.length).toBe(jobs.length)
  results.forEach((result, i) => {
    expect(result.damaged, 'operands written to where they must not be').toEqual([])
    const c = makeCase(jobs[i].spec)
    checkResult(c, result, { ...jobs[i].how, plain: c.tokens * c.rank > 1000 })
  })
}
