/** The processor of a child process: this one, or one that QEMU's user mode emulates. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { packageRoot } from '../../lib/binding/root.js'
import { findProgram } from './find-program.js'
import { runtimeProgram } from './runtimes.js'

export interface Processor {
  /** The command that runs a JavaScript file. */
  command: [program: string, ...args: string[]]
  env: Record<string, string>
}

export const thisProcessor: Processor = { command: [process.execPath], env: {} }

/** QEMU does not reliably run JIT-compiled code. */
const NODE_OPTIONS = '--jitless'

/** WebAssembly is compiled in any case. So that nothing else is, and no code that runs is replaced. */
const WEBASSEMBLY_OPTIONS = ['--no-opt', '--no-sparkplug', '--no-wasm-tier-up', '--no-wasm-dynamic-tiering']

/** An x86-64 processor by its name in QEMU, or the reason why it is not available. */
export function olderProcessor(name: 'Nehalem' | 'Haswell'): Processor | string {
  const qemu = findProgram('qemu-x86_64')
  if (process.env.LILY_TEST_SANITIZER !== undefined) return 'sanitizers do not run in QEMU'
  if (process.arch !== 'x64') return `${name} is no ${process.arch} processor`
  if (qemu === undefined) return 'no qemu-x86_64 (Debian: apt install qemu-user)'
  return { command: [qemu, '-cpu', name, process.execPath, NODE_OPTIONS], env: {} }
}

/**
 * An arm64 processor with the prebuilt addon, or the reason why it is not available.
 *
 * @param runs what the program runs the kernels as
 */
export function arm64Processor(runs: 'addon' | 'WebAssembly' = 'addon'): Processor | string {
  const addon = join('prebuilds', 'linux-arm64', 'lily.glibc.node')
  if (runs === 'addon' && !existsSync(join(packageRoot, addon)))
    return `there is no ${addon}; npm run test:arm64 says why`
  // The folders of libstdc++ for arm64, from the packages g++-aarch64-linux-gnu and g++-12-aarch64-linux-gnu.
  const libraries = '/usr/aarch64-linux-gnu'
  const env = { PREBUILDS_ONLY: '1', QEMU_LD_PREFIX: libraries }
  if (process.arch === 'arm64') return { command: [process.execPath], env: { PREBUILDS_ONLY: '1' } }
  const qemu = findProgram('qemu-aarch64')
  if (qemu === undefined) return 'no qemu-aarch64 (Debian: apt install qemu-user)'
  const options = runs === 'addon' ? [NODE_OPTIONS] : WEBASSEMBLY_OPTIONS
  return { command: [qemu, runtimeProgram('Node 20 for arm64'), ...options], env }
}
