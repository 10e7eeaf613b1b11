/**
 * Memory of the module that typed arrays of JavaScript lie in, so that calls need not copy them.
 *
 * Each block gets a SharedArrayBuffer object of its own over the memory of the module: a structured clone of one is
 * another object over the same bytes. Every typed array over the block, including any the caller creates, refers to
 * that object, so the block is free once the object is garbage-collected. A structured clone that the caller makes does
 * not count.
 */
import type { Binding } from '../native.js'
import type { Module } from './module.js'

/**
 * Bytes that the blocks may have together. The garbage collector does not see them, so without a limit they could fill the
 * memory.
 */
const MOST_BYTES = 512 * 1024 * 1024

export class Residents {
  readonly #buffers = new WeakSet<ArrayBufferLike>()
  readonly #registry: FinalizationRegistry<{ readonly address: number; readonly byteLength: number }>
  #bytes = 0

  constructor(private readonly module: Module) {
    this.#registry = new FinalizationRegistry(({ address, byteLength }) => {
      this.module.release(address)
      this.#bytes -= byteLength
    })
  }

  /** Whether a buffer is one of a block. Offsets in it are addresses. */
  has(buffer: ArrayBufferLike): boolean {
    return this.#buffers.has(buffer)
  }

  /** A new block; null: in the module there is no memory for it. */
  allocate(byteLength: number): ReturnType<NonNullable<Binding['allocateHost']>> {
    if (!this.module.isShared || this.#bytes + byteLength > MOST_BYTES) return null
    const address = this.module.tryAllocate(byteLength)
    if (address === null) return null
    const buffer = structuredClone(this.module.memory.buffer)
    this.#buffers.add(buffer)
    this.#registry.register(buffer, { address, byteLength })
    this.#bytes += byteLength
    return { buffer, byteOffset: address }
  }
}
