/**
 * Host memory of a call that runs off the main thread. Meanwhile code of the caller may transfer it, for example to a
 * worker: Node-API neither prevents that nor keeps the memory alive. docs/memory.md says what follows for the caller.
 */
import { bytesPerElement, type HostData, plainView } from '../base/dtype.js'
import { bufferOf, byteLengthOf } from '../base/views.js'
import { isShared, refuseShrinking, refuseTransferred } from '../memory/host-memory.js'
import type { Operand } from '../memory/operand.js'
import { copyOnHost } from '../tensor/transfer.js'
import type { Descriptor } from './launch.js'
import type { Output } from './output.js'

/**
 * Largest operand that is copied, in bytes. A copy of that size takes a few microseconds, less than handing a call to
 * another thread does.
 */
const COPIED_BYTES = 64 * 1024

export class AsyncOperands {
  /** What the call reads and writes in place, by argument. */
  readonly #inPlace = new Map<string, ArrayBufferView>()
  /** Outputs that the call writes to a copy. */
  readonly #outputs = new Map<string, { readonly operand: Operand; readonly copy: Operand }>()

  /** @param descriptor the operands of the call, all on the host. Small ones are replaced by copies */
  constructor(private readonly descriptor: Descriptor) {}

  /** @throws LilyError ERR_LILY_ARGUMENT for memory that can shrink */
  input(slot: number, argument: string, operand: Operand | null): void {
    if (operand !== null) this.#take(slot, argument, operand, false)
  }

  /**
   * New memory needs nothing: the caller has it only once the call is done.
   *
   * @throws LilyError ERR_LILY_ARGUMENT for memory that can shrink
   */
  output(slot: number, argument: string, output: Output | null): void {
    if (output === null || output.isNew) return
    const { operand, accumulate } = output
    const copy = this.#take(slot, argument, operand, accumulate)
    if (copy !== null) this.#outputs.set(argument, { operand, copy })
  }

  /** Memory that a saved call keeps; the caller has it as the tensors of `saved`. */
  saved(slots: readonly number[]): void {
    const copies = new Map<ArrayBufferView, ArrayBufferView>()
    for (const slot of slots) {
      const memory = this.descriptor.memory[slot]
      if (!ArrayBuffer.isView(memory)) continue
      if (byteLengthOf(memory) > COPIED_BYTES) {
        this.#inPlace.set('saved', memory)
        continue
      }
      const copy = copies.get(memory) ?? (memory as HostData).slice()
      copies.set(memory, copy)
      this.descriptor.memory[slot] = copy
    }
  }

  /**
   * Writes the outputs that were copied, once the call is done.
   *
   * @throws LilyError ERR_LILY_ARGUMENT if memory was transferred meanwhile that the call used in place, or that is an
   *   output; no output that was copied has been written then
   */
  finish(): void {
    for (const [argument, memory] of this.#inPlace) refuseTransferred(argument, memory)
    for (const [argument, { operand }] of this.#outputs) refuseTransferred(argument, operand.memory as HostData)
    for (const { operand, copy } of this.#outputs.values()) writeRows(operand, copy)
  }

  /** Returns the copy that replaces an operand; null if the call uses the operand in place. */
  #take(slot: number, argument: string, operand: Operand, accumulate: boolean): Operand | null {
    const memory = operand.memory as HostData
    refuseShrinking(argument, memory)
    if (operand.byteLength === 0 || isShared(bufferOf(memory))) return null
    if (operand.rows * operand.columns * bytesPerElement(operand.dtype) > COPIED_BYTES) {
      this.#inPlace.set(argument, memory)
      return null
    }
    const copy = copyOnHost(operand)
    this.descriptor.operand(slot, copy, accumulate)
    return copy
  }
}

function writeRows({ memory, byteOffset, dtype, rows, columns, pitch }: Operand, copy: Operand): void {
  const to = plainView(dtype, memory as HostData)
  const from = copy.memory as HostData
  const start = byteOffset / bytesPerElement(dtype)
  for (let row = 0; row < rows; row++) to.set(from.subarray(row * columns, (row + 1) * columns), start + row * pitch)
}
