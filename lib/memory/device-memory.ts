/** Device memory that this package allocates. */
import { LilyError } from '../base/errors.js'
import { fromBinding } from '../binding/errors.js'
import { bindingOf, webGpuBinding } from '../binding/devices.js'
import { type DeviceBinding, type MemoryHandle, native } from '../binding/native.js'
import type { Device } from './device.js'
import type { StreamState } from './stream-state.js'

/**
 * A block of the package's memory pool, with a reference count. The block returns to the pool when the count drops to
 * 0, or when the object is garbage-collected.
 */
export class DeviceMemory {
  readonly handle: MemoryHandle
  /** Device address on CUDA, which fits a number: addresses have fewer than 53 bits. The memory of a GPUDevice has none. */
  readonly address: number
  /** The memory on a GPUDevice. */
  readonly buffer: GPUBuffer | null
  readonly #binding: DeviceBinding
  #references = 1

  /**
   * @param argument name of the operand that needs the memory, for the error message
   * @param stream a stream of the package, to which the memory belongs: allocation and release are ordered in it
   */
  constructor(
    argument: string,
    readonly device: Device,
    readonly byteLength: number,
    readonly stream: StreamState,
  ) {
    const { handle } = stream
    if (handle === null) throw new Error('device memory must belong to a stream of the package')
    try {
      this.#binding = bindingOf(device)
      this.handle = this.#binding.memoryAllocate(byteLength, handle)
    } catch (cause) {
      const error = fromBinding(cause) as LilyError
      // A lost device has no memory, however much is disposed of.
      if (error.code !== 'ERR_LILY_OUT_OF_MEMORY') throw error
      throw new LilyError(
        error.code,
        `${argument}: ${error.message}; dispose of unused tensors, or call emptyCache()`,
        { argument, cause, cudaError: error.cudaError },
      )
    }
    this.buffer = device.type === 'webgpu' ? webGpuBinding(argument, device.id).bufferOf(this.handle) : null
    this.address = this.buffer === null ? Number(native.memoryAddress(this.handle)) : 0
  }

  /** Adds a reference. */
  retain(): this {
    this.#references++
    return this
  }

  /**
   * Removes a reference. Enqueued work may still use the memory: its next use is ordered after that work, in its
   * stream.
   */
  release(): void {
    if (--this.#references === 0) this.#binding.memoryRelease(this.handle)
  }
}
