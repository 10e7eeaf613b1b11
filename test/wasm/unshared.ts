/** A setup file of vitest: the backend is WebAssembly without shared memory, as in a page that is not isolated. */
import { vi } from 'vitest'
import { loadModule } from '../../lib/binding/wasm/load.js'
import { wasmNative } from '../../lib/binding/wasm/native.js'
import { nodeHost } from '../../lib/binding/wasm/node-host.js'

vi.mock('../../lib/binding/load.js', () => ({
  loadBinding: () => {
    const host = { ...nodeHost, sharesMemory: false }
    return wasmNative(loadModule(host, 'wasm'), host, 'a test without shared memory')
  },
}))
