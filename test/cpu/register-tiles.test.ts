/** What the compiler has made of the kernels: the symbols of their object files, and the loops of the register tiles. */
import { execFileSync } from 'node:child_process'
import { basename } from 'node:path'
import { expect, test } from 'vitest'
import { findProgram } from '../support/find-program.js'
import { tileLoops } from '../support/loops.js'
import { addonObjects } from '../../bench/passes/build.js'

const kernels = addonObjects().filter((file) => /^kernels_(?!portable|.*model)/.test(basename(file)))

/** Tables, and the address of the function that unwinds the stack. */
const DATA = /^(lily::cpu::k(Kernels|Direct)\w+ [DR]|DW\.ref\.__gxx_personality_v0 V)$/

// The linker keeps one copy of an inline function that several object files have. If that were one of a file for AVX-512, it
// would end the process on another processor. So the object files define nothing but their tables, and nothing in them runs
// as the addon is loaded.
test('object files of instruction sets share no code', (context) => {
  if (process.env.LILY_TEST_SANITIZER !== undefined) return context.skip('a sanitizer adds functions of its own')
  if (findProgram('nm') === undefined) return context.skip('no nm (Debian: apt install binutils)')
  if (kernels.length === 0) return context.skip('build/cmake has no object files; npm run build:native')
  for (const file of kernels) {
    const symbols = (...options: string[]) =>
      execFileSync('nm', ['--demangle', '--format=posix', ...options, file], { encoding: 'utf8' })
        .trim()
        .split('\n')
    const shared = symbols('--extern-only', '--defined-only').map(
      (line) => /^(.* [A-Za-z])( [0-9a-f]+)+ *$/.exec(line)?.[1] ?? line,
    )
    expect(shared.length, basename(file)).toBeGreaterThan(0)
    expect(
      shared.filter((symbol) => !DATA.test(symbol)),
      basename(file),
    ).toEqual([])
    expect(symbols().filter((line) => line.includes('_GLOBAL__sub_I') || line.includes('global constructors'))).toEqual(
      [],
    )
  }
})

// A sum that goes through the stack in every step costs its latency in every step.
test('the sums of a register tile stay in registers', (context) => {
  if (process.env.LILY_TEST_SANITIZER !== undefined) return context.skip('sanitizers compile without optimisation')
  if (findProgram('objdump') === undefined) return context.skip('no objdump (Debian: apt install binutils)')
  const files = kernels.filter((file) => /_(avx2|avx512|avx512bf16|neon)\.cc/.test(file))
  if (files.length === 0) return context.skip('build/cmake has no object files; npm run build:native')
  for (const file of files) {
    const loops = tileLoops('objdump', file)
    expect(loops.length, basename(file)).toBeGreaterThan(4)
    expect(
      loops.filter(({ spills }) => spills.length > 0),
      basename(file),
    ).toEqual([])
  }
})
