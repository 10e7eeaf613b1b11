/**
 * Parses and checks the header of a safetensors file. The file consists of the length of the header (8 bytes), the
 * header (JSON), and the data of all tensors without gaps or overlaps. Format:
 * https://github.com/huggingface/safetensors#format
 */
import { shapeText } from '../base/shape.js'
import { checkpointError, DAMAGED, quote } from './errors.js'
import { isObject, parseJson } from './json.js'

/** Size of the header's length at the start of the file, in bytes. */
export const PREFIX_BYTES = 8

/** Limit of the header's size, as in the reference implementation. It bounds the memory of the parser. */
export const MAX_HEADER_BYTES = 100_000_000

/**
 * The format's data types, in the order of the reference implementation. Files store the tensors of the last type
 * first.
 */
export const DTYPES = (
  'BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ ' +
  'I16 U16 F16 BF16 I32 U32 F32 C64 F64 I64 U64'
).split(' ')

/** Bits per element: the first number in the type's name, except for BOOL. */
export function bitsOf(dtype: string): number {
  return dtype === 'BOOL' ? 8 : Number(/\d+/.exec(dtype)?.[0])
}

/** Type, shape and position of a tensor in a file. */
export interface TensorEntry {
  /** The format's name of the type, such as F32, BF16 or F16. Types that this package cannot compute with occur too. */
  readonly dtype: string
  readonly shape: readonly number[]
  /** Offset of the first byte of data in the file. */
  readonly begin: number
  /** Offset after the last byte. */
  readonly end: number
}

/** A checked header. */
export interface Header {
  readonly metadata: ReadonlyMap<string, string>
  /** By name, in the order of their data. */
  readonly tensors: ReadonlyMap<string, TensorEntry>
}

/**
 * Reads the length of the header from the first bytes of a file.
 *
 * @param fileBytes size of the file, in bytes
 * @throws LilyError ERR_LILY_CHECKPOINT
 */
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
 * Parses and checks a header.
 *
 * @param bytes the JSON, without the length before it
 * @param fileBytes size of the file, in bytes
 * @throws LilyError ERR_LILY_CHECKPOINT
 */
export function parseHeader(file: string, bytes: Uint8Array, fileBytes: number): Header {
  const header = parseJson(file, 'the header', decode(file, bytes), 3)
  if (!isObject(header))
    throw checkpointError(file, `expected a JSON object as header, got another JSON value; ${DAMAGED}`)

  const dataStart = PREFIX_BYTES + bytes.length
  const entries: [string, TensorEntry][] = []
  let metadata: ReadonlyMap<string, string> = new Map()
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') metadata = readMetadata(file, value)
    else entries.push([name, readEntry(file, name, value, dataStart)])
  }
  entries.sort(([, left], [, right]) => left.begin - right.begin || left.end - right.end)
  checkCoverage(file, entries, dataStart, fileBytes)
  return { metadata, tensors: new Map(entries) }
}

function decode(file: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (cause) {
    throw checkpointError(file, `expected the header to be UTF-8, got other bytes; ${DAMAGED}`, cause)
  }
}

function readMetadata(file: string, value: unknown): ReadonlyMap<string, string> {
  if (value === null) return new Map()
  if (isObject(value)) {
    const entries = Object.entries(value)
    if (entries.every((entry): entry is [string, string] => typeof entry[1] === 'string')) return new Map(entries)
  }
  throw checkpointError(file, `expected __metadata__ to be an object of strings; ${DAMAGED}`)
}

function readEntry(file: string, name: string, value: unknown, dataStart: number): TensorEntry {
  const wrong = (expected: string) => checkpointError(file, `tensor ${quote(name)}: expected ${expected}; ${DAMAGED}`)
  if (!isObject(value)) throw wrong('an object with dtype, shape and data_offsets')
  const { dtype, shape, data_offsets: offsets } = value
  if (typeof dtype !== 'string' || !DTYPES.includes(dtype)) {
    throw wrong(`one of the data types ${DTYPES.join(', ')}, got ${quote(String(dtype))}`)
  }
  if (!isSizes(shape)) throw wrong('a shape of integers from 0 to 2^53 - 1')
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw wrong('data_offsets of two integers in ascending order')
  }
  const [begin, end] = offsets
  const bits = shape.reduce((product, size) => exact(product * size), bitsOf(dtype))
  if (bits !== (end - begin) * 8) {
    throw wrong(`${bits / 8} bytes (${dtype} ${shapeText(shape)}), got data_offsets of ${end - begin} bytes`)
  }
  return { dtype, shape, begin: dataStart + begin, end: dataStart + end }
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && (size as number) >= 0)
}

/** NaN for a product above 2^53 - 1. NaN differs from every number of bits, and stays NaN if a later factor is 0. */
function exact(product: number): number {
  return Number.isSafeInteger(product) ? product : NaN
}

/** Checks that the tensors, sorted by position, cover the file from the header to its end. */
function checkCoverage(file: string, entries: [string, TensorEntry][], dataStart: number, fileBytes: number): void {
  let covered = dataStart
  let before = 'the header'
  for (const [name, { begin, end }] of entries) {
    if (begin !== covered) {
      throw checkpointError(
        file,
        `tensor ${quote(name)}: expected its data at byte ${covered}, where ${before} ends, got byte ${begin}, ` +
          `which ${begin < covered ? 'overlaps' : 'leaves a gap'}; ${DAMAGED}`,
      )
    }
    covered = end
    before = `tensor ${quote(name)}`
  }
  if (covered !== fileBytes) {
    throw checkpointError(file, `expected ${covered} bytes, according to its header, got ${fileBytes}; ${DAMAGED}`)
  }
}
