/** Every instruction set of the prebuilt addon on an arm64 processor, compared with the reference. */
import { beforeAll, test } from 'vitest'
import { isLong } from '../support/backend.js'
import { runInChild } from '../support/child.js'
import { expectMatches, fewJobs, jobs } from '../support/instruction-sets.js'
import { arm64Processor, type Processor } from '../support/processors.js'

let processor: Processor | string
beforeAll(() => {
  processor = arm64Processor()
}, 600_000)

// Each problem with two of the three or four combinations of types and outputs, which take turns: a job takes seconds.
const most = isLong ? jobs : jobs.filter((_, i) => i % 3 !== 1)
// Without LILY_CPU_ISA, the widest instruction set is selected.
for (const [isa, wanted, some] of [
  ['neon', '', most],
  ['portable', 'portable', fewJobs],
] as const)
  test(`${isa} matches the reference`, { timeout: 600_000 }, async (context) => {
    if (typeof processor === 'string') return context.skip(processor)
    expectMatches(some, await runInChild([...some], { LILY_CPU_ISA: wanted }, processor), isa)
  })
