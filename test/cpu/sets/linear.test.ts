/**
 * Frozen linear layers with every instruction set and with other numbers of threads, in separate processes.
 *
 * @long @asan
 */
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { isSanitized } from '../../support/backend.js'
import { expectSameBits } from '../../support/compare.js'
import { LEAST_TERMS_RANK, type Types } from '../../support/dtypes.js'
import { ask } from '../../support/fork.js'
import { expectMatches, jobsOf } from '../../support/linear-check.js'
import type { LinearJob, LinearReport, LinearSpec } from '../../support/linear.js'
import { everyNth } from '../../support/runs.js'
import { ENDS, requireSet, SETS, WIDEST } from './sets.js'

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
// Every size with half of the types: the reference takes its time.
const sizes = jobsOf(types).filter((_, i) => i % 2 === 0)
const byDefault = new Map(
  [...few, ...packed, ...pairs, ...sizes].map((job): [LinearJob, LinearJob] => {
    return [job, { ...job, spec: { ...job.spec, precision: 'default' } }]
  }),
)

const sets = isSanitized ? ENDS : [...SETS, 'amx-model']
sets.forEach((isa, turn) => {
  test(`${isa}, with the same bits on 1 and 3 threads`, async (context) => {
    const jobs = [...few, ...packed, ...pairs, ...(isa === WIDEST ? sizes : everyNth(3, sizes, turn))]
    const on = (threads: number) =>
      ask<LinearReport>(fileURLToPath(new URL('../../support/linear.ts', import.meta.url)), jobs, {
        LILY_CPU_ISA: isa,
        LILY_NUM_THREADS: String(threads),
      })
    const { backend, results } = await on(1)
    requireSet(isa, backend, context)
    const others = await on(3)
    expect(results.length).toBe(jobs.length)
    // Precision tf32 rounds on AMX only.
    const rounds = ({ dIn, dOut, precision }: LinearSpec) =>
      precision === 'high' || isa === 'amx-model' || (isa === 'amx' && Math.min(dIn, dOut) >= LEAST_TERMS_RANK)
    results.forEach((result, i) => {
      expectMatches((rounds(jobs[i].spec) ? undefined : byDefault.get(jobs[i])) ?? jobs[i], result)
      for (const name of ['y', 'dx'] as const) {
        expectSameBits(`${name} of job ${i} on 3 threads`, others.results[i][name], result[name])
      }
    })
    const expectSame = (actual: number, expected: number, title: string) => {
      for (const name of ['y', 'dx'] as const) {
        expectSameBits(`${name} of job ${actual} ${title}`, results[actual][name], results[expected][name])
      }
    }
    few.forEach((_, i) => {
      expectSame(few.length + i, i, 'with a packed weight')
    })
    pairs.forEach(({ how }, i) => {
      const at = 2 * few.length + i
      if (how.widened !== true) expectSame(at, at + 1, 'of a weight in float32')
    })
  })
})
