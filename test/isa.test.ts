/** Every instruction set against the reference, in a process of its own. */
import { describe, expect, test } from 'vitest'
import { makeCase, splitTokens, type Spec } from './support/cases.js'
import { checkResult } from './support/check.js'
import { runInChild, type Job } from './support/child.js'
import { TYPES } from './support/dtypes.js'

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
]
// Each in float32, and the types of 16 bits in turn.
const sixteen = Object.values(TYPES).slice(1)
const jobs: Job[] = specs.flatMap((sizes, i) =>
  [{}, sixteen[i % sixteen.length], sixteen[(i + 3) % sixteen.length]].flatMap((types): Job[] => {
    const spec = { ...sizes, ...types }
    const deferred: Job = { spec, how: { deferB: true } }
    return [{ spec, how: { outputs: 'add' } }, ...(spec.routing === 'lora' || 'activations' in spec ? [] : [deferred])]
  }),
)

for (const isa of ['portable', 'avx2', 'avx512', 'avx512bf16'])
  describe(isa, () => {
    test('matches the reference', async (context) => {
      const { backend, results } = await runInChild(jobs, { LILY_CPU_ISA: isa })
      if (!backend.available) {
        expect(isa, 'the portable kernels run everywhere').not.toBe('portable')
        expect(backend.reason).toContain(`LILY_CPU_ISA=${isa}`)
        console.log(`LILY_CPU_ISA=${isa} is skipped: ${backend.reason ?? ''}`)
        context.skip(backend.reason)
      }
      expect(backend.devices[0].simd).toBe(isa)
      expect(results.length).toBe(jobs.length)
      results.forEach((result, i) => {
        const c = makeCase(jobs[i].spec)
        checkResult(c, result, { ...jobs[i].how, plain: c.tokens * c.rank > 1000 })
      })
    })
  })

test('an unknown instruction set is refused with the reason', async () => {
  const { backend, refused } = await runInChild(jobs.slice(0, 1), { LILY_CPU_ISA: 'sse9' })
  expect(backend.available).toBe(false)
  expect(backend.reason).toContain('LILY_CPU_ISA=sse9')
  expect(refused?.code).toBe('ERR_LILY_BACKEND_UNAVAILABLE')
  expect(refused?.message).toContain('LILY_CPU_ISA=sse9')
})
