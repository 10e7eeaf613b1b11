/** Builds the stand-in for cuBLASLt on the emulator. */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { temporaryFolder } from './temporary.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** @returns a folder for LD_LIBRARY_PATH, with libcublasLt.so.13 */
export function cublasLt(...flags: string[]): string {
  const folder = temporaryFolder()
  execFileSync(process.env.CC ?? 'cc', [
    '-O2',
    '-Wall',
    '-Wextra',
    '-Werror',
    '-shared',
    '-fPIC',
    ...flags,
    '-o',
    join(folder, 'libcublasLt.so.13'),
    join(root, 'test/cuda/programs/cublaslt.c'),
    `-L${join(root, 'build/emulator')}`,
    '-l:libcudart.so.13',
  ])
  return folder
}
