import { project } from '../support/project.js'
import { findWasm } from './build.js'

/** Without shared memory operands lie elsewhere, and the Async forms differ. */
export default project('unshared', {
  needs: findWasm,
  env: { LILY_CPU_ISA: 'wasm' },
  setupFiles: ['test/wasm/unshared.ts'],
})
