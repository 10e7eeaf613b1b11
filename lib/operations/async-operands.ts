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

/** The operands of one or several calls of the addon, which run one after the other. All are on the host. */
export class AsyncOperands {
  /** What the calls read and write in place. An argument may have several: `saved` keeps up to two blocks. */
  readonly #inPlace: [argument: string, memory: ArrayBufferView][] = []
  /** The copies of small operands. An operand of several calls has one, so that each call reads what the last one wrote. */
  readonly #copies = new Map<Operand, Operand>()
  /** Outputs that the calls write to a copy, by argument. */
  readonly #outputs = new Map<string, Operand>()

  /**
   * @param descriptor of the call; a copy replaces the operand in it
   * @throws LilyError ERR_LILY_ARGUMENT for memory that can shrink
   */
  input(descriptor: Descriptor, slot: number, argument: string, operand: Operand | null): void {
    if (operand !== null) this.#take(descriptor, slot, argument, operand, false)
  }

  /**
   * New memory needs nothing: the caller has it only once the call is done.
   *
   * @throws LilyError ERR_LILY_ARGUMENT for memory that can shrink
   */
  output(descriptor: Descriptor, slot: number, argument: string, output: Output | null): void {
    if (output === null || output.isNew) return
    const { operand, accumulate } = output
    if (this.#take(descriptor, slot, argument, operand, accumulate)) this.#outputs.set(argument, operand)
  }

  /** Memory that a saved call keeps; the caller has it as the tensors of `saved`. */
  saved({ memory }: Descriptor, slots: readonly number[]): void {
    const copies = new Map<ArrayBufferView, ArrayBufferView>()
    for (const slot of slots) {
      const kept = memory[slot]
      if (!ArrayBuffer.isView(kept)) continue
      if (byteLengthOf(kept) > COPIED_BYTES) {
        this.#inPlace.push(['saved', kept])
        continue
      }
      const copy = copies.get(kept) ?? (kept as HostData).slice()
      copies.set(kept, copy)
      memory[slot] = copy
    }
  }

  /**
   * Checks that the memory is still there, before a further call and after the last one.
   *
   * @throws LilyError ERR_LILY_ARGUMENT if memory was transferred meanwhile that a call uses in place, or that is an
   *   output
   */
  check(): void {
    for (const [argument, memory] of this.#inPlace) refuseTransferred(argument, memory)
    for (const [argument, { memory }] of this.#outputs) refuseTransferred(argument, memory as HostData)
  }

  /**
   * Writes the outputs that were copied, once the last call is done.
   *
   * @throws LilyError as check; no output that was copied has been written then
   */
  finish(): void {
    this.check()
    for (const operand of this.#outputs.values()) writeRows(operand, this.#copies.get(operand) as Operand)
  }

  /** Returns whether a copy replaces the operand; otherwise the call uses it in place. */
  #take(descriptor: Descriptor, slot: number, argument: string, operand: Operand, accumulate: boolean): boolean {
    const memory = operand.memory as HostData
    refuseShrinking(argument, memory)
    if (operand.byteLength === 0 || isShared(bufferOf(memory))) return false
    if (operand.rows * operand.columns * bytesPerElement(operand.dtype) > COPIED_BYTES) {
      this.#inPlace.push([argument, memory])
      return false
    }
    const copy = this.#copies.get(operand) ?? copyOnHost(operand)
    this.#copies.set(operand, copy)
    descriptor.operand(slot, copy, accumulate)
    return true
  }
}

function writeRows({ memory, byteOffset, dtype, rows, columns, pitch }: Operand, copy: Operand): void {
  const to = plainView(dtype, memory as HostData)
  const from = copy.memory as HostData
  const start = byteOffset / bytesPerElement(dtype)
  for (let row = 0; row < rows; row++) to.set(from.subarray(row * columns, (row + 1) * columns), start + row * pitch)
}
