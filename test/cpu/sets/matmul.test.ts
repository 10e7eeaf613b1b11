/**
 * Batched matrix products with every instruction set and with other numbers of threads, in separate processes.
 *
 * @long @asan
 */
import { fileURLToPath } from 'node:url'
import { test } from 'vitest'
import { expectSameBits } from '../../support/compare.js'
import { LEAST_TERMS_RANK } from '../../support/dtypes.js'
import { ask } from '../../support/fork.js'
import { requireSet, SETS } from './sets.js'
import { expectMatMul, type MatMulReport, SPECS } from '../../support/matmul.js'

const few = SPECS.filter((_, i) => i % 3 === 0)
const specs = [...few, ...few.slice(0, 4).map((spec) => ({ ...spec, dtype: 'float32', precision: 'tf32' }) as const)]
test.for([...SETS, 'amx-model'])('%s, with the same bits on 1 and 3 threads', async (isa, context) => {
  const on = (threads: number) =>
    ask<MatMulReport>(fileURLToPath(new URL('../../support/matmul.ts', import.meta.url)), specs, {
      LILY_CPU_ISA: isa,
      LILY_NUM_THREADS: String(threads),
    })
  const { backend, results } = await on(1)
  requireSet(isa, backend, context)
  const others = await on(3)
  // Precision tf32 rounds on AMX only.
  specs.forEach((spec, i) => {
    const rounds = isa === 'amx-model' || (isa === 'amx' && Math.min(spec.k, spec.n) >= LEAST_TERMS_RANK)
    expectMatMul(spec, results[i], rounds ? spec.precision : 'default')
  })
  others.results.forEach((other, i) => {
    expectSameBits(`y of ${i}`, other, results[i])
  })
})
