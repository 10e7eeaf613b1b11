/** Allocates memory for results and workspaces. */
import { bytesPerElement, type DType, type HostData, viewOf } from '../base/dtype.js'
import { LilyError } from '../base/errors.js'
import { native } from '../binding/native.js'
import type { DeviceMemory } from './device-memory.js'
import { layOutOnDevice, layOutOnHost, type Operand } from './operand.js'
import type { Placement } from './placement.js'

/**
 * Allocates a contiguous tensor. Its contents are undefined, so the caller must write all of it.
 *
 * @param placement the placement of the call that writes it; null allocates host memory
 */
export function newOperand(
  argument: string,
  dtype: DType,
  shape: readonly number[],
  placement: Placement | null,
): Operand {
  let elements = 1
  for (const size of shape) elements *= size
  if (placement === null) return layOutOnHost(argument, allocateOnHost(argument, dtype, elements), dtype, shape)
  const memory = placement.allocate(argument, elements * bytesPerElement(dtype))
  return layOutOnDevice(argument, memory, 0, dtype, shape)
}

/**
 * Allocates memory for `elements` elements. Its contents are undefined.
 *
 * @param placement null allocates host memory
 */
export function allocate(
  argument: string,
  dtype: DType,
  elements: number,
  placement: Placement | null,
): HostData | DeviceMemory {
  if (placement === null) return allocateOnHost(argument, dtype, elements)
  return placement.allocate(argument, elements * bytesPerElement(dtype))
}

/** Allocates host memory for `elements` elements. Its contents are undefined. */
export function allocateOnHost(argument: string, dtype: DType, elements: number): HostData {
  const bytes = elements * bytesPerElement(dtype)
  try {
    const block = native.allocateHost?.(bytes) ?? null
    if (block !== null) return viewOf(dtype, block.buffer, block.byteOffset, elements)
    return dtype === 'float32' ? new Float32Array(elements) : viewOf(dtype, new ArrayBuffer(bytes), 0, elements)
  } catch (cause) {
    throw new LilyError('ERR_LILY_OUT_OF_MEMORY', `${argument}: allocation of ${bytes} bytes of host memory failed`, {
      argument,
      cause,
    })
  }
}
