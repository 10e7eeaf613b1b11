/**
 * Calls on the host off the main thread. Meanwhile code of the caller may transfer their memory, for example to a
 * worker, and Node-API neither prevents that nor keeps the memory alive: the call works on copies of all that is not in
 * shared memory, or it runs at once where copies would take longer. docs/memory.md says what follows for the caller.
 */
import { bytesPerElement, type HostData, plainView } from '../base/dtype.js'
import { bound, settled } from '../binding/errors.js'
import { native } from '../binding/native.js'
import { type Slot, slotAt } from '../binding/tables.js'
import { allocateOnHost } from '../memory/allocate.js'
import { isShared, refuseShrinking, refuseTransferred } from '../memory/host-memory.js'
import { layOutOnHost, Operand, type Part } from '../memory/operand.js'
import { copyOnHost } from '../tensor/transfer.js'
import { BACKWARD, BACKWARD_ROWS, type Call, encode, type Entry } from './call.js'
import { run, type Work } from './dispatch.js'
import type { Output } from './output.js'

/**
 * Largest operand that is always copied, in bytes. A copy of that size takes a few microseconds, less than handing a call to
 * another thread does.
 */
const SMALL_BYTES = 64 * 1024

/**
 * Smallest dimension of products that take longer than copies of their operands. For each element that is copied they make
 * at least a third as many multiply-adds, and two cores make about two hundred of them in the time in which one copies an
 * element to memory that is new to the process.
 */
const LEAST_COPIED = 512

/**
 * Runs work off the main thread, or at once.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for memory that can shrink, or if an output was transferred meanwhile
 * @throws LilyError ERR_LILY_OUT_OF_MEMORY
 */
export async function runOnThread(work: Work): Promise<void> {
  const { calls, draw } = work
  if (copiesTakeLonger(calls)) {
    run(work)
    return
  }
  const operands = new AsyncOperands()
  draw?.take()
  const starts = calls.map((call) => operands.take(call))
  // Before this one is done, another call may draw.
  draw?.advance()
  try {
    for (const start of starts) {
      operands.check()
      await settled(start())
    }
    operands.finish()
  } catch (cause) {
    draw?.undo()
    throw cause
  }
}

/**
 * Whether copies of the operands of calls would take longer than the calls.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for memory that can shrink
 */
function copiesTakeLonger(calls: readonly Call[]): boolean {
  let isLarge = false
  for (const { kind, operands } of calls) {
    for (const [i, entry] of operands.entries()) {
      if (entry === null || ('accumulate' in entry && entry.isNew)) continue
      const slot = slotAt(kind.table, i) as Slot
      const operand = 'accumulate' in entry ? entry.operand : entry
      const memory = operand.memory as HostData
      if (operand instanceof Operand) refuseShrinking(slot.name, memory)
      else if (!readsSaved(kind, slot)) continue
      const { byteLength } = operand instanceof Operand ? operand : memory
      isLarge ||= !isShared(memory.buffer) && byteLength > SMALL_BYTES
    }
  }
  if (!isLarge || native.copiesOperands) return false
  return Math.max(...calls.map(({ kind, problem }) => kind.least?.(problem) ?? 0)) < LEAST_COPIED
}

/** What forward keeps is new, and the caller has what backward reads of it as the tensors of `saved`. */
const readsSaved = (kind: Call['kind'], { use }: Slot) =>
  (kind === BACKWARD || kind === BACKWARD_ROWS) && use !== 'output'

/** The operands of one or several calls of the addon, which run one after the other. All are on the host. */
class AsyncOperands {
  /** An operand of several calls has one copy, so that each call reads what the last one wrote. */
  readonly #copies = new Map<Operand, Operand>()
  /** The copies of memory that a saved call keeps. */
  readonly #saved = new Map<HostData, HostData>()
  /** The arguments of outputs that the calls write to a copy. The calls may write several parts of one argument. */
  readonly #outputs = new Map<Operand, string>()

  /**
   * Takes the operands of a call.
   *
   * @returns a function that starts the call
   * @throws LilyError ERR_LILY_OUT_OF_MEMORY
   */
  take(call: Call): () => Promise<void> {
    const { kind } = call
    const operands = call.operands.map((entry, i) => this.#taken(kind, slotAt(kind.table, i) as Slot, entry))
    const encoded = encode({ ...call, operands })
    // Copies: other calls use the originals before this one starts.
    const [numbers, memory] = [encoded.numbers.slice(), encoded.memory.slice()]
    encoded.memory.fill(null)
    return () => bound(() => native.runAsync(numbers, ...memory))
  }

  /**
   * Checks that the outputs are still there, before a further call and after the last one.
   *
   * @throws LilyError ERR_LILY_ARGUMENT if an output was transferred meanwhile
   */
  check(): void {
    for (const [{ memory }, argument] of this.#outputs) refuseTransferred(argument, memory as HostData)
  }

  /**
   * Writes the outputs, once the last call is done.
   *
   * @throws LilyError as check; no output has been written then, unless it is in shared memory
   */
  finish(): void {
    this.check()
    for (const operand of this.#outputs.keys()) writeRows(operand, this.#copies.get(operand) as Operand)
  }

  #taken(kind: Call['kind'], slot: Slot, entry: Entry): Entry {
    if (entry === null) return null
    if ('accumulate' in entry) return this.#takenOutput(slot.name, entry)
    if (entry instanceof Operand) return this.#copyOf(entry, copyOnHost)
    return readsSaved(kind, slot) ? this.#savedPart(entry) : entry
  }

  #takenOutput(argument: string, output: Output): Output {
    // The caller has new memory only once the call is done.
    if (output.isNew) return output
    const { operand, accumulate } = output
    const copy = this.#copyOf(operand, accumulate ? copyOnHost : likeOnHost)
    if (copy === operand) return output
    this.#outputs.set(operand, argument)
    return output.in(copy)
  }

  #savedPart(part: Part): Part {
    const memory = part.memory as HostData
    if (isShared(memory.buffer)) return part
    const copy = this.#saved.get(memory) ?? memory.slice()
    this.#saved.set(memory, copy)
    return { ...part, memory: copy }
  }

  /** What stands for an operand: itself if it is in shared memory, which is neither transferred nor moved. */
  #copyOf(operand: Operand, copyTo: (operand: Operand) => Operand): Operand {
    if (operand.byteLength === 0 || isShared((operand.memory as HostData).buffer)) return operand
    const copy = this.#copies.get(operand) ?? copyTo(operand)
    this.#copies.set(operand, copy)
    return copy
  }
}

/** Memory for an operand whose old contents are not read. */
function likeOnHost({ dtype, rows, columns, shape }: Operand): Operand {
  return layOutOnHost('copy', allocateOnHost('copy', dtype, rows * columns), dtype, shape)
}

function writeRows({ memory, byteOffset, dtype, rows, columns, pitch }: Operand, copy: Operand): void {
  const to = plainView(dtype, memory as HostData)
  const from = copy.memory as HostData
  const start = byteOffset / bytesPerElement(dtype)
  if (pitch === columns) {
    to.set(from, start)
    return
  }
  for (let row = 0; row < rows; row++) to.set(from.subarray(row * columns, (row + 1) * columns), start + row * pitch)
}
