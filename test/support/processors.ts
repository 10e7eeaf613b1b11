/** Where a child computes: on this processor, or on another one that QEMU's user mode stands for. */
import { findProgram } from './find-program.js'
import { runtimeProgram } from './runtimes.js'

export interface Processor {
  /** What runs a JavaScript file there. */
  command: [program: string, ...args: string[]]
  env: Record<string, string>
}

export const thisProcessor: Processor = { command: [process.execPath], env: {} }

/** A program with JIT-compiled code is more than QEMU promises to run. */
const NODE_OPTIONS = '--jitless'

/** An x86-64 processor by QEMU's name; or why there is none. */
export function olderProcessor(name: 'Nehalem' | 'Haswell'): Processor | string {
  const qemu = findProgram('qemu-x86_64')
  if (process.env.LILY_TEST_SANITIZER !== undefined) return 'sanitizers do not run in QEMU'
  if (process.arch !== 'x64') return `${name} is no ${process.arch} processor`
  if (qemu === undefined) return 'no qemu-x86_64 (Debian: apt install qemu-user)'
  return { command: [qemu, '-cpu', name, process.execPath, NODE_OPTIONS], env: {} }
}

/** An arm64 processor, with the addon of prebuilds/; or why there is none. */
export function arm64Processor(): Processor | string {
  // Of libstdc++ for arm64, which g++-aarch64-linux-gnu and g++-12-aarch64-linux-gnu bring.
  const libraries = '/usr/aarch64-linux-gnu'
  const env = { PREBUILDS_ONLY: '1', QEMU_LD_PREFIX: libraries }
  if (process.arch === 'arm64') return { command: [process.execPath], env: { PREBUILDS_ONLY: '1' } }
  const qemu = findProgram('qemu-aarch64')
  if (qemu === undefined) return 'no qemu-aarch64 (Debian: apt install qemu-user)'
  return { command: [qemu, runtimeProgram('Node 20 for arm64'), NODE_OPTIONS], env }
}
