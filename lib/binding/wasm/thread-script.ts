/**
 * The script of a thread. It is a string, because a bundler moves files but not the contents of strings, and a page can
 * make a Worker of it without a request.
 *
 * The first message is {@link ThreadStart}, which the thread answers with a {@link ThreadResult} once the module is there.
 * With a `worker` it then runs tasks of the pool and never returns to its event loop. Otherwise each further message is a
 * {@link ThreadCall}, which the thread answers with a {@link ThreadResult}.
 */

import { status as statuses } from '../slots.js'

/** The module, or the script, has thrown. */
export const TRAPPED = -1

/** Starts a module in a thread. */
export interface ThreadStart {
  readonly module: WebAssembly.Module
  /** The memory of the main module; absent: the thread makes its own. */
  readonly memory?: WebAssembly.Memory
  /** Size of its own memory in pages, and the maxima to try, as for the memory of the main module. */
  readonly initialPages?: number
  readonly mostPages?: readonly number[]
  /** End of the thread's stack and start of its thread-local data, in shared memory. */
  readonly stack?: number
  readonly tls?: number
  /** Number of the thread in the pool, from 1. */
  readonly worker?: number
}

/** Runs a call. */
export interface ThreadCall {
  /** Its address. */
  readonly call: number
  /** Without shared memory: what the call reads or writes, by address, and the size of the memory in pages. */
  readonly blocks?: readonly (readonly [address: number, bytes: Uint8Array])[]
  readonly pages?: number
}

export interface ThreadResult {
  /** lily_status, or {@link TRAPPED}. */
  readonly status: number
  readonly message: string
  /** Without shared memory: the blocks after the call. */
  readonly blocks?: readonly (readonly [address: number, bytes: Uint8Array])[]
}

export const THREAD_SCRIPT = `'use strict'
{
  // Bun has the functions of a page's Worker besides, but does not call onmessage of a thread.
  const port = (typeof require === 'function' && require('node:worker_threads').parentPort) || globalThis
  let memory
  let instance
  const newMemory = (initial, [maximum, ...smaller]) => {
    try {
      return new WebAssembly.Memory({ initial, maximum })
    } catch (error) {
      if (smaller.length === 0) throw error
      return newMemory(initial, smaller)
    }
  }
  const start = ({ module, memory: shared, initialPages, mostPages, stack, tls, worker }) => {
    memory = shared ?? newMemory(initialPages, mostPages)
    instance = new WebAssembly.Instance(module, { env: { memory, now: () => performance.now() } }).exports
    if (shared === undefined) {
      instance._initialize()
    } else {
      instance.__stack_pointer.value = stack
      instance.__wasm_init_tls(tls)
    }
    port.postMessage({ status: 0, message: '' })
    if (worker !== undefined) instance.lily_wasm_work(worker)
  }
  const text = (address) => {
    const bytes = new Uint8Array(memory.buffer)
    return new TextDecoder().decode(bytes.slice(address, bytes.indexOf(0, address)))
  }
  const run = ({ call, blocks, pages }) => {
    if (blocks !== undefined) {
      const missing = pages - memory.buffer.byteLength / 65536
      try {
        if (missing > 0) memory.grow(missing)
      } catch {
        const message = \`no memory for the thread of the Async forms: it cannot grow to \${pages * 65536} bytes; use smaller batches\`
        return { status: ${statuses.errorOutOfMemory}, message }
      }
      for (const [address, bytes] of blocks) new Uint8Array(memory.buffer).set(bytes, address)
    }
    const status = instance.lily_wasm_run(call)
    return {
      status,
      message: status === 0 ? '' : text(instance.lily_wasm_last_error() >>> 0),
      blocks: blocks?.map(([address, bytes]) => [address, new Uint8Array(memory.buffer).slice(address, address + bytes.length)]),
    }
  }
  const receive = (message) => {
    if (instance === undefined) return start(message)
    let result
    try {
      result = run(message)
    } catch (error) {
      result = { status: ${TRAPPED}, message: String(error) }
    }
    port.postMessage(result, result.blocks?.map(([, bytes]) => bytes.buffer))
  }
  if (port === globalThis) onmessage = ({ data }) => receive(data)
  else port.on('message', receive)
}
`
