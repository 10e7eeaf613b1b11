/** With many threads several tasks share a sum over tokens: results are right, and have the bits of one thread. */
import { expect, test } from 'vitest'
import type { Spec } from '../support/cases.js'
import { type Job, type Report, runInChild } from '../support/child.js'
import { expectSameBits } from '../support/compare.js'
import { SIXTEEN_BITS } from '../support/dtypes.js'
import { expectMatches } from '../support/instruction-sets.js'

// Long enough for several pieces, and ragged in every direction.
const long = { tokens: 1103, dIn: 72, dOut: 136, rank: 9, experts: 3, scaling: 2 }
const sequences = { ...long, lengths: [1033, 0, 7, 63] }

const specs: [Spec, ...Job['how'][]][] = [
  [{ ...long, dOut: 264, routing: 'batch', masked: 0.3, seed: 1 }, { outputs: 'add' }, { deferB: true }],
  [{ ...long, routing: 'batch', pool: 'logits', activation: 'relu', dOut: 264, rank: 72, seed: 2 }, { outputs: 'add' }],
  [{ ...sequences, routing: 'sequence', masked: 0.3, seed: 3 }, { outputs: 'add' }, { deferB: true }],
  [{ ...sequences, routing: 'sequence', emptyGroup: 'finite', experts: 5, seed: 4 }, { deferB: true }],
  [
    { ...sequences, routing: 'fixed', seed: 5 },
    { outputs: 'add', needs: { dWeights: true } },
  ],
  [{ ...long, routing: 'token', rank: 33, seed: 6 }, { outputs: 'add' }, { deferB: true }],
  [{ ...long, routing: 'uniform', seed: 7 }, { outputs: 'overwrite' }],
  [{ ...long, routing: 'lora', experts: 1, rank: 40, seed: 8 }, { outputs: 'add' }],
  [{ ...long, routing: 'learned', seed: 12 }, { outputs: 'add' }],
]
// Each in float32, and in one of the 16-bit types by turns.
const jobs: Job[] = specs.flatMap(([spec, ...hows], i) =>
  [{}, SIXTEEN_BITS[i % SIXTEEN_BITS.length]].flatMap((types) =>
    hows.map((how) => ({ spec: { ...spec, ...types }, how })),
  ),
)
const none = { dx: false, da: false, dRouter: false, db: false }
const subsets: Job[] = [
  ...(['dx', 'da', 'dRouter', 'db'] as const).map((name) => ({ needs: { ...none, [name]: true } })),
  { needs: { da: false } },
  { needs: { db: false } },
].flatMap((how) => [
  { spec: { ...long, routing: 'batch', masked: 0.3, seed: 9 }, how },
  { spec: { ...sequences, routing: 'sequence', seed: 10, ...SIXTEEN_BITS[0] }, how },
])
// D alone is computed.
const mixtures: Job[] = [9, 72].flatMap((rank) => [
  { spec: { ...sequences, rank, routing: 'fixed', seed: 13 }, how: { needs: { ...none, dWeights: true } } },
  { spec: { ...long, rank, routing: 'learned', seed: 14 }, how: { needs: { ...none, dRouter: true } } },
])
// Too wide for the reference: D of a task in several tiles of columns, and a single piece of tokens.
const wide: Job = {
  spec: { routing: 'token', tokens: 1300, dIn: 1000, dOut: 264, rank: 33, experts: 32, seed: 11 },
  how: { outputs: 'add' },
}
const all = [...jobs, ...mixtures, ...subsets, wide]

const reports = new Map<number, Report>()
async function reportOf(threads: number): Promise<Report> {
  const report = reports.get(threads) ?? (await runInChild(all, { LILY_NUM_THREADS: String(threads) }))
  expect(report.backend.devices[0].threads).toBe(threads)
  expect(report.results.length).toBe(all.length)
  reports.set(threads, report)
  return report
}

test('16 threads match the reference', async () => {
  const { backend, results } = await reportOf(16)
  const compared = [...jobs, ...mixtures].filter(({ how }) => how.deferB !== true)
  const report = { backend, results: results.filter((_, i) => compared.includes(all[i])) }
  expectMatches(compared, report, backend.devices[0].simd ?? '')
})

test.each([3, 16])('%i threads give the bits of one', async (threads) => {
  const one = await reportOf(1)
  const many = await reportOf(threads)
  one.results.forEach(({ values }, i) => {
    expect(Object.keys(many.results[i].values)).toEqual(Object.keys(values))
    for (const [name, expected] of Object.entries(values)) {
      const actual = many.results[i].values[name as keyof typeof values] ?? new Float32Array()
      expectSameBits(`${name} of problem ${i}`, actual, expected)
    }
  })
})
