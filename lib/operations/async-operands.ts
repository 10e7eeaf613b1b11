/**
 * Host memory of a call that runs off the main thread. Meanwhile code of the caller may transfer it, for example to a
 * worker: Node-API neither prevents that nor keeps the memory alive. docs/memory.md says what follows for the caller.
 */
import { bytesPerElement, type HostData, plainView } from '../base/dtype.js'
import { bound } from '../binding/errors.js'
import { native } from '../binding/native.js'
import { type Slot, slotAt } from '../binding/tables.js'
import { isShared, refuseShrinking, refuseTransferred } from '../memory/host-memory.js'
import { Operand, type Part } from '../memory/operand.js'
import { copyOnHost } from '../tensor/transfer.js'
import { BACKWARD, BACKWARD_ROWS, type Call, encode, type Entry } from './call.js'

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
  /** The copies of memory that a saved call keeps. */
  readonly #saved = new Map<HostData, HostData>()
  /** The arguments of outputs that the calls write to a copy. The calls may write several parts of one argument. */
  readonly #outputs = new Map<Operand, string>()

  /**
   * Takes the operands of a call.
   *
   * @returns a function that starts the call
   * @throws LilyError ERR_LILY_ARGUMENT for memory that can shrink
   */
  take(call: Call): () => Promise<void> {
    const { kind } = call
    const isBackward = kind === BACKWARD || kind === BACKWARD_ROWS
    const operands = call.operands.map((entry, i) => this.#taken(slotAt(kind.table, i) as Slot, entry, isBackward))
    const encoded = encode({ ...call, operands })
    // Copies: other calls use the originals before this one starts.
    const [numbers, memory] = [encoded.numbers.slice(), encoded.memory.slice()]
    encoded.memory.fill(null)
    return () => bound(() => native.runAsync(numbers, ...memory))
  }

  /**
   * Checks that the memory is still there, before a further call and after the last one.
   *
   * @throws LilyError ERR_LILY_ARGUMENT if memory was transferred meanwhile that a call uses in place, or that is an
   *   output
   */
  check(): void {
    for (const [argument, memory] of this.#inPlace) refuseTransferred(argument, memory)
    for (const [{ memory }, argument] of this.#outputs) refuseTransferred(argument, memory as HostData)
  }

  /**
   * Writes the outputs that were copied, once the last call is done.
   *
   * @throws LilyError as check; no output that was copied has been written then
   */
  finish(): void {
    this.check()
    for (const operand of this.#outputs.keys()) writeRows(operand, this.#copies.get(operand) as Operand)
  }

  #taken({ name: argument, use }: Slot, entry: Entry, isBackward: boolean): Entry {
    if (entry === null) return null
    if ('accumulate' in entry) {
      // New memory needs nothing: the caller has it only once the call is done.
      if (entry.isNew) return entry
      const copy = this.#copyOf(argument, entry.operand)
      if (copy === null) return entry
      this.#outputs.set(entry.operand, argument)
      return entry.in(copy)
    }
    if (entry instanceof Operand) return this.#copyOf(argument, entry) ?? entry
    // What forward keeps is new, and the caller has what backward reads of it as the tensors of `saved`.
    return isBackward && use !== 'output' ? this.#savedPart(entry) : entry
  }

  #savedPart(part: Part): Part {
    const memory = part.memory as HostData
    if (memory.byteLength > COPIED_BYTES) {
      this.#inPlace.push(['saved', memory])
      return part
    }
    const copy = this.#saved.get(memory) ?? memory.slice()
    this.#saved.set(memory, copy)
    return { ...part, memory: copy }
  }

  /** The copy that replaces an operand; null: the call uses it in place. */
  #copyOf(argument: string, operand: Operand): Operand | null {
    const memory = operand.memory as HostData
    refuseShrinking(argument, memory)
    if (operand.byteLength === 0 || isShared(memory.buffer)) return null
    if (operand.rows * operand.columns * bytesPerElement(operand.dtype) > COPIED_BYTES) {
      this.#inPlace.push([argument, memory])
      return null
    }
    const copy = this.#copies.get(operand) ?? copyOnHost(operand)
    this.#copies.set(operand, copy)
    return copy
  }
}

function writeRows({ memory, byteOffset, dtype, rows, columns, pitch }: Operand, copy: Operand): void {
  const to = plainView(dtype, memory as HostData)
  const from = copy.memory as HostData
  const start = byteOffset / bytesPerElement(dtype)
  for (let row = 0; row < rows; row++) to.set(from.subarray(row * columns, (row + 1) * columns), start + row * pitch)
}
