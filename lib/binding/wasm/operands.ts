/**
 * The numbers and the operands of one call in the memory of the module. Operands that lie elsewhere are copied in, and
 * outputs back; the module checks the call before (native/binding/reader.h).
 */
import { bytesOf, bytesPerElement } from '../../base/dtype.js'
import { classNameOf } from '../../base/views.js'
import type { Memory } from '../native.js'
import { access, dtype, slotFields } from '../slots.js'
import { type Slot, SLOT_NUMBERS, slotAt, tableOf } from '../tables.js'
import { bindingError } from './errors.js'
import type { Block, Module } from './module.js'
import type { Residents } from './residents.js'

/** Bytes that calls have copied to the memory of the module, and from it. */
export interface Copied {
  in: number
  out: number
}

/** Size of binding::Memory: an address, and a number of bytes at the next multiple of 8. */
const MEMORY_BYTES = 16

/** An address with the alignment of `offset`, for memory that is not in the module yet. */
const standIn = (offset: number) => 64 + (offset % 64)

/** Rows of bytes in memory. */
interface Rows {
  readonly byteOffset: number
  readonly count: number
  readonly rowBytes: number
  readonly pitchBytes: number
}

/** Rows in the memory of the module without gaps, which are copied back to where the caller has them. */
interface Output {
  readonly address: number
  readonly target: Uint8Array
  readonly rows: Rows
}

export class Operands {
  /** What the call allocated. */
  readonly #allocated: number[] = []
  /** What the call reads and writes of what it allocated. */
  readonly blocks: Block[] = []
  readonly #outputs: Output[] = []
  /** The address of the call, of its numbers, and of its operands. */
  readonly call: number
  readonly #numbers: number
  readonly #memory: number
  private readonly numbers: Float64Array

  constructor(
    readonly module: Module,
    private readonly residents: Residents,
    private readonly copied: Copied,
    numbers: Float64Array,
    private readonly memory: readonly Memory[],
  ) {
    if (classNameOf(numbers) !== 'Float64Array') {
      throw bindingError('ERR_LILY_ARGUMENT', 'the descriptor is not a Float64Array')
    }
    const count = numbers.byteLength / Float64Array.BYTES_PER_ELEMENT
    // The buffer of an empty array may be detached, and a view of a detached buffer cannot be made.
    this.numbers = count === 0 ? new Float64Array() : new Float64Array(numbers.buffer, numbers.byteOffset, count)
    const { callBytes } = module
    this.call = this.allocate('a call', callBytes + 8 * count + MEMORY_BYTES * memory.length)
    this.#numbers = this.call + callBytes
    this.#memory = this.#numbers + 8 * count
  }

  /** Whether the call has a list, which the module keeps for one call at a time. */
  get hasList(): boolean {
    return (tableOf(this.numbers[0])?.itemSlots.length ?? 0) > 0
  }

  /** Reads the call and checks it. Of its operands only those are copied that must not change meanwhile. */
  check(): void {
    this.#describe()
    this.#read('lily_wasm_read', this.call)
  }

  /** The packed size of the weight of a call. */
  packedBytes(): number {
    const { module } = this
    this.#describe()
    this.#read('lily_wasm_packed_bytes', module.scratch)
    return module.view.getUint32(module.scratch, true)
  }

  /** Copies the operands of a call that is checked to the module, unless they are there. */
  copyIn(): void {
    if (this.memory.map((_, slot) => this.#copyIn(slot)).includes(true)) this.#read('lily_wasm_read', this.call)
  }

  /** Copies the outputs back. */
  finish(): void {
    for (const { address, target, rows } of this.#outputs) {
      if (target.byteLength === 0) continue // transferred meanwhile: lib/operations/on-thread.ts reports it
      const byteLength = rows.count * rows.rowBytes
      copyRows(this.module.bytes(address, byteLength), withoutGaps(rows), target, rows)
      this.copied.out += byteLength
    }
  }

  /** Memory that the call reads and writes. */
  allocate(what: string, byteLength: number): number {
    const address = this.workspace(byteLength, what)
    this.blocks.push({ address, byteLength })
    return address
  }

  /** Memory that holds nothing before the call and nothing after it. */
  workspace(byteLength: number, what = 'a workspace'): number {
    const address = this.module.allocate(what, byteLength)
    this.#allocated.push(address)
    return address
  }

  /** Releases what the call allocated. */
  release(): void {
    for (const address of this.#allocated) this.module.release(address)
  }

  #read(name: 'lily_wasm_read' | 'lily_wasm_packed_bytes', result: number): void {
    this.module.read(name, this.#numbers, this.numbers.length, this.#memory, this.memory.length, result)
  }

  #describe(): void {
    const { module, numbers } = this
    module.bytes(this.#memory, MEMORY_BYTES * this.memory.length).fill(0)
    new Float64Array(module.memory.buffer, this.#numbers, numbers.length).set(numbers)
    for (const slot of this.memory.keys()) this.#place(slot)
  }

  /** Undefined if there is no such operation, which the module reports. */
  #slot(slot: number): Slot | undefined {
    const table = tableOf(this.numbers[0])
    return table && slotAt(table, slot)
  }

  /** The index of the first number of a slot. */
  #fieldsOf(slot: number): number {
    return this.numbers.length - (this.memory.length - slot) * SLOT_NUMBERS
  }

  #set(slot: number, address: number, byteLength: number): void {
    const { view } = this.module
    const at = this.#memory + slot * MEMORY_BYTES
    view.setUint32(at, address, true)
    view.setUint32(at + 8, byteLength >>> 0, true)
    view.setUint32(at + 12, Math.floor(byteLength / 2 ** 32), true)
  }

  /** Writes where an operand is: in the module, or nowhere yet. */
  #place(slot: number): void {
    const { numbers, residents } = this
    const at = this.#fieldsOf(slot)
    if (!(at >= 0) || numbers[at + slotFields.access] === access.none) return
    const array = this.memory[slot]
    if (classNameOf(array) === undefined) {
      this.#set(slot, standIn(0), -1) // which the module reports, unless something comes before it
      return
    }
    const view = array as ArrayBufferView
    if (this.#slot(slot)?.use === 'copy' && this.#copyRow(slot, at, view)) return
    const { buffer, byteOffset, byteLength } = view
    this.#set(slot, residents.has(buffer) ? byteOffset : standIn(byteOffset), byteLength)
  }

  /** Copies an operand of one row. False: it is empty, or the module refuses where it is and reads none of it. */
  #copyRow(slot: number, at: number, view: ArrayBufferView): boolean {
    const { module } = this
    const [byteOffset, rows, columns, , type] = this.#written(at)
    const byteLength = rows * columns * elementBytes(type)
    if (!(byteOffset >= 0 && byteLength > 0 && byteOffset + byteLength <= view.byteLength)) return false
    if ((view.byteOffset + byteOffset) % elementBytes(type) !== 0) return false
    const copy = this.allocate('a copy', byteLength)
    module.bytes(copy, byteLength).set(bytesOf(view).subarray(byteOffset, byteOffset + byteLength))
    this.#set(slot, copy, byteLength)
    this.#written(at)[slotFields.byteOffset] = 0
    return true
  }

  /** The numbers of a slot in the memory of the module, until it grows. */
  #written(at: number): Float64Array {
    return new Float64Array(this.module.memory.buffer, this.#numbers + 8 * at, SLOT_NUMBERS)
  }

  /** Copies an operand in. Returns whether it did. */
  #copyIn(slot: number): boolean {
    const { numbers, module } = this
    const at = this.#fieldsOf(slot)
    const how = numbers[at + slotFields.access]
    if (how === access.none || this.#slot(slot)?.use === 'copy') return false
    const array = this.memory[slot] as ArrayBufferView
    if (this.residents.has(array.buffer)) return false
    const [byteOffset, rows, columns, pitch, type] = numbers.subarray(at, at + SLOT_NUMBERS)
    const bytes = elementBytes(type)
    const rowBytes = columns * bytes
    const given: Rows = { byteOffset, count: rows, rowBytes, pitchBytes: rows === 1 ? rowBytes : pitch * bytes }
    const byteLength = rows * rowBytes
    const address = this.allocate(this.#slot(slot)?.name ?? '', byteLength)
    this.#set(slot, address, byteLength)
    const fields = this.#written(at)
    fields[slotFields.byteOffset] = 0
    fields[slotFields.pitch] = columns
    if (byteLength === 0) return true
    const target = bytesOf(array)
    if (how !== access.write) {
      copyRows(target, given, module.bytes(address, byteLength), withoutGaps(given))
      this.copied.in += byteLength
    }
    if (how !== access.read) this.#outputs.push({ address, target, rows: given })
    return true
  }
}

function elementBytes(type: number): number {
  if (type === dtype.uint8) return 1
  return type === dtype.float32 || type === dtype.int32 ? 4 : bytesPerElement('bfloat16')
}

/** The same rows one after the other. */
function withoutGaps({ count, rowBytes }: Rows): Rows {
  return { byteOffset: 0, count, rowBytes, pitchBytes: rowBytes }
}

function copyRows(source: Uint8Array, from: Rows, target: Uint8Array, to: Rows): void {
  const { count, rowBytes } = from
  // Without gaps one call copies all rows.
  const isDense = count === 1 || (from.pitchBytes === rowBytes && to.pitchBytes === rowBytes)
  const [runs, runBytes] = isDense ? [1, count * rowBytes] : [count, rowBytes]
  for (let run = 0; run < runs; run++) {
    const begin = from.byteOffset + run * from.pitchBytes
    target.set(source.subarray(begin, begin + runBytes), to.byteOffset + run * to.pitchBytes)
  }
}
