/** Reads safetensors files, one tensor at a time. */
import { CREATE, checkCreate } from '../base/create.js'
import type { DType } from '../base/dtype.js'
import { countOf, describe, fail } from '../base/errors.js'
import { shapeText } from '../base/shape.js'
import { firstNumbers, grouped, quoted, summarised } from '../base/summary.js'
import { inspectSymbol } from '../base/symbols.js'
import { classNameOf } from '../base/views.js'
import { allocateOnHost } from '../memory/allocate.js'
import { openFile, readPath } from './disk/disk.js'
import { checkpointError, DAMAGED, quote } from './errors.js'
import { classOfData, FILE_DATA, type FileData, openData } from './file-data.js'
import { BLOCK_BYTES, fill, type OpenFile } from './open-file.js'
import { type Header, parseHeader, PREFIX_BYTES, readHeaderLength, type TensorEntry } from './safetensors-header.js'

/** Types of the tensors that {@link SafetensorsFile.read} returns. */
export type StoredDType = Extract<DType, 'float32' | 'bfloat16' | 'float16'>

/** A tensor read from a file, or to be written to one. Every operation accepts it as an operand. */
export interface StoredTensor {
  /** Type of the elements. */
  readonly dtype: StoredDType
  /** Dimensions in elements, outermost first. */
  readonly shape: readonly number[]
  /** The elements of `shape`: a Float32Array for float32, a Uint16Array of bit patterns for bfloat16 and float16. */
  readonly data: Float32Array | Uint16Array
}

/** This package's names of the format's data types. */
export const NAMES: Readonly<Record<string, StoredDType>> = { F32: 'float32', BF16: 'bfloat16', F16: 'float16' }

/**
 * An open safetensors file. Opening reads and checks the header. Tensors are read on request, one at a time, so a large
 * file is never completely in memory.
 *
 * @example
 * const file = await SafetensorsFile.open('model.safetensors')
 * const weight = await file.read('layers.0.q_proj.weight')
 * await file.close()
 */
export class SafetensorsFile {
  /** The path of the file. Of a file without a path it is the name, or else the class of what was opened. */
  readonly path: string
  readonly #header: Header
  readonly #file: OpenFile
  #isClosed = false

  private constructor(key: symbol, header: Header, file: OpenFile) {
    checkCreate(key, 'SafetensorsFile', 'SafetensorsFile.open(file)')
    this.path = file.path
    this.#header = header
    this.#file = file
  }

  /**
   * Opens a file and checks its header: its length, JSON, types and shapes, and offsets that
   * cover the file without overlaps or gaps.
   *
   * @param file its path, or its content, which must not change until the file is closed
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT, with the names of the file and the tensor;
   *   ERR_LILY_ARGUMENT
   */
  static async open(file: string | URL | FileData): Promise<SafetensorsFile> {
    const type = classOfData(file)
    if (type === null) {
      const path = readPath('path', file, `a path as a string, a file: URL object, ${FILE_DATA}`)
      return SafetensorsFile.from(await openFile(path))
    }
    return SafetensorsFile.from(openData(type === 'File' ? (file as File).name : type, file as FileData))
  }

  /** @internal Reads the header of an open file, which it closes if it fails. */
  static async from(file: OpenFile): Promise<SafetensorsFile> {
    try {
      return new SafetensorsFile(CREATE, await readHeader(file), file)
    } catch (cause) {
      await file.close()
      throw cause
    }
  }

  /** The header's `__metadata__`. */
  get metadata(): ReadonlyMap<string, string> {
    return this.#header.metadata
  }

  /** Type, shape and position of each tensor, by name, in the order of the file. */
  get tensors(): ReadonlyMap<string, TensorEntry> {
    return this.#header.tensors
  }

  /**
   * Reads a tensor of type F32, BF16 or F16.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT for another type or an unknown name; ERR_LILY_OUT_OF_MEMORY
   */
  async read(name: string): Promise<StoredTensor> {
    const { dtype: stored, shape, begin, end } = this.#entry(name)
    if (!Object.hasOwn(NAMES, stored)) {
      throw checkpointError(
        this.path,
        `tensor ${quote(name)}: expected data type F32, BF16 or F16, got ${stored}; convert it before saving`,
      )
    }
    const dtype = NAMES[stored]
    const elements = (end - begin) / (dtype === 'float32' ? 4 : 2)
    const data = allocateOnHost(quote(name), dtype, elements) as StoredTensor['data']
    await fill(this.#file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength), begin)
    return storedTensor(dtype, shape, data)
  }

  /**
   * Reads the bytes of a tensor of any type.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT for an unknown name; ERR_LILY_OUT_OF_MEMORY
   */
  async readBytes(name: string): Promise<Uint8Array> {
    const { begin, end } = this.#entry(name)
    const bytes = allocateOnHost(quote(name), 'uint8', end - begin) as Uint8Array
    await fill(this.#file, bytes, begin)
    return bytes
  }

  /**
   * Whether a tensor has these bytes. The tensor is read in blocks of at most 16 MiB.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT for an unknown name, ERR_LILY_ARGUMENT
   */
  async hasBytes(name: string, expected: Uint8Array): Promise<boolean> {
    const { begin, end } = this.#entry(name)
    if (classNameOf(expected) !== 'Uint8Array') {
      fail('ERR_LILY_ARGUMENT', 'expected', `expected a Uint8Array, got ${describe(expected)}`)
    }
    const size = end - begin
    if (expected.byteLength !== size) return false
    const buffer = new Uint8Array(Math.min(size, BLOCK_BYTES))
    for (let start = 0; start < size; start += buffer.length) {
      const block = buffer.subarray(0, Math.min(buffer.length, size - start))
      await fill(this.#file, block, begin + start)
      if (expected.byteLength !== size) {
        const advice = 'keep it as it is until the promise is settled'
        fail('ERR_LILY_ARGUMENT', 'expected', `its ArrayBuffer was transferred or resized in the meantime; ${advice}`)
      }
      if (!areEqual(block, expected.subarray(start, start + block.length))) return false
    }
    return true
  }

  /**
   * Closes the file. Tensors that were read stay valid.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT
   */
  async close(): Promise<void> {
    this.#isClosed = true
    await this.#file.close()
  }

  [inspectSymbol](): string {
    const path = quoted(this.path)
    if (this.#isClosed) return `SafetensorsFile { ${path}, closed }`
    const types = new Set(Array.from(this.tensors.values(), ({ dtype }) => dtype))
    const tensors = `${countOf(this.tensors.size, 'tensor')}${types.size === 0 ? '' : ` of ${[...types].join(', ')}`}`
    return `SafetensorsFile { ${path}, ${tensors}, ${grouped(this.#file.size)} bytes }`
  }

  #entry(name: string): TensorEntry {
    if (typeof (name as unknown) !== 'string') {
      fail('ERR_LILY_ARGUMENT', 'name', `expected the name of a tensor, got ${describe(name)}`)
    }
    const entry = this.#header.tensors.get(name)
    if (entry !== undefined) return entry
    throw checkpointError(this.path, `has no tensor ${quote(name)}; pass one of tensors.keys()`)
  }
}

/** Creates a tensor with a short form in the console, which has no numbers of 16-bit types: they are bit patterns. */
export function storedTensor(dtype: StoredDType, shape: readonly number[], data: StoredTensor['data']): StoredTensor {
  return summarised({ dtype, shape, data }, ({ dtype, shape, data }) => {
    const numbers = dtype === 'float32' && data.length > 0 ? `: ${firstNumbers(data, data.length)}` : ''
    return `StoredTensor { ${dtype} ${shapeText(shape)}${numbers} }`
  })
}

export async function readHeader(file: OpenFile): Promise<Header> {
  const { path, size } = file
  if (size < PREFIX_BYTES) {
    throw checkpointError(
      path,
      `expected a safetensors file of at least ${PREFIX_BYTES} bytes, got ${size} bytes; ${DAMAGED}`,
    )
  }
  const prefix = new Uint8Array(PREFIX_BYTES)
  await fill(file, prefix, 0)
  const header = new Uint8Array(readHeaderLength(path, prefix, size))
  await fill(file, header, PREFIX_BYTES)
  return parseHeader(path, header, size)
}

/** Compares four bytes at a time where both begin at a multiple of four, as all tensors of float32 do. */
function areEqual(left: Uint8Array, right: Uint8Array): boolean {
  if (left.byteLength !== right.byteLength) return false
  const isAligned = [left.byteOffset, right.byteOffset, left.byteLength].every((bytes) => bytes % 4 === 0)
  const wordsOf = ({ buffer, byteOffset, byteLength }: Uint8Array) =>
    new Uint32Array(buffer, byteOffset, byteLength / 4)
  const [lefts, rights] = isAligned ? [wordsOf(left), wordsOf(right)] : [left, right]
  for (let i = 0; i < lefts.length; i++) if (lefts[i] !== rights[i]) return false
  return true
}
