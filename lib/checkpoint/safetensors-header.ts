/**
 * The header of a safetensors file, checked: 8 bytes with its length, then JSON, then the numbers of all tensors without
 * gap or overlap. Format: https://github.com/huggingface/safetensors#format
 */
import type { LilyError } from '../base/errors.js'
import { shapeText } from '../base/shape.js'
import { checkpointError, DAMAGED, quote, quoteAny } from './errors.js'
import { decodeUtf8, isObject, parseJson } from './json.js'

/** Bytes of the length at the beginning of the file. */
export const PREFIX_BYTES = 8

/** So that parsing a header stays in bounds of time and memory. The reference implementation has 100 MB. */
export const MAX_HEADER_BYTES = 32 * 2 ** 20

/** Keys of the metadata: a million of them take longer than all tensors that a header can have. */
const MAX_KEYS = 2 ** 16

/** Sizes of a shape: the limit of PyTorch and NumPy. The format has none. */
const MAX_SIZES = 64

/** The format's data types in the order of its reference implementation, whose files have the last types first. */
export const DTYPES = (
  'BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ ' +
  'I16 U16 F16 BF16 I32 U32 F32 C64 F64 I64 U64'
).split(' ')

/** A type's bits: the number in its name, with exceptions for names that contain no number or two. */
export function bitsOf(dtype: string): number {
  return dtype === 'BOOL' ? 8 : Number(/\d+/.exec(dtype)?.[0])
}

/** Bytes of a tensor: a fraction for bits that fill no byte. */
export function byteLengthOf({ dtype, shape }: Pick<TensorEntry, 'dtype' | 'shape'>): number {
  // The product of other sizes may be infinite.
  if (shape.includes(0)) return 0
  return (shape.reduce((product, size) => product * size, 1) * bitsOf(dtype)) / 8
}

const EXPECTED_DTYPE = `one of the data types ${DTYPES.join(', ')}`
const EXPECTED_SHAPE = `a shape of at most ${MAX_SIZES} integers from 0 to 2^53 - 1`
const EXPECTED_OFFSETS = 'data_offsets of two integers, the first not above the second'

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
 * Reads a header as the reference implementation does, which ignores fields of an entry that it does not know.
 *
 * @param bytes the header without the length before it
 */
export function parseHeader(file: string, bytes: Uint8Array, fileBytes: number): Header {
  const header = parseJson(file, 'the header', decodeUtf8(file, 'the header', bytes))
  if (!isObject(header)) {
    throw checkpointError(file, `expected a JSON object as header, got another JSON value; ${DAMAGED}`)
  }
  const dataStart = PREFIX_BYTES + bytes.length
  let metadata: ReadonlyMap<string, string> = new Map()
  const entries: [string, TensorEntry][] = []
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') metadata = readMetadata(file, value)
    else entries.push([checkText(file, name), readEntry(file, name, value, dataStart)])
  }
  entries.sort(([, left], [, right]) => left.begin - right.begin || left.end - right.end)
  checkCoverage(file, entries, dataStart, fileBytes)
  return { metadata, tensors: new Map(entries) }
}

function readMetadata(file: string, value: unknown): ReadonlyMap<string, string> {
  const wrong = (got: string) =>
    checkpointError(file, `expected __metadata__ to be an object of strings, got ${got}; ${DAMAGED}`)
  if (value === null) return new Map()
  if (!isObject(value)) throw wrong(quoteAny(value))
  const entries = Object.entries(value)
  if (entries.length > MAX_KEYS) throw wrong(`${entries.length} keys (at most ${MAX_KEYS} are permitted)`)
  return new Map(
    entries.map(([key, text]) => {
      if (typeof text !== 'string') throw wrong(`${quoteAny(text)} for ${quote(key)}`)
      return [checkText(file, key), checkText(file, text)]
    }),
  )
}

/** JSON can spell half of a surrogate pair, which no UTF-8 can. */
function checkText(file: string, text: string): string {
  if (!/\p{Surrogate}/u.test(text)) return text
  throw checkpointError(file, `expected well-formed Unicode, got a lone surrogate in ${quote(text)}; ${DAMAGED}`)
}

function readEntry(file: string, name: string, value: unknown, dataStart: number): TensorEntry {
  const wrong = (expected: string, got: unknown) => wrongEntry(file, name, `${expected}, got ${valueText(got)}`)
  if (!isObject(value)) throw wrong('an object with dtype, shape, data_offsets', value)
  const { dtype, shape, data_offsets: offsets } = value
  if (!isDType(dtype)) throw wrong(EXPECTED_DTYPE, dtype)
  if (!areSizes(shape) || shape.length > MAX_SIZES) throw wrong(EXPECTED_SHAPE, shape)
  if (!areSizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) throw wrong(EXPECTED_OFFSETS, offsets)
  const [begin, end] = offsets
  const bytes = byteLengthOf({ dtype, shape })
  if (bytes !== end - begin) {
    throw wrongEntry(
      file,
      name,
      `${bytes} bytes (${dtype} ${shapeText(shape)}), got data_offsets of ${end - begin} bytes`,
    )
  }
  return { dtype, shape, begin: dataStart + begin, end: dataStart + end }
}

function wrongEntry(file: string, name: string, expected: string): LilyError {
  return checkpointError(file, `tensor ${quote(name)}: expected ${expected}; ${DAMAGED}`)
}

function valueText(value: unknown): string {
  if (!Array.isArray(value)) return quoteAny(value)
  return `[${value.slice(0, 8).map(quoteAny).join(', ')}${value.length > 8 ? ', ...' : ''}]`
}

function isDType(value: unknown): value is string {
  return DTYPES.includes(value as string)
}

function areSizes(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0)
}

/** The tensors, in order, cover the file from the header to its end. */
function checkCoverage(
  file: string,
  tensors: readonly [string, TensorEntry][],
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
