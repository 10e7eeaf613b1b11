/** Pages and their workers, for the WebAssembly backend. The files for browsers have it in place of node-host.ts. */
import { inflateSync } from 'fflate'
import relaxed from '../../../build/wasm/wasm-relaxed.wasm'
import simd from '../../../build/wasm/wasm.wasm'
import type { Build, Host, Thread } from './host.js'

/** As text: no bundler then has to find a file, and no page to fetch one. */
const CODE: Readonly<Record<Build, string>> = { wasm: simd, 'wasm-relaxed': relaxed }

export const browserHost: Host = {
  get sharesMemory() {
    return typeof SharedArrayBuffer === 'function' && typeof crossOriginIsolated === 'boolean' && crossOriginIsolated
  },
  get processors() {
    return navigator.hardwareConcurrency ?? 1
  },
  processorName: null,
  variable: () => undefined,
  code: (build) => inflateSync(Uint8Array.from(atob(CODE[build]), (character) => character.charCodeAt(0))),
  start,
}

function start(script: string): Thread {
  const url = URL.createObjectURL(new Blob([script], { type: 'text/javascript' }))
  const revoke = () => URL.revokeObjectURL(url)
  let worker: Worker
  try {
    worker = new Worker(url)
  } catch (error) {
    revoke()
    throw error
  }
  // Not before the worker has read it.
  worker.addEventListener('message', revoke)
  worker.addEventListener('error', revoke)
  return {
    post(message) {
      worker.postMessage(message)
    },
    onMessage(listener) {
      worker.addEventListener('message', ({ data }) => {
        listener(data)
      })
    },
    onEnd(listener) {
      // The event has no message if the page's Content-Security-Policy forbids the worker.
      worker.addEventListener('error', ({ message }) => {
        listener(message ?? 'the page forbids it')
      })
    },
    keepAlive() {
      // A page has no process that ends.
    },
  }
}
