/**
 * The header of a safetensors file, checked: 8 bytes with its length, then JSON, then the numbers of all tensors without
 * gap or overlap. Format: https://github.com/huggingface/safetensors#format
 */
import type { LilyError } from '../base/errors.js'
import { shapeText } from '../base/shape.js'
import { checkpointError, DAMAGED, quote } from './errors.js'
import { JsonReader } from './json.js'

/** Bytes of the length at the beginning of the file. */
export const PREFIX_BYTES = 8

/** As in the reference implementation: what parsing a header takes stays in bounds. */
export const MAX_HEADER_BYTES = 100_000_000

/**
 * Names of tensors and keys of the metadata in one header: each takes several times the memory of its bytes. The largest
 * mixtures of experts have 60 layers of 384 experts of three projections, of which an adapter has 207 360 tensors.
 */
const MAX_NAMES = 1 << 18

/** Sizes in all shapes of one header, for the same reason. */
const MAX_SIZES = 1 << 22

/** Characters of a name. V8 hashes strings of 2^14 characters or more by their length alone. */
export const MAX_NAME = 10_000

/** Levels of objects and arrays, as in the reference implementation; what has so many is ignored, but has to be JSON. */
const MAX_DEPTH = 127

/** The format's data types in the order of its reference implementation, whose files have the last types first. */
export const DTYPES = (
  'BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ ' +
  'I16 U16 F16 BF16 I32 U32 F32 C64 F64 I64 U64'
).split(' ')

/** A type's bits: the number in its name, but for those that hold no number or hold two. */
export function bitsOf(dtype: string): number {
  return dtype === 'BOOL' ? 8 : Number(/\d+/.exec(dtype)?.[0])
}

const KNOWN_DTYPES: ReadonlySet<string> = new Set(DTYPES)

const FIELDS = ['dtype', 'shape', 'data_offsets']

/** Where a tensor is in a file. */
export interface TensorEntry {
  /** The format's name of it: F32, BF16, F16, or a type that this package has no numbers for. */
  readonly dtype: string
  /** Dimensions in elements, outermost first. */
  readonly shape: readonly number[]
  /** First byte in the file. */
  readonly begin: number
  /** The byte behind the last. */
  readonly end: number
}

export interface Header {
  readonly metadata: ReadonlyMap<string, string>
  /** In the order of the file's bytes. */
  readonly tensors: ReadonlyMap<string, TensorEntry>
}

/** The length of the header, from the first bytes of a file of `fileBytes`. */
export function readHeaderLength(file: string, prefix: Uint8Array, fileBytes: number): number {
  const length = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true)
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw checkpointError(
      file,
      `expected a safetensors header of at most ${MAX_HEADER_BYTES} bytes, got a length of ${length.toString()}; ` +
        `this is not a safetensors file, or ${DAMAGED}`,
    )
  }
  if (PREFIX_BYTES + Number(length) > fileBytes) {
    throw checkpointError(
      file,
      `expected a header of ${length.toString()} bytes, got a file of ${fileBytes} bytes; ${DAMAGED}`,
    )
  }
  return Number(length)
}

/**
 * Reads a header as the reference implementation does, which ignores fields of an entry that it does not know, but without a
 * key twice, of which the reference takes the last.
 *
 * @param bytes the header without the length before it
 */
export function parseHeader(file: string, bytes: Uint8Array, fileBytes: number): Header {
  const dataStart = PREFIX_BYTES + bytes.length
  const json = new JsonReader(file, 'the header', bytes, MAX_DEPTH)
  if (json.kind() !== 'an object') {
    // Bytes that begin no value are no JSON.
    json.skip()
    throw checkpointError(file, `expected a JSON object as header, got another JSON value; ${DAMAGED}`)
  }
  const reader = new HeaderReader(file, json, dataStart)
  json.object((name) => reader.readMember(name))
  json.end()
  const tensors = reader.tensorsByPlace()
  checkCoverage(file, tensors, dataStart, fileBytes)
  return { metadata: reader.metadata ?? new Map<string, string>(), tensors }
}

class HeaderReader {
  metadata: ReadonlyMap<string, string> | null = null
  readonly #file: string
  readonly #json: JsonReader
  readonly #dataStart: number
  readonly #tensors = new Map<string, TensorEntry>()
  /** Whether all tensors so far are in the order of their bytes, as writers leave them. */
  #isSorted = true
  #last: TensorEntry = { dtype: '', shape: [], begin: 0, end: 0 }
  #names = 0
  #sizes = 0

  constructor(file: string, json: JsonReader, dataStart: number) {
    this.#file = file
    this.#json = json
    this.#dataStart = dataStart
  }

  readMember(name: string): void {
    if (name === '__metadata__') {
      if (this.metadata !== null) throw this.#json.twice(name)
      this.metadata = this.#readMetadata()
      return
    }
    this.#count(name)
    if (this.#tensors.has(name)) throw this.#json.twice(name)
    const entry = this.#readEntry(name)
    this.#tensors.set(name, entry)
    this.#isSorted &&= byPlace(this.#last, entry) <= 0
    this.#last = entry
  }

  tensorsByPlace(): ReadonlyMap<string, TensorEntry> {
    if (this.#isSorted) return this.#tensors
    // Beside one another in memory: entries lie where they were allocated, and a comparison of two would miss the caches.
    const entries = [...this.#tensors]
    const begins = Float64Array.from(entries, (entry) => entry[1].begin)
    const ends = Float64Array.from(entries, (entry) => entry[1].end)
    const order = Uint32Array.from(entries, (_, i) => i)
    order.sort((left, right) => begins[left] - begins[right] || ends[left] - ends[right])
    return new Map(Array.from(order, (i) => entries[i]))
  }

  #count(name: string): void {
    if (name.length > MAX_NAME) {
      throw checkpointError(
        this.#file,
        `expected names of at most ${MAX_NAME} characters in the header, got ${quote(name)}; ${DAMAGED}`,
      )
    }
    if (++this.#names > MAX_NAMES) {
      throw checkpointError(
        this.#file,
        `expected a header of at most ${MAX_NAMES} tensors and keys of metadata; split the file if it is whole`,
      )
    }
  }

  #readMetadata(): ReadonlyMap<string, string> {
    const json = this.#json
    const metadata = new Map<string, string>()
    const kind = json.kind()
    if (kind === 'null') {
      json.skip()
      return metadata
    }
    if (kind !== 'an object') throw this.#wrongMetadata(kind)
    json.object((key) => {
      this.#count(key)
      if (metadata.has(key)) throw json.twice(key)
      const kindOfValue = json.kind()
      if (kindOfValue !== 'a string') throw this.#wrongMetadata(`${kindOfValue} for ${quote(key)}`)
      metadata.set(key, json.string())
    })
    return metadata
  }

  #wrongMetadata(got: string): LilyError {
    return checkpointError(this.#file, `expected __metadata__ to be an object of strings, got ${got}; ${DAMAGED}`)
  }

  #readEntry(name: string): TensorEntry {
    const json = this.#json
    const kind = json.kind()
    if (kind !== 'an object') throw this.#wrong(name, `an object with ${FIELDS.join(', ')}, got ${kind}`)
    let dtype: string | undefined
    let shape: readonly number[] | undefined
    let offsets: readonly number[] | undefined
    json.members(() => {
      const field = json.key(FIELDS)
      if ([dtype, shape, offsets][field] !== undefined) throw json.twice(FIELDS[field])
      if (field === 0) dtype = this.#readDType(name)
      else if (field === 1) shape = this.#readSizes(name, EXPECTED_SHAPE)
      else if (field === 2) offsets = this.#readSizes(name, EXPECTED_OFFSETS)
      else json.skip()
    })
    if (dtype === undefined) throw this.#wrong(name, `${EXPECTED_DTYPE}, got none`)
    if (shape === undefined) throw this.#wrong(name, `${EXPECTED_SHAPE}, got none`)
    if (offsets?.length !== 2 || offsets[0] > offsets[1]) throw this.#wrong(name, EXPECTED_OFFSETS)
    const [begin, end] = offsets
    const bits = bitsIn(dtype, shape)
    if (bits === null) throw this.#wrong(name, `a size in 64 bits, got ${dtype} ${shapeText(shape)}`)
    if (bits !== (end - begin) * 8) {
      throw this.#wrong(
        name,
        `${bits / 8} bytes (${dtype} ${shapeText(shape)}), got data_offsets of ${end - begin} bytes`,
      )
    }
    return { dtype, shape, begin: this.#dataStart + begin, end: this.#dataStart + end }
  }

  #readDType(name: string): string {
    const kind = this.#json.kind()
    if (kind !== 'a string') throw this.#wrong(name, `${EXPECTED_DTYPE}, got ${kind}`)
    const dtype = this.#json.string()
    if (!KNOWN_DTYPES.has(dtype)) throw this.#wrong(name, `${EXPECTED_DTYPE}, got ${quote(dtype)}`)
    return dtype
  }

  #readSizes(name: string, expected: string): readonly number[] {
    const json = this.#json
    const kind = json.kind()
    if (kind !== 'an array') throw this.#wrong(name, `${expected}, got ${kind}`)
    const sizes: number[] = []
    json.array(() => {
      const size = json.integer()
      if (size === -1) throw this.#wrong(name, `${expected}, each of digits alone`)
      if (++this.#sizes > MAX_SIZES) {
        throw this.#wrong(name, `at most ${MAX_SIZES} numbers in all shapes and offsets of the header`)
      }
      sizes.push(size)
    })
    return sizes
  }

  #wrong(name: string, expected: string): LilyError {
    return checkpointError(this.#file, `tensor ${quote(name)}: expected ${expected}; ${DAMAGED}`)
  }
}

const EXPECTED_DTYPE = `one of the data types ${DTYPES.join(', ')}`
const EXPECTED_SHAPE = 'a shape of integers from 0 to 2^53 - 1'
const EXPECTED_OFFSETS = 'data_offsets of two integers, the first not above the second'

/**
 * Bits of a tensor. As in the reference implementation they are counted in 64 bits, size by size: null where a product on the
 * way has more, even if a later size is 0.
 */
function bitsIn(dtype: string, shape: readonly number[]): number | null {
  let bits = 1n
  for (const factor of [...shape, bitsOf(dtype)]) {
    bits *= BigInt(factor)
    if (bits >= 1n << 64n) return null
  }
  return Number(bits)
}

function byPlace(left: TensorEntry, right: TensorEntry): number {
  return left.begin - right.begin || left.end - right.end
}

/** The tensors, in order, cover the file from the header to its end. */
function checkCoverage(
  file: string,
  tensors: ReadonlyMap<string, TensorEntry>,
  dataStart: number,
  fileBytes: number,
): void {
  let covered = dataStart
  let before: string | null = null
  for (const [name, { begin, end }] of tensors) {
    if (begin !== covered) {
      throw checkpointError(
        file,
        `tensor ${quote(name)}: expected its data at byte ${covered}, where ` +
          `${before === null ? 'the header' : `tensor ${quote(before)}`} ends, got byte ${begin}, ` +
          `which ${begin < covered ? 'overlaps' : 'leaves a gap'}; ${DAMAGED}`,
      )
    }
    covered = end
    before = name
  }
  if (covered !== fileBytes) {
    throw checkpointError(file, `expected ${covered} bytes, according to its header, got ${fileBytes}; ${DAMAGED}`)
  }
}
