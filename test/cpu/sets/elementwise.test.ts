/** Functions of elements and sums of rows with every instruction set and other numbers of threads, in separate processes. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { packageRoot } from '../../../lib/binding/root.js'
import { expectSameBits } from '../../support/compare.js'
import { type ElementwiseReport, expectElementwise } from '../../support/elementwise.js'
import { ask } from '../../support/fork.js'

const NAMES = [
  'portable',
  ...(process.arch === 'arm64' ? ['neon'] : ['avx2', 'avx512', 'avx512bf16', 'amx']),
  'amx-model',
  'wasm',
]

test.for(NAMES)('%s, with the same bits on 1 and 3 threads', { timeout: 60_000 }, async (isa, context) => {
  if (isa === 'wasm' && !existsSync(join(packageRoot, 'build/wasm/wasm.wasm'))) {
    return context.skip('WebAssembly is not built; npm run build:wasm says why')
  }
  const on = (threads: number) =>
    ask<ElementwiseReport>(
      fileURLToPath(new URL('../../support/elementwise.ts', import.meta.url)),
      {},
      {
        LILY_CPU_ISA: isa,
        LILY_NUM_THREADS: String(threads),
      },
    )
  const [{ backend, results }, other] = [await on(1), await on(3)]
  if (!backend.available) {
    expect(isa, 'the portable kernels run everywhere').not.toBe('portable')
    return context.skip(backend.reason)
  }
  expectElementwise(results)
  results.forEach((result, i) => {
    expectSameBits(`result ${i}`, other.results[i], result)
  })
})
