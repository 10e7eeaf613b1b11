/**
 * Problems whose first pooling group has no kept token. Such a group has no gradient, also where its x and dy hold NaN: the
 * gradients are those of the same problem with finite numbers there.
 */
import { expect } from 'vitest'
import { makeCase, type Spec } from './cases.js'
import type { Job } from './child.js'
import type { Types } from './dtypes.js'
import { type Result, wantedGradients } from './run.js'

const small = { tokens: 60, dIn: 33, dOut: 136, experts: 3, scaling: 2 }
const ragged = { ...small, routing: 'sequence', rank: 9, lengths: [21, 0, 1, 38] } as const
// Several strips and splits; with the small L2 of test/cuda/kernels.test.ts a separate kernel reads dy.
const wide = { ...small, routing: 'batch', tokens: 260, dIn: 33, dOut: 1040, rank: 4 } as const

const specs: Spec[] = [
  { ...small, routing: 'batch', rank: 7, activation: 'relu', seed: 1 },
  { ...small, routing: 'batch', rank: 140, pool: 'logits', seed: 2 },
  { ...wide, seed: 3 },
  { ...ragged, seed: 4 },
  { ...ragged, pool: 'logits', rank: 132, seed: 5 },
  { ...ragged, activation: 'relu', experts: 5, masked: 0.3, seed: 6 },
  // The group with no kept token is the last one.
  { ...ragged, lengths: [0, 60, 0], seed: 7 },
  // So few tokens that the CPU backend has passes of their own for them.
  { ...small, routing: 'batch', tokens: 1, rank: 7, seed: 8 },
  { ...small, routing: 'batch', tokens: 2, rank: 9, activation: 'relu', seed: 9 },
]
const TYPES: Types[] = [{}, { activations: 'bfloat16' }, { activations: 'float16', parameters: 'float32' }]

/** Each problem twice: with finite numbers, and with NaN in the group. Gradients are new, added to, or overwritten. */
function twice(typesOf: (i: number) => Types): Job[] {
  return specs.flatMap((sizes, i): Job[] => {
    const how = { outputs: (['new', 'add', 'overwrite'] as const)[i % 3], deferB: i % 2 === 1 }
    return (['finite', 'nan'] as const).map((emptyGroup) => ({ spec: { ...sizes, ...typesOf(i), emptyGroup }, how }))
  })
}

/** In data types that take turns. */
export const emptyGroupJobs = twice((i) => TYPES[(i + 2) % TYPES.length])
/** For the mutation tests, which build one engine. */
export const emptyGroupJobsInBfloat16 = twice(() => ({ activations: 'bfloat16' }))

/** Before each of these jobs one of the same sizes whose tokens have NaN and count: memory that is used again then has NaN. */
export function afterNaN(jobs: readonly Job[]): Job[] {
  return jobs.flatMap((job): Job[] => [{ ...job, spec: { ...job.spec, emptyGroup: 'kept nan' } }, job])
}

/** NaN of tokens that count reaches what depends on them. `results` are those of the jobs that afterNaN() has added. */
export function expectNaNOfKeptGroups(jobs: readonly Job[], results: readonly Result[]): void {
  expect(results.length).toBe(jobs.length)
  results.forEach(({ values }, i) => {
    const { offsets, tokens } = makeCase(jobs[i].spec)
    const end = offsets?.find((offset) => offset > 0) ?? tokens
    for (const name of ['hidden', 'probabilities', 'y'] as const) {
      const value = values[name]?.subarray(0, (values[name].length / tokens) * end)
      expect(value?.every(Number.isNaN) ?? true, `${name} of ${JSON.stringify(jobs[i])}`).toBe(true)
    }
    expect(values.weights?.some(Number.isNaN), `weights of ${JSON.stringify(jobs[i])}`).toBe(true)
  })
}

export function expectNoGradientOfEmptyGroups(jobs: readonly Job[], results: readonly Result[]): void {
  expect(results.length).toBe(jobs.length)
  for (let i = 0; i < jobs.length; i += 2) {
    const [finite, withNaN] = results.slice(i, i + 2)
    expect(finite.values.hidden?.every(Number.isFinite)).toBe(true)
    expect(withNaN.values.hidden?.some(Number.isNaN), 'h of the group is NaN').toBe(true)
    for (const name of [...wantedGradients(makeCase(jobs[i].spec)), 'weights'] as const) {
      expect(finite.values[name]?.every(Number.isFinite), `${name} is finite`).toBe(true)
      expect(withNaN.values[name], `${name} of ${JSON.stringify(jobs[i + 1])}`).toEqual(finite.values[name])
    }
  }
}
