/** Runs cases with each instruction set in a child process, and compares them with the reference. */
import { expect } from 'vitest'
import { type Case, makeCase, type Spec, splitTokens } from './cases.js'
import { checkResult } from './check.js'
import type { Job, Report } from './child.js'
import { expectSameBits } from './compare.js'
import { SIXTEEN_BITS } from './dtypes.js'
import type { How, Result, Values } from './run.js'

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
  // Few tokens: forward packs nothing.
  { ...wide, routing: 'batch', tokens: 5, seed: 18 },
  { ...odd, routing: 'sequence', tokens: 8, lengths: [3, 0, 5], masked: 0.3, seed: 19 },
  { ...odd, routing: 'lora', experts: 1, tokens: 3, rank: 7, seed: 20 },
  { ...odd, routing: 'learned', experts: 19, seed: 21 },
]
/** Every output is given; of fixed routing also that of the gradient of the weights, which is optional. */
const allOutputs = ({ routing }: Spec): How => ({
  outputs: 'add',
  ...(routing === 'fixed' ? { needs: { dWeights: true } } : {}),
})
// Each in float32, and in one of the 16-bit types by turns.
export const jobs: Job[] = specs.flatMap((sizes, i) =>
  [{}, SIXTEEN_BITS[i % SIXTEEN_BITS.length], SIXTEEN_BITS[(i + 3) % SIXTEEN_BITS.length]].flatMap((types): Job[] => {
    const spec = { ...sizes, ...types }
    const deferred: Job = { spec, how: { deferB: true } }
    return [{ spec, how: allOutputs(spec) }, ...(spec.routing === 'lora' || 'activations' in spec ? [] : [deferred])]
  }),
)

/** Ranks above 64, which have other passes: ragged blocks, chunks and pieces in every direction, few tokens and many. */
const largeRanks: Spec[] = [
  {
    routing: 'batch',
    tokens: 131,
    dIn: 290,
    dOut: 345,
    rank: 65,
    experts: 3,
    masked: 0.3,
    activation: 'relu',
    seed: 14,
  },
  {
    routing: 'sequence',
    tokens: 90,
    dIn: 130,
    dOut: 1030,
    rank: 97,
    experts: 2,
    lengths: splitTokens(90, 4, 1),
    scaling: 2,
    seed: 15,
  },
  { routing: 'lora', tokens: 70, dIn: 545, dOut: 531, rank: 130, experts: 1, scaling: 2, seed: 16 },
  { routing: 'uniform', tokens: 7, dIn: 300, dOut: 277, rank: 200, experts: 2, seed: 17 },
  { routing: 'batch', tokens: 1, dIn: 530, dOut: 100, rank: 140, experts: 3, seed: 18 },
  { routing: 'token', tokens: 33, dIn: 96, dOut: 260, rank: 72, experts: 2, seed: 19 },
  { routing: 'batch', tokens: 1030, dIn: 40, dOut: 72, rank: 71, experts: 2, seed: 20 },
  // Splits of 512 columns, in tiles of 384: the parts of dw of a split are added.
  { routing: 'sequence', tokens: 20, dIn: 16, dOut: 1024, rank: 66, experts: 2, lengths: [7, 13], seed: 25 },
  { routing: 'fixed', tokens: 20, dIn: 16, dOut: 1024, rank: 66, experts: 2, lengths: [7, 0, 13], seed: 26 },
  { routing: 'learned', tokens: 20, dIn: 16, dOut: 520, rank: 70, experts: 3, seed: 27 },
]
/** Every problem in float32, and in one of the 16-bit types by turns. */
const inTwoTypes = (specs: readonly Spec[]): Job[] =>
  specs.flatMap((sizes, i) =>
    [{}, SIXTEEN_BITS[i % SIXTEEN_BITS.length]].map((types): Job => ({
      spec: { ...sizes, ...types },
      how: allOutputs(sizes),
    })),
  )

// Deferred gradients with a sum for each expert, and for each of two sequences.
export const largeRankJobs: Job[] = [
  ...inTwoTypes(largeRanks),
  ...[largeRanks[1], largeRanks[7]].map((spec): Job => ({ spec, how: { deferB: true } })),
]

/** Ranks that the register tile cuts into tiles, and columns that it cuts into two splits. */
const cut = { tokens: 13, dIn: 270, dOut: 300, rank: 520, experts: 2 }
const cutRanks: Spec[] = [
  { ...cut, routing: 'batch', masked: 0.3, seed: 21 },
  { ...cut, routing: 'sequence', lengths: splitTokens(cut.tokens, 3, 1), seed: 22 },
  { ...cut, routing: 'lora', experts: 1, seed: 23 },
  { ...cut, routing: 'token', rank: 130, experts: 4, seed: 24 },
]
export const cutRankJobs: Job[] = [...inTwoTypes(cutRanks), { spec: cutRanks[0], how: { deferB: true } }]

/** On one thread, shrink of a copied x packs all splits of A but one, then the last: AddressSanitizer sees its scratch. */
export const unevenJobs: Job[] = ['bfloat16', 'float16'].map((activations) => ({
  spec: { routing: 'batch', tokens: 260, dIn: 1024, dOut: 64, rank: 144, experts: 2, seed: 13, activations } as Spec,
  how: { outputs: 'add' },
}))

export function expectSameResults(actual: readonly Result[], expected: readonly Result[], title: string): void {
  expect(actual.length).toBe(expected.length)
  expected.forEach(({ values }, i) => {
    for (const [name, value] of Object.entries(values)) {
      expectSameBits(
        `${name} of job ${i} ${title}`,
        actual[i].values[name as keyof Values] ?? new Float32Array(),
        value,
      )
    }
  })
}

/** A selection of the jobs with every routing, for slow processors. */
export const fewJobs = jobs.filter((_, i) => i % 4 === 0)

/** The same case for all instruction sets, so that the reference computes it once. */
const cases = new Map<Spec, Case>()

function caseOf(spec: Spec): Case {
  const c = cases.get(spec) ?? makeCase(spec)
  cases.set(spec, c)
  return c
}

export function expectMatches(jobs: readonly Job[], { backend, results }: Report, simd: string): void {
  expect(backend.devices[0]?.simd).toBe(simd)
  expect(results.length).toBe(jobs.length)
  results.forEach((result, i) => {
    expect(result.damaged, 'operands written to where they must not be').toEqual([])
    const c = caseOf(jobs[i].spec)
    checkResult(c, result, { ...jobs[i].how, plain: c.tokens * c.rank > 1000 })
  })
}
