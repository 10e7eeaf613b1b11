/** The AMX kernels on the hardware, bit for bit against the model of their instructions. */
import { expect, test } from 'vitest'
import { type Spec, splitTokens } from './support/cases.js'
import { type Job, type Report, runInChild } from './support/child.js'
import { expectSameBits } from './support/compare.js'
import { TYPES } from './support/dtypes.js'
import type { Values } from './support/run.js'

const odd = { tokens: 90, dIn: 545, dOut: 1060, rank: 33, experts: 3, scaling: 2 }
const specs: Spec[] = [
  { ...odd, routing: 'batch', seed: 1 },
  { ...odd, routing: 'batch', pool: 'logits', masked: 0.3, activation: 'relu', seed: 2 },
  { ...odd, routing: 'sequence', lengths: splitTokens(odd.tokens, 5, 1), masked: 0.3, seed: 3 },
  { ...odd, routing: 'token', seed: 4 },
  { ...odd, routing: 'fixed', lengths: splitTokens(odd.tokens, 3, 1), seed: 5 },
  { ...odd, routing: 'lora', experts: 1, seed: 6 },
  { ...odd, routing: 'batch', tokens: 1, rank: 16, seed: 7 },
  { ...odd, routing: 'batch', tokens: 19, rank: 136, seed: 8 },
  { ...odd, routing: 'batch', tokens: 600, rank: 264, dIn: 64, dOut: 160, seed: 9 },
  // Products and sums that are subnormal in float32, which the unit flushes.
  { ...odd, routing: 'batch', scaling: 2 ** -120, seed: 10 },
]
/** From this rank on the hardware multiplies float32 as terms of bfloat16. */
const LEAST_TERMS_RANK = 128
const inTerms = (spec: Spec): Spec => ({ ...spec, rank: Math.max(spec.rank, LEAST_TERMS_RANK + 1), precision: 'tf32' })

const jobs: Job[] = specs.flatMap((spec) =>
  [{ ...spec, ...TYPES.bfloat16 }, { ...spec, ...TYPES['mixed bfloat16'] }, inTerms(spec)].map((of) => ({
    spec: of,
    how: { outputs: 'add' } as const,
  })),
)

const runOn = (isa: string): Promise<Report> => runInChild(jobs, { LILY_CPU_ISA: isa })

test('the hardware computes the bits of the model', { timeout: 300_000 }, async (context) => {
  const hardware = await runOn('amx')
  if (!hardware.backend.available) {
    console.log(`LILY_CPU_ISA=amx is skipped: ${hardware.backend.reason ?? ''}`)
    context.skip(hardware.backend.reason)
  }
  expect(hardware.backend.devices[0].simd, 'the permission was granted').toBe('amx')
  const model = await runOn('amx-model')
  hardware.results.forEach(({ values }, i) => {
    for (const [name, value] of Object.entries(model.results[i].values)) {
      expectSameBits(`${name} of job ${i}`, values[name as keyof Values] ?? new Float32Array(), value)
    }
  })
})

test('the hardware has terms of bfloat16 from their least rank on', async (context) => {
  const ofRank = (rank: number, precision: Spec['precision']): Job => ({
    spec: { ...odd, routing: 'batch', rank, precision, seed: 11 },
    how: {},
  })
  const ranks = [LEAST_TERMS_RANK - 1, LEAST_TERMS_RANK]
  const both = ranks.flatMap((rank) => [ofRank(rank, 'default'), ofRank(rank, 'tf32')])
  const { backend, results } = await runInChild(both, { LILY_CPU_ISA: 'amx' })
  if (!backend.available) {
    console.log(`LILY_CPU_ISA=amx is skipped: ${backend.reason ?? ''}`)
    context.skip(backend.reason)
  }
  const [narrow, narrowTf32, wide, wideTf32] = results.map(({ values }) => values.y ?? new Float32Array())
  expectSameBits('y below', narrowTf32, narrow)
  expect(wideTf32).not.toEqual(wide)
})

// The portable kernels do not round float32 parameters to bfloat16.
test('the model does not run the vector kernels', { timeout: 300_000 }, async () => {
  const mixed = jobs.filter(({ spec }) => spec.parameters === 'float32').slice(0, 4)
  const model = await runInChild(mixed, { LILY_CPU_ISA: 'amx-model' })
  const vectors = await runInChild(mixed, { LILY_CPU_ISA: 'portable' })
  expect(model.backend.devices[0].simd).toBe('amx-model')
  mixed.forEach((_, i) => {
    expect(model.results[i].values.da).not.toEqual(vectors.results[i].values.da)
  })
})
