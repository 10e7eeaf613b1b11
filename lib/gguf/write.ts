/** Writes GGUF files, one tensor at a time. */
import type { FileContent } from '../checkpoint/open-file.js'
import { alignUp, DEFAULT_ALIGNMENT, MAGIC, TENSOR_TYPES, type TensorType, VALUE, VERSION } from './format.js'

/** A value of the metadata. */
export type MetadataValue = string | { readonly uint32: number } | { readonly float32: number }

/** A matrix to write. */
export interface MatrixSource {
  readonly name: string
  readonly type: TensorType
  readonly rows: number
  readonly columns: number
  /** Returns the data, row-major. It is called when the matrix is written. */
  readonly bytes: () => Promise<Uint8Array>
}

const BYTES = { float32: 4, float16: 2, bfloat16: 2 } as const
export const byteLengthOf = ({ type, rows, columns }: Omit<MatrixSource, 'bytes'>) => BYTES[type] * rows * columns

/** The bytes of a file, block by block. */
export function contentOf(
  metadata: ReadonlyMap<string, MetadataValue>,
  matrices: readonly MatrixSource[],
): FileContent['blocks'] {
  return async function* () {
    const header = headerOf(metadata, matrices)
    yield header
    yield padding(header.length)
    for (const matrix of matrices) {
      yield await matrix.bytes()
      yield padding(byteLengthOf(matrix))
    }
  }
}

/** What fills up to the next multiple of the alignment. */
const padding = (length: number) => new Uint8Array(alignUp(length, DEFAULT_ALIGNMENT) - length)

function headerOf(metadata: ReadonlyMap<string, MetadataValue>, matrices: readonly MatrixSource[]): Uint8Array {
  const header = new Encoder()
  header.uint32(MAGIC)
  header.uint32(VERSION)
  header.uint64(matrices.length)
  header.uint64(metadata.size)
  for (const [key, value] of metadata) {
    header.string(key)
    header.value(value)
  }
  let offset = 0
  for (const matrix of matrices) {
    header.string(matrix.name)
    header.uint32(2)
    // ggml counts dimensions from the innermost one.
    header.uint64(matrix.columns)
    header.uint64(matrix.rows)
    header.uint32(numberOf(matrix.type))
    header.uint64(offset)
    offset = alignUp(offset + byteLengthOf(matrix), DEFAULT_ALIGNMENT)
  }
  return header.bytes()
}

const numberOf = (type: TensorType): number =>
  Number(Object.entries(TENSOR_TYPES).find(([, each]) => each === type)?.[0])

/** Little-endian numbers and strings with their lengths before them. */
class Encoder {
  readonly #parts: Uint8Array[] = []

  uint32(value: number): void {
    this.#number(4, (view) => view.setUint32(0, value, true))
  }

  uint64(value: number): void {
    this.#number(8, (view) => view.setBigUint64(0, BigInt(value), true))
  }

  string(text: string): void {
    const bytes = new TextEncoder().encode(text)
    this.uint64(bytes.length)
    this.#parts.push(bytes)
  }

  value(value: MetadataValue): void {
    if (typeof value === 'string') {
      this.uint32(VALUE.string)
      this.string(value)
    } else if ('uint32' in value) {
      this.uint32(VALUE.uint32)
      this.uint32(value.uint32)
    } else {
      this.uint32(VALUE.float32)
      this.#number(4, (view) => view.setFloat32(0, value.float32, true))
    }
  }

  bytes(): Uint8Array {
    const result = new Uint8Array(this.#parts.reduce((length, part) => length + part.length, 0))
    let at = 0
    for (const part of this.#parts) {
      result.set(part, at)
      at += part.length
    }
    return result
  }

  #number(length: number, write: (view: DataView) => void): void {
    const bytes = new Uint8Array(length)
    write(new DataView(bytes.buffer))
    this.#parts.push(bytes)
  }
}
