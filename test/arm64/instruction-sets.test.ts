/**
 * Every instruction set of the prebuilt addon on an arm64 processor, compared with the reference.
 *
 * @long
 */
import { beforeAll, test } from 'vitest'
import { isLong } from '../support/runs.js'
import { runInChild } from '../support/child.js'
import { expectMatches, fewJobs, jobs } from '../support/instruction-sets.js'
import { arm64Processor, type Processor } from '../support/processors.js'

let processor: Processor | string
beforeAll(() => {
  processor = arm64Processor()
}, 600_000)

// A fifth of the jobs, with every routing and type: a job takes seconds. The portable kernels run in full on x86-64; a few
// problems show that another compiler does not change them.
const [some, few] = isLong
  ? [jobs, fewJobs]
  : [jobs.filter((_, i) => i % 5 === 0), fewJobs.filter((_, i) => i % 2 === 0)]
// Without LILY_CPU_ISA, the widest instruction set is selected.
for (const [isa, wanted, selected] of [
  ['neon', '', some],
  ['portable', 'portable', few],
] as const)
  test(`${isa} matches the reference`, { timeout: 600_000 }, async (context) => {
    if (typeof processor === 'string') return context.skip(processor)
    expectMatches(selected, await runInChild([...selected], { LILY_CPU_ISA: wanted }, processor), isa)
  })
