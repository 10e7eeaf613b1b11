/** Chooses a build of the WebAssembly module that the engine has all instructions of, and loads it. */
import type { Build, Host } from './host.js'
import { Module } from './module.js'
import { unshareMemory } from './unshare.js'

/** The fastest first. */
const BUILDS: readonly Build[] = ['wasm-relaxed', 'wasm']

/** Whether a value of LILY_CPU_ISA names a build. */
export function isBuild(name: string | undefined): name is Build {
  return (BUILDS as readonly unknown[]).includes(name)
}

/** The instructions of a build, for messages. */
export function nameOfSimd(build: Build): string {
  return build === 'wasm' ? 'SIMD' : 'relaxed SIMD'
}

/**
 * Loads the module.
 *
 * @param wanted the build; null: the fastest that the engine supports without a flag
 * @throws Error if there is no such build, or the engine refuses it
 */
export function loadModule(host: Host, wanted: Build | null): Module {
  let failure: Error | null = null
  for (const build of wanted === null ? BUILDS : [wanted]) {
    const code = host.code(build)
    if (code === null) continue
    try {
      const module = new WebAssembly.Module(host.sharesMemory ? code : unshareMemory(code))
      return new Module(module, build, host, host.sharesMemory ? threadCount(host) : 1)
    } catch (error) {
      failure = error instanceof Error ? error : new Error(String(error))
    }
  }
  if (failure !== null) throw new Error(`WebAssembly does not load (${failure.message})`, { cause: failure })
  throw new Error('this package has no WebAssembly build; install it again, or install the toolchain in a checkout')
}

/** kMaxThreads of native/cpu/thread_pool.h. */
const MAX_THREADS = 256

/**
 * LILY_NUM_THREADS, or the processors. 0, for which the ABI has an error, if the variable is not from 1 to
 * {@link MAX_THREADS}.
 */
function threadCount(host: Host): number {
  const given = host.variable('LILY_NUM_THREADS')
  if (given === undefined || given === '') return Math.min(Math.max(host.processors, 1), MAX_THREADS)
  return /^\d+$/.test(given) && Number(given) >= 1 && Number(given) <= MAX_THREADS ? Number(given) : 0
}
