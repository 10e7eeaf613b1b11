/**
 * Attention with every instruction set and with other numbers of threads, in separate processes.
 *
 * @asan
 */
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import type { AttentionJob, AttentionReport, AttentionSpec } from '../../support/attention.js'
import { expectMatches } from '../../support/attention-reference.js'
import { expectSameBits } from '../../support/compare.js'
import { ask } from '../../support/fork.js'
import { requireSet, SETS } from './sets.js'

const runInChild = (jobs: AttentionJob[], env: Record<string, string>) =>
  ask<AttentionReport>(fileURLToPath(new URL('../../support/attention.ts', import.meta.url)), jobs, env)

const specs: AttentionSpec[] = [
  { batch: 1, tokens: 1, keys: 1, heads: 1, dHead: 1, seed: 1 },
  { batch: 2, tokens: 33, keys: 17, heads: 3, dHead: 5, causal: true, seed: 2 },
  { batch: 2, tokens: 50, keys: 130, heads: 2, dHead: 64, masked: true, seed: 3 },
  { batch: 1, tokens: 200, keys: 300, heads: 1, dHead: 33, causal: true, seed: 4 },
  { batch: 3, tokens: 7, keys: 65, heads: 2, dHead: 130, causal: true, masked: true, seed: 5 },
]
const jobs = specs.map((spec, i): AttentionJob => ({ spec, how: { outputs: i % 2 === 0 ? 'add' : 'overwrite' } }))

test.for([...SETS, 'amx-model'])(
  '%s, with the same bits on 1 and 3 threads',
  { timeout: 120_000 },
  async (isa, context) => {
    const on = (threads: number) => runInChild(jobs, { LILY_CPU_ISA: isa, LILY_NUM_THREADS: String(threads) })
    const { backend, results } = await on(1)
    requireSet(isa, backend, context)
    const other = await on(3)
    expect(results.length).toBe(jobs.length)
    for (const [i, result] of results.entries()) {
      expectMatches(jobs[i], result)
      for (const name of ['y', 'dq', 'dk', 'dv'] as const) {
        expectSameBits(`${name} of job ${i}`, other.results[i][name], result[name])
      }
    }
  },
)
