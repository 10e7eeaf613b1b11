/**
 * Loads the binding of this process: the native addon, or WebAssembly where there is none. The files for
 * browsers have load.browser.ts in its place.
 */
import { LilyError } from '../base/errors.js'
import { findAddon, loadAddon, platform } from './addon.js'
import type { Binding, Native } from './native.js'
import { isBundled } from './root.js'
import { checkVersion } from './version.js'
import { isBuild, loadModule, nameOfSimd } from './wasm/load.js'
import { wasmNative } from './wasm/native.js'
import { nodeHost } from './wasm/node-host.js'

/** @throws LilyError ERR_LILY_BACKEND_UNAVAILABLE */
export function loadBinding(): Binding {
  if (isBundled) {
    throw unavailable(
      'a bundler has copied lily-kernels into another file, away from its addon and its WebAssembly; leave the package ' +
        'external (esbuild --external:lily-kernels, serverExternalPackages of Next.js)',
    )
  }
  const isa = process.env.LILY_CPU_ISA
  if (isBuild(isa)) {
    try {
      return wasmNative(loadModule(nodeHost, isa), nodeHost, `LILY_CPU_ISA=${isa}`)
    } catch (cause) {
      throw unavailable(`LILY_CPU_ISA=${isa}, but ${firstLineOf(cause)}; unset LILY_CPU_ISA`, cause)
    }
  }
  const file = findAddon()
  if (file === null) return loadFallback(isa, `no native addon for ${platform}`)
  let addon: Native
  try {
    addon = loadAddon(file)
  } catch (cause) {
    return loadFallback(isa, `the native addon does not load on ${platform} (${firstLineOf(cause)})`, cause)
  }
  checkVersion(addon.signature)
  return { ...addon, allocateHost: (byteLength) => allocateAligned(addon, byteLength) }
}

/**
 * Smallest allocation that is left uninitialised, in bytes. `new ArrayBuffer` zeroes its memory; for a large result the
 * zeroing and the page faults that it causes cost more than the operation itself.
 */
const UNINITIALISED_BYTES = 4096

const CACHE_LINE = 64

/** Memory for results, parameters and their gradients that begins with a cache line; see native/napi/host_memory.cc. */
function allocateAligned(addon: Native, byteLength: number): ReturnType<NonNullable<Binding['allocateHost']>> {
  if (byteLength < UNINITIALISED_BYTES) return null
  const memory = Buffer.allocUnsafeSlow(byteLength + CACHE_LINE)
  const offset = addon.placeHostBlock(memory, byteLength)
  return { buffer: memory.buffer, byteOffset: memory.byteOffset + offset }
}

/**
 * @param isa the instruction set that LILY_CPU_ISA names
 * @param reason why there is no addon
 */
function loadFallback(isa: string | undefined, reason: string, cause?: unknown): Binding {
  if (isa !== undefined && isa !== '') {
    throw unavailable(`LILY_CPU_ISA=${isa}, but there is ${reason}; unset LILY_CPU_ISA`, cause)
  }
  try {
    const module = loadModule(nodeHost, null)
    return wasmNative(module, nodeHost, `${reason}; running on WebAssembly with ${nameOfSimd(module.build)}`)
  } catch (second) {
    throw unavailable(
      `${reason}, and ${firstLineOf(second)}; ` +
        `install lily-kernels again on this machine, or run npm ci && npm run build:all in a checkout`,
      cause ?? second,
    )
  }
}

function firstLineOf(cause: unknown): string {
  return cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : String(cause)
}

function unavailable(message: string, cause?: unknown): LilyError {
  return new LilyError('ERR_LILY_BACKEND_UNAVAILABLE', message, { cause })
}
