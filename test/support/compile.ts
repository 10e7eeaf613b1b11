/** Compiles the C++ programs of test/programs, which run parts of native/ without the addon. */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { packageRoot } from '../../lib/binding/root.js'

/**
 * Compiles test/programs/`name`.cc with sources of native/.
 *
 * @returns the path of the program, in `folder`
 */
export function compileProgram(name: string, sources: readonly string[], folder: string): string {
  const native = join(packageRoot, 'native')
  const program = join(folder, name)
  execFileSync(process.env.CXX ?? 'g++', [
    '-std=c++20',
    '-Wall',
    '-Wextra',
    '-Werror',
    '-O1',
    `-I${native}`,
    `-I${join(native, 'include')}`,
    join(packageRoot, 'test/programs', `${name}.cc`),
    ...sources.map((source) => join(native, source)),
    '-o',
    program,
  ])
  return program
}

/** Compiles test/programs/plan.cc, which prints plans of the CPU backend. */
export function compilePlans(folder: string): string {
  const parts = ['backward', 'blocked', 'call', 'cuts', 'direct', 'forward', 'register_tile']
  return compileProgram(
    'plan',
    [...parts.map((part) => `cpu/plan/${part}.cc`), 'cpu/pooling.cc', 'core/problem.cc'],
    folder,
  )
}
