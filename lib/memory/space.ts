/** Which memory may be the same, and where in it operands begin. */
import { addressOf, hasAliases } from './host-memory.js'
import { gpuBufferOf, isDeviceMemory, isHostMemory, type OperandMemory } from './operand-memory.js'

const DEVICE = Symbol('device')
const ALIASED = Symbol('aliased')

/**
 * What starts of memory are relative to: two starts can be compared if their space is the same. An ArrayBuffer is the
 * only object of its memory, unless an addon has made another or it is shared. So it is the space, and the start is the
 * byte offset in it; otherwise starts are addresses. Addresses of different devices can be compared, because CUDA's
 * unified virtual addressing gives every device a distinct range. A GPUBuffer is also the only object of its memory.
 */
export type Space = ArrayBufferLike | GPUBuffer | typeof DEVICE | typeof ALIASED

export function spaceOf(memory: OperandMemory): Space {
  if (!isHostMemory(memory)) return gpuBufferOf(memory) ?? DEVICE
  const buffer = memory.buffer
  return hasAliases(buffer) ? ALIASED : buffer
}

/** Start of memory in its space; see {@link Space}. */
export function startOf(memory: OperandMemory): number {
  if (typeof memory === 'bigint') return Number(memory)
  if (!isHostMemory(memory)) return isDeviceMemory(memory) ? memory.address : 0
  return hasAliases(memory.buffer) ? addressOf(memory) : memory.byteOffset
}
