/** The file of lily-kernels/webgpu in the place of device-buffer.ts: it has no CUDA devices. */
import { bufferKey, isOf } from '../base/copies.js'
import type { Operand } from '../memory/operand.js'

/** A buffer that the main package may have made; its operand is refused, because it is on another device. */
export class DeviceBuffer {
  static [Symbol.hasInstance](value: unknown): value is DeviceBuffer {
    return isOf(bufferKey, value)
  }

  [bufferKey](): Operand | null {
    return null
  }
}

export function bufferOperand(buffer: DeviceBuffer): Operand | null {
  return buffer[bufferKey]()
}
