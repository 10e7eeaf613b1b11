/** The instruction sets under test, each in child processes. */
import { expect, type TestContext } from 'vitest'
import type { BackendInfo } from '../../../lib/index.js'
import { runInChild } from '../../support/child.js'

/** Every instruction set of this architecture. */
export const SETS = [
  'portable',
  ...(process.arch === 'arm64' ? ['neon'] : ['avx2', 'avx512', 'avx512bf16', 'amx']),
] as const

/** The widest set that this processor supports. */
export const WIDEST = (await runInChild([], { LILY_CPU_ISA: '' })).backend.devices[0]?.simd ?? 'portable'

/** Sets with the shortest vectors and the longest, for what is the same code on all of them. */
export const ENDS = [...new Set(['portable', WIDEST])]

/** Skips a test with the reason why the processor does not support its set. */
export function requireSet(isa: string, { available, reason }: BackendInfo, context: TestContext): void {
  if (available) return
  expect(isa, 'the portable kernels run everywhere').not.toBe('portable')
  expect(reason).toContain(`LILY_CPU_ISA=${isa}`)
  context.skip(reason)
}
