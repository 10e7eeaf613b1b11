/**
 * The addon on older processors, which QEMU emulates: an unsupported instruction terminates the process.
 *
 * @long
 */
import { expect, test } from 'vitest'
import { runInChild } from '../support/child.js'
import { expectMatches, fewJobs } from '../support/instruction-sets.js'
import { olderProcessor } from '../support/processors.js'
import { everyNth } from '../support/runs.js'
import { temporaryFolder } from '../support/temporary.js'
import { emulatedTiles } from '../support/tiles.js'

const folder = temporaryFolder()

test.for([
  ['Nehalem', 'portable'],
  ['Haswell', 'avx2'],
] as const)('%s runs the widest set that it supports: %s', async ([name, simd], context) => {
  const processor = olderProcessor(name)
  if (typeof processor === 'string') return context.skip(processor)
  // An emulated processor takes seconds per problem.
  const few = everyNth(2, fewJobs)
  expectMatches(few, await runInChild(few, { LILY_CPU_ISA: '' }, processor), simd)
})

test('emulated tile registers do not keep the addon from loading', async (context) => {
  const haswell = olderProcessor('Haswell')
  if (typeof haswell === 'string') return context.skip(haswell)
  const environment = emulatedTiles(folder)
  if (typeof environment === 'string') return context.skip(environment)
  const { backend } = await runInChild([], { LILY_CPU_ISA: 'amx', ...environment }, haswell)
  expect(backend).toMatchObject({ available: false, reason: expect.stringContaining('LILY_CPU_ISA=amx') as string })
})
