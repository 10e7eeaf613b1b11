/**
 * Numbers that stand for GPUBuffers. WebGPU has no addresses, but operands are compared by theirs: each buffer gets a range
 * of numbers that no other buffer of the process ever has.
 */
import { shared } from '../base/copies.js'

/** Above all addresses of processors and of CUDA, which have at most 49 bits. */
const FIRST = 2 ** 50

/** Ranges begin at multiples of this, the alignment of bindings. */
const ALIGNMENT = 256

/** All devices and all copies of the package count together. Numbers end at 2^53, after 8 PB of buffers. */
const counter = shared('gpuAddresses', () => ({ next: FIRST }))

/** The addresses of one device's buffers. */
export class Addresses {
  readonly #addresses = new WeakMap<GPUBuffer, number>()
  readonly #buffers = new Map<number, WeakRef<GPUBuffer>>()
  readonly #collected = new FinalizationRegistry<number>((address) => this.#buffers.delete(address))

  /** The address of a buffer, which it keeps. */
  of(buffer: GPUBuffer): number {
    const known = this.#addresses.get(buffer)
    if (known !== undefined) return known
    const address = counter.next
    counter.next += (Math.floor(buffer.size / ALIGNMENT) + 1) * ALIGNMENT
    this.#addresses.set(buffer, address)
    this.#buffers.set(address, new WeakRef(buffer))
    this.#collected.register(buffer, address)
    return address
  }

  /** The buffer with an address. Whoever has an operand with that address keeps the buffer alive. */
  bufferAt(address: number): GPUBuffer | undefined {
    return this.#buffers.get(address)?.deref()
  }
}
