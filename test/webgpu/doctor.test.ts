/** The self-test of `lily-kernels doctor` on a device of WebGPU. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { webGpu } from '../../cli/doctor/webgpu.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()

test('doctor computes on an adapter that is no software', { timeout: 300_000 }, async () => {
  const packaged = join(folder, 'node_modules', 'webgpu')
  mkdirSync(packaged, { recursive: true })
  writeFileSync(join(packaged, 'package.json'), '{ "name": "webgpu", "type": "module", "main": "index.js" }')
  // The adapter that there is, with a name of its own: that of Mesa would have no self-test.
  writeFileSync(
    join(packaged, 'index.js'),
    `import * as dawn from ${JSON.stringify(import.meta.resolve('webgpu'))}
     export const { globals } = dawn
     export function create(options) {
       const gpu = dawn.create(options)
       return { requestAdapter: async () => {
         const adapter = await gpu.requestAdapter()
         const info = { vendor: 'acme', architecture: '', device: '', description: '' }
         return { info, gpu, requestDevice: () => adapter.requestDevice() }
       } }
     }`,
  )
  expect(await webGpu([folder], 280)).toEqual({ available: true, name: 'acme', selfTest: { passed: true } })
})
