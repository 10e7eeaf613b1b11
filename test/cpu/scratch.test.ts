/** No task of the CPU backend writes beyond its scratch memory, with any number of threads. A C++ program runs the calls. */
import { spawnSync } from 'node:child_process'
import { describe, expect, test } from 'vitest'
import { compile, link } from '../../bench/passes/build.js'
import { everyNth } from '../support/runs.js'

const program = link('scratch', [compile('test/programs/scratch.cc', 'scratch.o')], 'thread_pool')

const ROUTINGS = { batch: 0, sequence: 1, token: 2, uniform: 3, fixed: 4, lora: 5, learned: 6 }
const DTYPES = { float32: 0, bfloat16: 1 }

type Sizes = [tokens: number, groups: number, dIn: number, dOut: number, rank: number, experts: number]
const problems: [routing: keyof typeof ROUTINGS, ...Sizes][] = [
  ['batch', 1, 1, 136, 264, 33, 4],
  ['batch', 40, 1, 1024, 1100, 400, 2],
  ['batch', 1103, 1, 72, 520, 72, 3],
  ['batch', 1103, 1, 264, 136, 9, 64],
  ['sequence', 1103, 5, 520, 136, 72, 5],
  ['sequence', 90, 4, 72, 264, 130, 5],
  ['fixed', 1103, 3, 136, 72, 260, 3],
  ['learned', 300, 1, 264, 520, 72, 5],
  ['uniform', 300, 1, 520, 264, 260, 3],
  ['token', 300, 1, 264, 200, 33, 12],
  ['lora', 1103, 1, 72, 136, 40, 1],
  ['lora', 70, 1, 264, 520, 300, 1],
]

// D of 4096 rows, which no task has scratch for at once.
const manyRows: (typeof problems)[number] = ['token', 512, 1, 8192, 192, 64, 64]

const sets: Record<string, string>[] = [
  {},
  { LILY_CPU_BLOCKS: '1' },
  { LILY_CPU_ISA: 'portable' },
  { LILY_CPU_ISA: 'portable', LILY_CPU_BLOCKS: '1' },
  ...(process.arch === 'x64' ? [{ LILY_CPU_ISA: 'amx-model' }] : []),
]

/** One of the types drops, by turns of the threads. */
function expectWithinScratch([routing, ...sizes]: (typeof problems)[number], dtypes: number[], env = {}): void {
  for (const [i, threads] of [1, 5, 16].entries())
    for (const dtype of dtypes) {
      const dropout = (i + dtype) % 2 === 0 ? 6554 : 0
      const numbers = [threads, ...sizes, ROUTINGS[routing], dtype, dropout].map(String)
      const { stdout, stderr } = spawnSync(program, numbers, { encoding: 'utf8', env: { ...process.env, ...env } })
      expect(stdout + stderr, `${threads} threads, dtype ${dtype}, dropout ${dropout}`).toMatch(/^\d+ passes\n$/)
    }
}

// Sets other than the default one, half of the problems by turns.
describe.each(sets.map((env, i) => [JSON.stringify(env), env, i] as const))('%s', (_, env, i) => {
  test.each(i === 0 ? problems : everyNth(2, problems, i >> 1))(
    '%s, M %i, G %i, d_in %i, d_out %i, r %i, E %i',
    (...problem) => {
      expectWithinScratch(problem, [DTYPES.float32, DTYPES.bfloat16], env)
    },
  )
})

test('token routing with many ranks and experts', () => {
  expectWithinScratch(manyRows, [DTYPES.float32])
})
