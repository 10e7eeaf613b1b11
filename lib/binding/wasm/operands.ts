/** The operands of one call in the memory of the module. Those that lie elsewhere are copied in, and outputs back. */
import { bytesOf } from '../../base/dtype.js'
import { bufferOf, byteLengthOf, byteOffsetOf, classNameOf } from '../../base/views.js'
import { slotFields, lengths } from '../descriptor.js'
import type { Memory } from '../native.js'
import { dtype as dtypes, matrixStruct } from './abi.js'
import { bindingError } from './errors.js'
import type { Block, Module } from './module.js'
import type { Residents } from './residents.js'

/** Bytes that calls have copied to the memory of the module, and from it. */
export interface Copied {
  in: number
  out: number
}

/** The largest sizes; no product of these overflows the whole numbers of a double. */
const MAX_BYTES = 2 ** 40

/** Bytes of an element; 0 for an unknown type. */
export function elementBytes(type: number): number {
  if (type === dtypes.float32) return 4
  return type === dtypes.bfloat16 || type === dtypes.float16 ? 2 : 0
}

/** @throws an error unless a number of the descriptor is whole */
export function whole(name: string, value: number | undefined): number {
  if (Number.isSafeInteger(value)) return value as number
  throw bindingError('ERR_LILY_ARGUMENT', `${name} is not a whole number`)
}

/** 'none': the call reads and writes nothing of it. */
type Access = 'none' | 'read' | 'write' | 'update'

/** The access to a matrix; the descriptor says whether an output is accumulated into. */
export type MatrixAccess = 'none' | 'read' | 'output'

/** A matrix among the operands of a call. */
interface MatrixOperand {
  readonly name: string
  readonly memory: Memory | undefined
  readonly numbers: Float64Array
  /** The index of its first number. */
  readonly field: number
  readonly rows: number
  readonly columns: number
  readonly access: MatrixAccess
  /** The types that it may have. */
  readonly types: readonly number[]
}

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

  constructor(
    readonly module: Module,
    private readonly residents: Residents,
    private readonly copied: Copied,
  ) {}

  /** Memory for something other than an operand. */
  allocate(what: string, byteLength: number): number {
    const address = this.module.allocate(what, byteLength)
    this.#allocated.push(address)
    this.blocks.push({ address, byteLength })
    return address
  }

  /** Memory that holds nothing before the call and nothing after it. */
  workspace(byteLength: number): number {
    const address = this.module.allocate('a workspace', byteLength)
    this.#allocated.push(address)
    return address
  }

  /** A struct, filled with zeros. */
  struct(byteLength: number): number {
    const address = this.allocate('a call', byteLength)
    this.module.bytes(address, byteLength).fill(0)
    return address
  }

  /** Writes an int64 of a struct. */
  int64(address: number, value: number): void {
    const { view } = this.module
    view.setUint32(address, value >>> 0, true)
    view.setInt32(address + 4, Math.floor(value / 2 ** 32), true)
  }

  int32(address: number, value: number): void {
    this.module.view.setInt32(address, value, true)
  }

  /** Writes the lily_matrix of an operand. */
  matrix(address: number, { name, memory, numbers, field, rows, columns, access, types }: MatrixOperand): void {
    const pitch = whole('pitch', numbers[field + slotFields.pitch])
    const type = whole('dtype', numbers[field + slotFields.dtype])
    const bytes = elementBytes(type)
    if (bytes === 0) throw bindingError('ERR_LILY_DTYPE', `${name} has an unknown dtype`)
    const extent = rows === 0 || columns === 0 ? 0 : ((rows - 1) * pitch + columns) * bytes
    if (!(extent <= MAX_BYTES) || pitch > MAX_BYTES || (pitch < columns && rows > 1)) {
      throw bindingError(
        'ERR_LILY_SHAPE',
        `${name} cannot have ${rows} rows of ${columns} elements with pitch ${pitch}`,
      )
    }
    const accumulate = numbers[field + slotFields.accumulate] !== 0
    const byteOffset = whole('byteOffset', numbers[field + slotFields.byteOffset])
    const rowBytes = columns * bytes
    const given: Rows = { byteOffset, count: rows, rowBytes, pitchBytes: rows === 1 ? rowBytes : pitch * bytes }
    const how: Access = access !== 'output' ? access : accumulate ? 'update' : 'write'
    const found = this.#place(name, memory, given, bytes, how)
    if (!types.includes(type)) {
      throw bindingError('ERR_LILY_DTYPE', `${name} has another dtype than the call gives its operands`)
    }
    this.int32(address + matrixStruct.data, found.address)
    this.int64(address + matrixStruct.pitch, Math.max(found.pitchBytes / bytes, columns))
    this.int32(address + matrixStruct.dtype, type)
    this.int32(address + matrixStruct.accumulate, accumulate ? 1 : 0)
  }

  /** The address of `count` contiguous elements. */
  array(
    name: string,
    memory: Memory | undefined,
    byteOffset: number,
    count: number,
    bytes: number,
    access: Access,
  ): number {
    if (!(count * bytes <= MAX_BYTES)) throw bindingError('ERR_LILY_SHAPE', `${name} cannot have ${count} elements`)
    const rowBytes = count * bytes
    const given: Rows = { byteOffset, count: 1, rowBytes, pitchBytes: rowBytes }
    return this.#place(name, memory, given, bytes, access).address
  }

  /** Where the module has the rows: in place, or a copy without gaps. */
  #place(
    name: string,
    memory: Memory | undefined,
    rows: Rows,
    alignment: number,
    access: Access,
  ): { address: number; pitchBytes: number } {
    const array = checkedArray(name, memory, rows, alignment)
    const { byteOffset, count, rowBytes, pitchBytes } = rows
    if (this.residents.has(bufferOf(array))) return { address: byteOffsetOf(array) + byteOffset, pitchBytes }
    if (access === 'none') return { address: this.module.scratch, pitchBytes: rowBytes }
    const address = this.allocate(name, count * rowBytes)
    if (extentOf(rows) === 0) return { address, pitchBytes: rowBytes }
    const bytes = bytesOf(array)
    if (access !== 'write') {
      copyRows(bytes, rows, this.module.bytes(address, count * rowBytes), withoutGaps(rows))
      this.copied.in += count * rowBytes
    }
    if (access !== 'read') this.#outputs.push({ address, target: bytes, rows })
    return { address, pitchBytes: rowBytes }
  }

  /** Copies the outputs back. */
  finish(): void {
    for (const { address, target, rows } of this.#outputs) {
      if (byteLengthOf(target) === 0) continue // transferred meanwhile: lib/operations/async-operands.ts reports it
      const byteLength = rows.count * rows.rowBytes
      copyRows(this.module.bytes(address, byteLength), withoutGaps(rows), target, rows)
      this.copied.out += byteLength
    }
  }

  /** Releases what the call allocated. */
  release(): void {
    for (const address of this.#allocated) this.module.release(address)
  }
}

/** Bytes from the start of the first row to the end of the last. */
function extentOf({ count, rowBytes, pitchBytes }: Rows): number {
  return count === 0 || rowBytes === 0 ? 0 : (count - 1) * pitchBytes + rowBytes
}

/** @throws an error unless the memory is a typed array that holds the rows, from a multiple of `alignment` on */
function checkedArray(name: string, memory: Memory | undefined, rows: Rows, alignment: number): ArrayBufferView {
  if (typeof memory !== 'object' || memory === null || classNameOf(memory) === undefined) {
    throw bindingError('ERR_LILY_ARGUMENT', `${name} is not a typed array`)
  }
  const array = memory as ArrayBufferView
  const { byteOffset } = rows
  const [extent, given] = [extentOf(rows), byteLengthOf(array)]
  if (extent < 0 || byteOffset < 0 || byteOffset > given || extent > given - byteOffset) {
    throw bindingError('ERR_LILY_SHAPE', `${name} has no ${extent} bytes from offset ${byteOffset}: it has ${given}`)
  }
  if ((byteOffsetOf(array) + byteOffset) % alignment !== 0) {
    throw bindingError('ERR_LILY_ARGUMENT', `${name} must begin at a multiple of ${alignment} bytes`)
  }
  return array
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

/** The index of a slot's first number in a descriptor. */
export function slotField(fields: number, slot: number): number {
  return fields + slot * lengths.slotFields
}
