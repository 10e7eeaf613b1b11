/** WebAssembly in this process, with its threads, whether or not it runs in place of the addon. */
import { isBuild, loadModule } from '../../lib/binding/wasm/load.js'
import { wasmNative } from '../../lib/binding/wasm/native.js'
import { nodeHost } from '../../lib/binding/wasm/node-host.js'
import type { Diagnosis } from './diagnosis.js'

const MILLISECONDS = 10_000

/** A thread that writes to shared memory, as the pool's threads do. */
const SCRIPT = `
const { parentPort } = require('node:worker_threads')
parentPort.once('message', (memory) => {
  Atomics.store(new Int32Array(memory.buffer), 0, 1)
  parentPort.postMessage('done')
})
`

export async function webAssembly(): Promise<Diagnosis['webassembly']> {
  const isa = process.env.LILY_CPU_ISA
  try {
    const binding = wasmNative(loadModule(nodeHost, isBuild(isa) ? isa : null), nodeHost, '')
    const [{ reason, devices }] = binding.backends()
    if (devices.length === 0) return { available: false, reason: reason ?? 'it is not available' }
    const [{ detail, parallelism }] = devices
    // The Cholesky factor of A A^T for A = [3 4; 0 5], in the module and on its threads.
    const factor = new Float64Array(4)
    binding.gramFactor(new Float64Array([3, 4, 0, 5]), 2, 2, factor)
    const found = [factor[0], factor[2], factor[3]]
    const selfTest =
      String(found) === '5,4,3'
        ? { passed: true }
        : { passed: false, reason: `a factor is ${String(found)}, expected 5,4,3` }
    const refusal = await threadRefusal()
    if (refusal !== null) return { available: true, simd: detail, threads: 1, reason: refusal, selfTest }
    return { available: true, simd: detail, threads: parallelism, ...(parallelism === 1 && one()), selfTest }
  } catch (error) {
    return { available: false, reason: error instanceof Error ? error.message : String(error) }
  }
}

/** Why a call has no other thread than the calling one. */
const one = () => ({
  reason: (process.env.LILY_NUM_THREADS ?? '') === '' ? 'this process has one processor' : 'LILY_NUM_THREADS=1',
})

/** Why no thread can be started; null: one was. */
function threadRefusal(): Promise<string | null> {
  return new Promise((resolve) => {
    try {
      const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true })
      const thread = nodeHost.start(SCRIPT)
      const timer = setTimeout(() => resolve('a thread did not answer'), MILLISECONDS)
      thread.onMessage(() => {
        clearTimeout(timer)
        resolve(new Int32Array(memory.buffer)[0] === 1 ? null : 'threads do not share memory')
      })
      thread.onEnd((reason) => {
        clearTimeout(timer)
        resolve(`a thread does not start (${reason})`)
      })
      thread.post(memory)
    } catch (error) {
      resolve(`threads do not start (${error instanceof Error ? error.message : String(error)})`)
    }
  })
}
