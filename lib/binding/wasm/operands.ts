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

/** An output that is written back. */
interface Output {
  readonly address: number
  readonly target: Uint8Array
  readonly start: number
  readonly rows: number
  readonly rowBytes: number
  readonly pitchBytes: number
}

/** 'none': the call reads and writes nothing of it. */
type Access = 'none' | 'read' | 'write' | 'update'

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

  /**
   * Writes a lily_matrix of an operand, whose numbers stand from `field` on.
   *
   * @param types the types that it may have
   */
  matrix(
    address: number,
    name: string,
    memory: Memory | undefined,
    numbers: Float64Array,
    field: number,
    rows: number,
    columns: number,
    access: 'none' | 'read' | 'output',
    types: readonly number[],
  ): void {
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
    const offset = whole('byteOffset', numbers[field + slotFields.byteOffset])
    const how: Access = access !== 'output' ? access : accumulate ? 'update' : 'write'
    const found = this.#place(
      name,
      memory,
      offset,
      rows,
      columns * bytes,
      rows === 1 ? columns * bytes : pitch * bytes,
      bytes,
      how,
    )
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
    return this.#place(name, memory, byteOffset, 1, count * bytes, count * bytes, bytes, access).address
  }

  #place(
    name: string,
    memory: Memory | undefined,
    byteOffset: number,
    rows: number,
    rowBytes: number,
    pitchBytes: number,
    alignment: number,
    access: Access,
  ): { address: number; pitchBytes: number } {
    if (typeof memory !== 'object' || memory === null || classNameOf(memory) === undefined) {
      throw bindingError('ERR_LILY_ARGUMENT', `${name} is not a typed array`)
    }
    const array = memory as ArrayBufferView
    const extent = rows === 0 || rowBytes === 0 ? 0 : (rows - 1) * pitchBytes + rowBytes
    const given = byteLengthOf(array)
    if (extent < 0 || byteOffset < 0 || byteOffset > given || extent > given - byteOffset) {
      throw bindingError('ERR_LILY_SHAPE', `${name} has no ${extent} bytes from offset ${byteOffset}: it has ${given}`)
    }
    const start = byteOffsetOf(array) + byteOffset
    if (start % alignment !== 0) {
      throw bindingError('ERR_LILY_ARGUMENT', `${name} must begin at a multiple of ${alignment} bytes`)
    }
    if (this.residents.has(bufferOf(array))) return { address: start, pitchBytes }
    if (access === 'none') return { address: this.module.scratch, pitchBytes: rowBytes }
    const address = this.allocate(name, rows * rowBytes)
    if (extent === 0) return { address, pitchBytes: rowBytes }
    const bytes = bytesOf(array)
    if (access !== 'write') {
      const target = this.module.bytes(address, rows * rowBytes)
      if (pitchBytes === rowBytes || rows === 1) {
        target.set(bytes.subarray(byteOffset, byteOffset + rows * rowBytes))
      } else {
        for (let row = 0; row < rows; row++) {
          const from = byteOffset + row * pitchBytes
          target.set(bytes.subarray(from, from + rowBytes), row * rowBytes)
        }
      }
      this.copied.in += rows * rowBytes
    }
    if (access !== 'read') {
      this.#outputs.push({ address, target: bytes, start: byteOffset, rows, rowBytes, pitchBytes })
    }
    return { address, pitchBytes: rowBytes }
  }

  /** Copies the outputs back. */
  finish(): void {
    for (const { address, target, start, rows, rowBytes, pitchBytes } of this.#outputs) {
      if (byteLengthOf(target) === 0) continue // transferred meanwhile: lib/operations/async-operands.ts reports it
      const source = this.module.bytes(address, rows * rowBytes)
      if (pitchBytes === rowBytes || rows === 1) {
        target.set(source, start)
      } else {
        for (let row = 0; row < rows; row++) {
          target.set(source.subarray(row * rowBytes, (row + 1) * rowBytes), start + row * pitchBytes)
        }
      }
      this.copied.out += rows * rowBytes
    }
  }

  /** Releases what the call allocated. */
  release(): void {
    for (const address of this.#allocated) this.module.release(address)
  }
}

/** The index of a slot's first number in a descriptor. */
export function slotField(fields: number, slot: number): number {
  return fields + slot * lengths.slotFields
}
