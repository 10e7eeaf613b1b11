/** Device memory of the package's: a block of the pool, which goes back when its last user lets go or is collected. */
import { LilyError } from '../base/errors.js'
import { fromBinding } from '../binding/errors.js'
import { type MemoryHandle, native } from '../binding/native.js'
import type { Device } from './device.js'
import type { StreamState } from './stream-state.js'

export class DeviceMemory {
  readonly handle: MemoryHandle
  /** A number: addresses have fewer than 53 bits. */
  readonly address: number
  #users = 1

  /** @param stream the stream it belongs to, whose work orders its life; one of the package's own */
  constructor(
    argument: string,
    readonly device: Device,
    readonly byteLength: number,
    readonly stream: StreamState,
  ) {
    const { handle } = stream
    if (handle === null) throw new Error('memory belongs to a stream of the package')
    try {
      this.handle = native.memoryAllocate(byteLength, handle)
    } catch (cause) {
      const error = fromBinding(cause)
      if (!(error instanceof LilyError)) throw error
      throw new LilyError(
        error.code,
        `${argument}: ${error.message}; dispose of tensors that are not needed, or call emptyCache()`,
        { argument, cause, cudaError: error.cudaError },
      )
    }
    this.address = Number(native.memoryAddress(this.handle))
  }

  /** One user more. */
  retain(): this {
    this.#users++
    return this
  }

  /** One user less. Work on it that is queued goes on: the memory is reused in the order of its stream. */
  release(): void {
    if (--this.#users === 0) native.memoryRelease(this.handle)
  }
}
