/**
 * Calls over disjoint rows have the bits of separate calls, on every instruction set and with every kind of products. A C++
 * program runs random lists.
 */
import { spawnSync } from 'node:child_process'
import { describe, expect, test } from 'vitest'
import { compile, link } from '../../bench/passes/build.js'
import { SETS } from './sets/sets.js'

const program = link('rows', [compile('test/programs/rows.cc', 'rows.o')])

describe.each([...SETS, ...(process.arch === 'x64' ? ['amx-model'] : [])])('%s', (isa) => {
  test.for(['0', '1'])('in blocks: %s', (blocks, context) => {
    const env = { ...process.env, LILY_CPU_ISA: isa, LILY_CPU_BLOCKS: blocks, LILY_NUM_THREADS: '3' }
    const { stdout, stderr } = spawnSync(program, [`${blocks}001`, '60'], { encoding: 'utf8', env })
    if (isa !== 'portable' && stdout.includes(`LILY_CPU_ISA=${isa}`)) context.skip(stdout)
    expect(stdout + stderr).toMatch(/^60 lists, .*\n$/)
  })
})
