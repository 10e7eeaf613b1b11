/** The thread pool without kernels: every task runs once, and is complete when the call returns. */
import { execFileSync } from 'node:child_process'
import { beforeAll, expect, test } from 'vitest'
import { compileProgram } from '../support/compile.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
let program: string
beforeAll(() => {
  program = compileProgram('thread_pool', ['cpu/thread_pool.cc', 'system/posix.cc'], folder)
})

test.each([
  ['calls', 'calls', 3],
  ['two callers at the same time', 'two callers', 3],
  ['fewer threads than the system can create', 'calls', 1],
  ['no thread that the system can create', 'calls', 0],
  ['a forked child, which has no threads of its parent', 'fork', 100],
])('%s', (_, what, creatable) => {
  const env = { ...process.env, LILY_NUM_THREADS: '4' }
  expect(execFileSync(program, [what, String(creatable)], { env, encoding: 'utf8' })).toBe('right\n')
})
