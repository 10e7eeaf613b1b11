/** Functions of elements and sums of rows with every instruction set and other numbers of threads, in separate processes. */
import { fileURLToPath } from 'node:url'
import { test } from 'vitest'
import { expectSameBits } from '../../support/compare.js'
import { type ElementwiseReport, expectElementwise } from '../../support/elementwise.js'
import { ask } from '../../support/fork.js'
import { requireSet, SETS } from './sets.js'

test.for([...SETS, 'amx-model'])(
  '%s, with the same bits on 1 and 3 threads',
  { timeout: 60_000 },
  async (isa, context) => {
    const on = (threads: number) =>
      ask<ElementwiseReport>(
        fileURLToPath(new URL('../../support/elementwise.ts', import.meta.url)),
        {},
        {
          LILY_CPU_ISA: isa,
          LILY_NUM_THREADS: String(threads),
        },
      )
    const { backend, results } = await on(1)
    requireSet(isa, backend, context)
    const other = await on(3)
    expectElementwise(results)
    results.forEach((result, i) => {
      expectSameBits(`result ${i}`, other.results[i], result)
    })
  },
)
