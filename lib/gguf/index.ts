/**
 * LoRA adapters of llama.cpp: GGUF files, which node-llama-cpp loads.
 *
 * @module lily-kernels/gguf
 * @packageDocumentation
 */
import { registerHost } from '../binding/host.js'

export type { GgufBase } from './architectures.js'
export { loadGguf, type LoadGgufOptions } from './load.js'
export { ggufFile, type GgufOptions, saveGguf } from './save.js'

registerHost()
