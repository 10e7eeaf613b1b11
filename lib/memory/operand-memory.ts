/** The memory of an operand, which is of one of four kinds. */
import type { HostData } from '../base/dtype.js'
import type { Memory } from '../binding/native.js'
import type { DeviceMemory } from './device-memory.js'

/**
 * Memory of an operand: a view of host memory, device memory of the package, the address of foreign memory of CUDA, or a
 * buffer of a GPUDevice.
 */
export type OperandMemory = HostData | DeviceMemory | bigint | GPUBuffer

export function isHostMemory(memory: OperandMemory): memory is HostData {
  return ArrayBuffer.isView(memory)
}

/** Whether memory is device memory that this package allocated. */
export function isDeviceMemory(memory: OperandMemory): memory is DeviceMemory {
  return typeof memory === 'object' && !isHostMemory(memory) && 'handle' in memory
}

/** The buffer of memory on a GPUDevice; null for all other memory. */
export function gpuBufferOf(memory: OperandMemory): GPUBuffer | null {
  if (typeof memory === 'bigint' || isHostMemory(memory)) return null
  return isDeviceMemory(memory) ? memory.buffer : memory
}

/** Memory in the form that the addon reads. */
export function boundMemory(memory: OperandMemory): Memory {
  return isDeviceMemory(memory) ? memory.handle : memory
}
