/** What the projects of WebAssembly require. */
import { existsSync } from 'node:fs'
import { path } from '../support/project.js'

export const findWasm = () =>
  existsSync(path('build/wasm/wasm.wasm')) ? {} : 'WebAssembly is not built; npm run build:wasm says why'
