/**
 * Dropout with every instruction set and with other numbers of threads, in separate processes.
 *
 * @long @asan
 */
import { expect, test } from 'vitest'
import { isSanitized } from '../../support/backend.js'
import { makeCase, type Spec } from '../../support/cases.js'
import { type Job, runInChild } from '../../support/child.js'
import { SIXTEEN_BITS } from '../../support/dtypes.js'
import { emptyGroupJobs, expectNoGradientOfEmptyGroups } from '../../support/empty-groups.js'
import { expectMatches, expectSameResults } from '../../support/instruction-sets.js'
import { maskOf } from '../../support/philox.js'
import type { Result } from '../../support/run.js'
import { isLong } from '../../support/runs.js'
import { ENDS, requireSet, SETS, WIDEST } from './sets.js'

const odd = { tokens: 65, dIn: 113, dOut: 70, rank: 33, experts: 3, scaling: 2 }
const specs: Spec[] = [
  { ...odd, routing: 'batch', masked: 0.3, dropout: 0.1, seed: 1 },
  { ...odd, routing: 'sequence', lengths: [20, 0, 45], pool: 'logits', activation: 'relu', dropout: 0.5, seed: 2 },
  { ...odd, routing: 'token', rank: 9, dropout: 0.1, seed: 3 },
  // Without dropout there are passes of their own for so few tokens.
  { ...odd, routing: 'batch', tokens: 2, dIn: 1100, dropout: 0.2, seed: 4 },
  { ...odd, routing: 'uniform', tokens: 5, dIn: 5, rank: 3, dropout: 0.9, seed: 5 },
  // Splits of d_in, and steps and pieces of the tokens.
  { routing: 'lora', tokens: 200, dIn: 1048, dOut: 24, rank: 16, experts: 1, dropout: 0.1, seed: 6 },
  { routing: 'lora', tokens: 1103, dIn: 72, dOut: 16, rank: 9, experts: 1, dropout: 0.1, seed: 7 },
  // In blocks; the last of them has pieces, too.
  { ...odd, routing: 'batch', tokens: 131, dIn: 290, rank: 65, masked: 0.3, dropout: 0.3, seed: 8 },
  { ...odd, routing: 'lora', tokens: 70, dIn: 545, rank: 130, experts: 1, dropout: 0.1, seed: 9 },
  { ...odd, routing: 'lora', tokens: 1030, dIn: 40, rank: 71, experts: 1, dropout: 0.1, seed: 10 },
  // So few tokens that engines with exchanged operands pack x^T.
  { ...odd, routing: 'uniform', tokens: 7, dIn: 600, rank: 200, dropout: 0.4, seed: 11 },
  { ...odd, routing: 'batch', tokens: 1, dIn: 530, rank: 140, dropout: 0.1, seed: 12 },
]
/** Each in float32, and in one of the 16-bit types by turns; x is NaN where it is dropped. */
const jobs = specs.flatMap((spec, i) =>
  [{}, SIXTEEN_BITS[i % SIXTEEN_BITS.length]].map((types, odd): Job => {
    const outputs = (['new', 'add', 'overwrite'] as const)[(i + odd) % 3]
    return { spec: { ...spec, ...types, dropped: 'nan' }, how: { outputs } }
  }),
)

/** dx of a dropped element is its old number, or 0; that of any other is not, but by an unlikely chance. */
function expectMaskOfDx({ spec, how }: Job, { values, old }: Result): void {
  const { tokens, dIn, dropout } = makeCase(spec)
  const before = how.outputs === 'add' ? old.dx : undefined
  const unchanged = Array.from(values.dx ?? [], (value, i) => Number(value === (before?.[i] ?? 0)))
  const mask = dropout && maskOf(tokens, dIn, dropout)
  const changed = unchanged.filter((same, i) => same === 0 && mask?.[i] === 0)
  expect(changed, `dropped elements of dx of ${JSON.stringify(spec)}`).toEqual([])
  // ReLU and small numbers of 16 bits leave some more.
  const isExact = spec.activations === undefined && spec.activation !== 'relu'
  if (isExact) expect(unchanged.map((same) => 1 - same)).toEqual(Array.from(mask ?? []))
}

for (const isa of [...SETS, ...(isSanitized || isLong ? ['amx-model'] : [])])
  test(`${isa} matches the reference, with the same bits on 1 and 3 threads`, { timeout: 120_000 }, async (context) => {
    const on = (threads: number) =>
      runInChild(jobs, { LILY_CPU_ISA: isa, LILY_NUM_THREADS: String(threads), LILY_CPU_BLOCKS: '1' })
    const report = await on(3)
    requireSet(isa, report.backend, context)
    expectMatches(jobs, report, isa)
    jobs.forEach((job, i) => {
      expectMaskOfDx(job, report.results[i])
    })
    if (!isSanitized) expectSameResults((await on(1)).results, report.results, 'on one thread')
  })

test('large ranks on the register tile match the reference', async () => {
  const large = jobs.filter(({ spec }) => spec.rank > 64)
  expectMatches(large, await runInChild(large, { LILY_CPU_ISA: '', LILY_CPU_BLOCKS: '0' }), WIDEST)
})

test.each(ENDS)('%s: no gradient of a group without a kept token', async (isa) => {
  const some = emptyGroupJobs.map(({ spec, how }) => ({ spec: { ...spec, dropout: 0.1 }, how }))
  expectNoGradientOfEmptyGroups(some, (await runInChild(some, { LILY_CPU_ISA: isa, LILY_CPU_BLOCKS: '1' })).results)
})
