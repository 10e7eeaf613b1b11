/** Node.js, Bun and Deno, for the WebAssembly backend. */
import { packageRoot, relaxedSimdModule, simdModule } from '../root.js'
import type { Build, Host, Thread } from './host.js'

const { readFileSync } = process.getBuiltinModule('node:fs')
const { availableParallelism, cpus } = process.getBuiltinModule('node:os')
const { Worker } = process.getBuiltinModule('node:worker_threads')
const { inflateRawSync } = process.getBuiltinModule('node:zlib')

export const nodeHost: Host = {
  sharesMemory: true,
  get processors() {
    return availableParallelism()
  },
  get processorName() {
    try {
      return cpus()[0]?.model.trim() ?? null
    } catch {
      return null // Deno without --allow-sys
    }
  },
  variable: (name) => process.env[name],
  code,
  start,
}

function code(build: Build): Uint8Array<ArrayBuffer> | null {
  return read(`${packageRoot}/build/wasm/${build}.wasm`) ?? embedded(build === 'wasm' ? simdModule : relaxedSimdModule)
}

/** Null: there is no such file. */
function read(file: string): Uint8Array<ArrayBuffer> | null {
  try {
    return new Uint8Array(readFileSync(file))
  } catch {
    return null
  }
}

/** The published package has the module once, in the text that the files for browsers import. */
function embedded(file: string): Uint8Array<ArrayBuffer> | null {
  const text = read(file)
  const base64 = text && /"([\w+/=]+)"/.exec(Buffer.from(text).toString('latin1'))?.[1]
  return base64 ? new Uint8Array(inflateRawSync(Buffer.from(base64, 'base64'))) : null
}

function start(script: string): Thread {
  // Without the flags of this process and of NODE_OPTIONS: a module that they name would run in each thread, and if it calls
  // this package, start threads of its own.
  const worker = new Worker(script, { eval: true, execArgv: [], env: {} })
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
