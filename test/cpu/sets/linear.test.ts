/**
 * Frozen linear layers with every instruction set and with other numbers of threads, in separate processes.
 *
 * @long @asan
 */
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { isSanitized } from '../../support/backend.js'
import { expectSameBits } from '../../support/compare.js'
import { LEAST_TERMS_RANK, type Types } from '../../support/dtypes.js'
import { ask } from '../../support/fork.js'
import { expectMatches, jobsOf } from '../../support/linear-check.js'
import type { LinearJob, LinearReport, LinearSpec } from '../../support/linear.js'

const runInChild = (jobs: LinearJob[], env: Record<string, string>) =>
  ask<LinearReport>(fileURLToPath(new URL('../../support/linear.ts', import.meta.url)), jobs, env)

describe('instruction sets', () => {
  const NAMES = [
    'portable',
    ...(process.arch === 'arm64' ? ['neon'] : ['avx2', 'avx512', 'avx512bf16', 'amx']),
    'amx-model',
  ]
  // Every size with half of the types: the reference takes its time.
  const types: Types[] = [
    {},
    { precision: 'tf32' },
    { activations: 'bfloat16' },
    { activations: 'float16' },
    { activations: 'bfloat16', parameters: 'float32' },
    { activations: 'float16', parameters: 'float32', precision: 'high' },
  ]
  // The same for all instruction sets, so that the reference computes them once.
  // Few tokens take another path without a packed weight, which must not change their bits.
  const few = types.map((type, i): LinearJob => ({
    spec: { tokens: 1 + i, dIn: 530, dOut: 85, bias: true, ...type, seed: i },
    how: {},
  }))
  const packed = few.map(({ spec }): LinearJob => ({ spec, how: { packed: true } }))
  // Weights of 16 bits under float32, and after each the same in float32.
  const pairs = [1, 4, 8, 9, 40].flatMap((tokens, i) =>
    (['bfloat16', 'float16'] as const).flatMap((parameters): LinearJob[] => {
      const precision = i % 2 === 0 ? 'default' : 'tf32'
      const spec: LinearSpec = { tokens, dIn: 530, dOut: 133, bias: true, parameters, precision, seed: i }
      return [false, true].map((widened) => ({ spec, how: { widened, packed: i > 1 } }))
    }),
  )
  const jobs = [...few, ...packed, ...pairs, ...jobsOf(types).filter((_, i) => i % 2 === 0)]
  const byDefault = jobs.map(({ spec, how }): LinearJob => ({ spec: { ...spec, precision: 'default' }, how }))
  for (const isa of NAMES)
    test(`${isa}, with the same bits on 1 to 3 threads`, { timeout: 300_000 }, async (context) => {
      // Precision tf32 rounds on AMX only.
      const rounds = ({ dIn, dOut }: LinearSpec) =>
        isa === 'amx-model' || (isa === 'amx' && Math.min(dIn, dOut) >= LEAST_TERMS_RANK)
      const compared = jobs.map((job, i) => (rounds(job.spec) || job.spec.precision === 'high' ? job : byDefault[i]))
      const on = (threads: number) => runInChild(jobs, { LILY_CPU_ISA: isa, LILY_NUM_THREADS: String(threads) })
      const { backend, results } = await on(1)
      if (!backend.available) {
        expect(isa, 'the portable kernels run everywhere').not.toBe('portable')
        return context.skip(backend.reason)
      }
      expect(results.length).toBe(jobs.length)
      results.forEach((result, i) => {
        expectMatches(compared[i], result)
      })
      few.forEach((_, i) => {
        expectSameBits(`y of job ${i} with a packed weight`, results[few.length + i].y, results[i].y)
        expectSameBits(`dx of job ${i} with a packed weight`, results[few.length + i].dx, results[i].dx)
      })
      pairs.forEach(({ how }, i) => {
        const [actual, expected] = [0, 1].map((j) => results[2 * few.length + i + j])
        if (how.widened === true) return
        expectSameBits(`y of pair ${i} of a weight in float32`, actual.y, expected.y)
        expectSameBits(`dx of pair ${i} of a weight in float32`, actual.dx, expected.dx)
      })
      for (const threads of isSanitized ? [3] : [2, 3]) {
        const others = await on(threads)
        others.results.forEach((other, i) => {
          expectSameBits(`y of job ${i} on ${threads} threads`, other.y, results[i].y)
          expectSameBits(`dx of job ${i} on ${threads} threads`, other.dx, results[i].dx)
        })
      }
    })
})
