/**
 * The file of lily-kernels/webgpu in the place of space.ts: calls write buffers of a GPUDevice only, each of which is the only
 * object of its memory.
 */
import { bufferOf } from '../base/views.js'
import { gpuBufferOf, type OperandMemory } from './operand-memory.js'
import type * as all from './space.js'

export const exchangedCount: typeof all.exchangedCount = () => 0
export const spaceOf: typeof all.spaceOf = (memory: OperandMemory) =>
  gpuBufferOf(memory) ?? bufferOf(memory as ArrayBufferView)
export const startOf: typeof all.startOf = () => 0
