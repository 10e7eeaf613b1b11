/** Reads the header of a GGUF file. Every length is compared with the size of the file before anything is allocated. */
import { checkpointError, DAMAGED, quote } from '../checkpoint/errors.js'
import { decodeUtf8 } from '../checkpoint/json.js'
import { BLOCK_BYTES, fill, type OpenFile } from '../checkpoint/open-file.js'
import {
  alignUp,
  DEFAULT_ALIGNMENT,
  KEYS,
  MAGIC,
  MAX_DIMENSIONS,
  TENSOR_TYPES,
  type TensorType,
  VALUE,
  VALUE_BYTES,
} from './format.js'

/** A tensor of a file. */
export interface GgufTensor {
  readonly type: TensorType
  /** Outermost first. */
  readonly shape: readonly number[]
  /** First byte in the file. */
  readonly begin: number
  readonly end: number
}

export interface GgufHeader {
  /** Strings and numbers by key; lists, and strings that are longer than any name, are left out. */
  readonly metadata: ReadonlyMap<string, string | number>
  readonly tensors: ReadonlyMap<string, GgufTensor>
}

/** Versions of the same layout. */
const VERSIONS: readonly number[] = [2, 3]
/** Bytes of a key and of a name of a tensor: ggml has limits of 65535 and 63. */
const MAX_KEY = 1024
/** Bytes of a string of the metadata that is kept. */
const MAX_TEXT = 1024
const MAX_ALIGNMENT = 1 << 16
/** The fewest bytes of an entry of the metadata, and of a tensor. */
const ENTRY_BYTES = 8 + 4 + 1
const TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
/** The most entries and tensors: more than any model has. */
const MAX_ENTRIES = 1 << 18

/**
 * @throws LilyError ERR_LILY_CHECKPOINT, with the names of the file and of the field
 */
export async function readGgufHeader(file: OpenFile): Promise<GgufHeader> {
  const decoder = new Decoder(file)
  const magic = await decoder.uint32('the magic number')
  if (magic !== MAGIC)
    throw checkpointError(file.path, `expected a GGUF file, got other bytes at its beginning; ${DAMAGED}`)
  const version = await decoder.uint32('the version')
  if (!VERSIONS.includes(version)) {
    throw checkpointError(
      file.path,
      `expected GGUF of version ${VERSIONS.join(' or ')} for little-endian machines, got version ${version}; convert it`,
    )
  }
  const tensorCount = await decoder.count('the number of tensors', MAX_ENTRIES, TENSOR_BYTES)
  const entryCount = await decoder.count('the number of metadata entries', MAX_ENTRIES, ENTRY_BYTES)
  const metadata = await readMetadata(decoder, entryCount)
  const alignment = metadata.get(KEYS.alignment) ?? DEFAULT_ALIGNMENT
  const isPower = typeof alignment === 'number' && alignment > 0 && (alignment & (alignment - 1)) === 0
  if (!isPower || alignment > MAX_ALIGNMENT) {
    throw decoder.wrong(KEYS.alignment, `a power of two up to ${MAX_ALIGNMENT}`, String(alignment))
  }
  return { metadata, tensors: await readTensors(decoder, tensorCount, alignment) }
}

async function readMetadata(decoder: Decoder, count: number): Promise<Map<string, string | number>> {
  const metadata = new Map<string, string | number>()
  const seen = new Set<string>()
  for (let i = 0; i < count; i++) {
    const key = await decoder.text(`metadata key ${i}`, MAX_KEY)
    if (seen.has(key)) throw decoder.wrong(key, 'one value', 'two')
    seen.add(key)
    const value = await readValue(decoder, key)
    if (value !== null) metadata.set(key, value)
  }
  return metadata
}

/** A string or a number; null for an array, which is skipped. */
async function readValue(decoder: Decoder, key: string): Promise<string | number | null> {
  const type = await decoder.uint32(key)
  if (type === VALUE.string) return decoder.shortText(key)
  if (type === VALUE.array) return skipArray(decoder, key)
  const bytes = VALUE_BYTES[type]
  if (bytes === undefined || bytes === null) throw decoder.wrong(key, 'a type from 0 to 12', String(type))
  return decoder.number(key, type, bytes)
}

async function skipArray(decoder: Decoder, key: string): Promise<null> {
  const type = await decoder.uint32(key)
  const bytes = VALUE_BYTES[type]
  if (bytes === undefined || type === VALUE.array)
    throw decoder.wrong(key, 'a list of numbers or strings', `type ${type}`)
  const length = await decoder.count(key, Number.MAX_SAFE_INTEGER, bytes ?? 8)
  if (bytes !== null) decoder.skip(key, length * bytes)
  else for (let i = 0; i < length; i++) await decoder.shortText(key)
  return null
}

async function readTensors(decoder: Decoder, count: number, alignment: number): Promise<Map<string, GgufTensor>> {
  const found: [string, Omit<GgufTensor, 'end'> & { readonly bytes: number }][] = []
  for (let i = 0; i < count; i++) {
    const name = await decoder.text(`name of tensor ${i}`, MAX_KEY)
    found.push([name, await readTensor(decoder, name, alignment)])
  }
  const dataStart = alignUp(decoder.position, alignment)
  const tensors = new Map<string, GgufTensor>()
  let covered = dataStart
  for (const [name, { type, shape, begin, bytes }] of found.sort(([, left], [, right]) => left.begin - right.begin)) {
    const [first, end] = [dataStart + begin, dataStart + begin + bytes]
    if (tensors.has(name)) throw decoder.wrong(name, 'one tensor of this name', 'two')
    if (first < covered)
      throw decoder.wrong(name, `data from byte ${covered} on, behind the data of other tensors`, `byte ${first}`)
    if (end > decoder.size)
      throw decoder.wrong(name, `data within the ${decoder.size} bytes of the file`, `an end at byte ${end}`)
    tensors.set(name, { type, shape, begin: first, end })
    covered = end
  }
  return tensors
}

async function readTensor(decoder: Decoder, name: string, alignment: number) {
  const dimensions = await decoder.uint32(name)
  if (dimensions === 0 || dimensions > MAX_DIMENSIONS) {
    throw decoder.wrong(name, `1 to ${MAX_DIMENSIONS} dimensions`, String(dimensions))
  }
  const shape: number[] = []
  let elements = 1
  for (let i = 0; i < dimensions; i++) {
    const size = await decoder.uint64(name)
    elements *= size
    if (size === 0 || elements > decoder.size) {
      throw decoder.wrong(name, `dimensions of at least 1, of a tensor that the file can hold`, String(size))
    }
    shape.unshift(size)
  }
  const number = await decoder.uint32(name)
  if (!Object.hasOwn(TENSOR_TYPES, number)) {
    throw decoder.wrong(name, 'the type F32, F16 or BF16 (0, 1 or 30)', `type ${number}, which may be quantised`)
  }
  const type = TENSOR_TYPES[number as keyof typeof TENSOR_TYPES]
  const begin = await decoder.uint64(name)
  if (begin % alignment !== 0) throw decoder.wrong(name, `an offset that is a multiple of ${alignment}`, String(begin))
  return { type, shape, begin, bytes: elements * (type === 'float32' ? 4 : 2) }
}

/** Bytes that are read at a time. */
const WINDOW = 1 << 16

/** Reads one number or string after the other. */
class Decoder {
  /** Position of the next byte. */
  position = 0
  #window = new Uint8Array(0)
  #windowStart = 0

  constructor(private readonly file: OpenFile) {}

  get size(): number {
    return this.file.size
  }

  wrong(field: string, expected: string, got: string) {
    return checkpointError(this.file.path, `${quote(field)}: expected ${expected}, got ${got}; ${DAMAGED}`)
  }

  async uint32(field: string): Promise<number> {
    return (await this.#take(field, 4)).getUint32(0, true)
  }

  async uint64(field: string): Promise<number> {
    const value = (await this.#take(field, 8)).getBigUint64(0, true)
    if (value <= Number.MAX_SAFE_INTEGER) return Number(value)
    throw this.wrong(field, 'a number below 2^53', value.toString())
  }

  /** A number of things that take at least `bytes` each. */
  async count(field: string, most: number, bytes: number): Promise<number> {
    const value = await this.uint64(field)
    const room = Math.floor((this.size - this.position) / bytes)
    if (value <= Math.min(most, room)) return value
    throw this.wrong(field, `at most ${Math.min(most, room)}, for which the file has room`, String(value))
  }

  async number(field: string, type: number, bytes: number): Promise<number> {
    const view = await this.#take(field, bytes)
    const read = [
      () => view.getUint8(0),
      () => view.getInt8(0),
      () => view.getUint16(0, true),
      () => view.getInt16(0, true),
      () => view.getUint32(0, true),
      () => view.getInt32(0, true),
      () => view.getFloat32(0, true),
      () => view.getUint8(0),
      null,
      null,
      () => Number(view.getBigUint64(0, true)),
      () => Number(view.getBigInt64(0, true)),
      () => view.getFloat64(0, true),
    ][type] as () => number
    return read()
  }

  /** A string of at most `most` bytes. */
  async text(field: string, most: number): Promise<string> {
    const length = await this.count(field, most, 1)
    const { buffer, byteOffset } = await this.#take(field, length)
    return decodeUtf8(this.file.path, quote(field), new Uint8Array(buffer, byteOffset, length))
  }

  /** A string; null for a longer one than any name, which is skipped. */
  async shortText(field: string): Promise<string | null> {
    const start = this.position
    const length = await this.count(field, Number.MAX_SAFE_INTEGER, 1)
    if (length > MAX_TEXT) {
      this.skip(field, length)
      return null
    }
    this.position = start
    return this.text(field, MAX_TEXT)
  }

  skip(field: string, bytes: number): void {
    if (bytes > this.size - this.position) this.#failTruncated(field)
    this.position += bytes
  }

  async #take(field: string, bytes: number): Promise<DataView<ArrayBuffer>> {
    if (bytes > this.size - this.position) this.#failTruncated(field)
    const end = this.#windowStart + this.#window.length
    if (this.position < this.#windowStart || this.position + bytes > end) {
      this.#window = new Uint8Array(Math.min(WINDOW, BLOCK_BYTES, this.size - this.position))
      this.#windowStart = this.position
      await fill(this.file, this.#window, this.position)
    }
    const view = new DataView(this.#window.buffer, this.position - this.#windowStart, bytes)
    this.position += bytes
    return view
  }

  #failTruncated(field: string): never {
    throw this.wrong(field, 'more bytes', `the end of the file at byte ${this.size}`)
  }
}
