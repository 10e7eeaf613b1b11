import { project } from '../support/project.js'
import { findWasm } from './build.js'

export default project('wasm', { needs: findWasm, env: { LILY_CPU_ISA: 'wasm' } })
