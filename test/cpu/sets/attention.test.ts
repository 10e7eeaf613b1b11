/**
 * Attention with every instruction set and with other numbers of threads, in separate processes.
 *
 * @asan
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { packageRoot } from '../../../lib/binding/root.js'
import type { AttentionJob, AttentionReport, AttentionSpec } from '../../support/attention.js'
import { expectMatches } from '../../support/attention-reference.js'
import { expectSameBits } from '../../support/compare.js'
import { ask } from '../../support/fork.js'

const runInChild = (jobs: AttentionJob[], env: Record<string, string>) =>
  ask<AttentionReport>(fileURLToPath(new URL('../../support/attention.ts', import.meta.url)), jobs, env)

const NAMES = [
  'portable',
  ...(process.arch === 'arm64' ? ['neon'] : ['avx2', 'avx512', 'avx512bf16', 'amx']),
  'amx-model',
  'wasm',
]
const specs: AttentionSpec[] = [
  { batch: 1, tokens: 1, keys: 1, heads: 1, dHead: 1, seed: 1 },
  { batch: 2, tokens: 33, keys: 17, heads: 3, dHead: 5, causal: true, seed: 2 },
  { batch: 2, tokens: 50, keys: 130, heads: 2, dHead: 64, masked: true, seed: 3 },
  { batch: 1, tokens: 200, keys: 300, heads: 1, dHead: 33, causal: true, seed: 4 },
  { batch: 3, tokens: 7, keys: 65, heads: 2, dHead: 130, causal: true, masked: true, seed: 5 },
]
const jobs = specs.map((spec, i): AttentionJob => ({ spec, how: { outputs: i % 2 === 0 ? 'add' : 'overwrite' } }))

test.for(NAMES)('%s, with the same bits on 1 and 3 threads', { timeout: 120_000 }, async (isa, context) => {
  if (isa === 'wasm' && !existsSync(join(packageRoot, 'build/wasm/wasm.wasm'))) {
    return context.skip('WebAssembly is not built; npm run build:wasm says why')
  }

  const on = (threads: number) => runInChild(jobs, { LILY_CPU_ISA: isa, LILY_NUM_THREADS: String(threads) })
  const [{ backend, results }, other] = [await on(1), await on(3)]
  if (!backend.available) {
    expect(isa, 'the portable kernels run everywhere').not.toBe('portable')
    return context.skip(backend.reason)
  }
  expect(results.length).toBe(jobs.length)
  for (const [i, result] of results.entries()) {
    expectMatches(jobs[i], result)
    for (const name of ['y', 'dq', 'dk', 'dv'] as const) {
      expectSameBits(`${name} of job ${i}`, other.results[i][name], result[name])
    }
  }
})
