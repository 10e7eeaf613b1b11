/** Node.js, Bun and Deno, for the WebAssembly backend. */
import { readFileSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { packageRoot } from '../root.js'
import type { Build, Host, Thread } from './host.js'

/** Of a checkout, and of the published package. */
const FOLDERS = ['build/wasm', 'prebuilds/wasm']

export const nodeHost: Host = {
  sharesMemory: true,
  get processors() {
    return availableParallelism()
  },
  get processorName() {
    return cpus()[0]?.model.trim() ?? null
  },
  variable: (name) => process.env[name],
  code,
  start,
}

function code(build: Build): Uint8Array<ArrayBuffer> | null {
  for (const folder of FOLDERS) {
    try {
      return new Uint8Array(readFileSync(join(packageRoot, folder, `${build}.wasm`)))
    } catch {
      // It is in the other folder, or nowhere.
    }
  }
  return null
}

function start(script: string): Thread {
  // Without the flags of this process: a loader that they name would run in each thread.
  const worker = new Worker(script, { eval: true, execArgv: [] })
  worker.unref()
  return {
    post(message) {
      worker.postMessage(message)
    },
    onMessage(listener) {
      worker.on('message', listener)
    },
    onEnd(listener) {
      worker.on('error', (error) => {
        listener(String(error))
      })
      worker.on('exit', (exitCode) => {
        listener(`exit code ${exitCode}`)
      })
    },
    keepAlive(keeps) {
      if (keeps) worker.ref()
      else worker.unref()
    },
  }
}
