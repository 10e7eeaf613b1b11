/** Loads the binding of a page or one of its workers. The files for browsers have it in place of load.ts. */
import { LilyError } from '../base/errors.js'
import type { Binding } from './native.js'
import { browserHost } from './wasm/browser-host.js'
import { loadModule, nameOfSimd } from './wasm/load.js'
import { wasmNative } from './wasm/native.js'

/** @throws LilyError ERR_LILY_BACKEND_UNAVAILABLE */
export function loadBinding(): Binding {
  try {
    const module = loadModule(browserHost, null)
    const reason = `a browser has no native addon; running on WebAssembly with ${nameOfSimd(module.build)}`
    return wasmNative(module, browserHost, reason)
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause)
    throw new LilyError(
      'ERR_LILY_BACKEND_UNAVAILABLE',
      `${message}; a Content-Security-Policy must allow 'wasm-unsafe-eval' in script-src`,
      { cause },
    )
  }
}
