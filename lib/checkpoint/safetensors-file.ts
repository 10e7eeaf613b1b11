/** Reads safetensors files, one tensor at a time. */
import { type FileHandle, open, stat } from 'node:fs/promises'
import type { DType } from '../base/dtype.js'
import { describe, fail } from '../base/errors.js'
import { isInstance } from '../base/options.js'
import { allocateOnHost } from '../memory/allocate.js'
import { checkpointError, DAMAGED, fileSystemError, quote } from './errors.js'
import { readPath } from './paths.js'
import { type Header, parseHeader, PREFIX_BYTES, readHeaderLength, type TensorEntry } from './safetensors-header.js'

/** Types of the tensors that {@link SafetensorsFile.read} returns. */
export type StoredDType = Extract<DType, 'float32' | 'bfloat16' | 'float16'>

/** A tensor read from a file, or to be written to one. Every operation accepts it as an operand. */
export interface StoredTensor {
  readonly dtype: StoredDType
  readonly shape: readonly number[]
  /** A Float32Array for float32, a Uint16Array of bit patterns for bfloat16 and float16. */
  readonly data: Float32Array | Uint16Array
}

/** This package's names of the format's data types. */
export const NAMES: Readonly<Record<string, StoredDType>> = { F32: 'float32', BF16: 'bfloat16', F16: 'float16' }

/** Size of the buffer of a comparison, and the largest single read, in bytes. */
const BLOCK_BYTES = 1 << 24

/**
 * An open safetensors file. Opening reads and checks the header. Tensors are read on request, one at a time, so a large
 * file is never completely in memory.
 */
export class SafetensorsFile {
  readonly path: string
  readonly #header: Header
  readonly #handle: FileHandle

  private constructor(path: string, header: Header, handle: FileHandle) {
    this.path = path
    this.#header = header
    this.#handle = handle
  }

  /**
   * Opens a file and checks its header: its length, JSON without duplicate keys, types and shapes, and offsets that
   * cover the file without overlaps or gaps.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT, with the names of the file and the tensor
   */
  static async open(file: string | URL): Promise<SafetensorsFile> {
    const path = readPath('path', file)
    let handle: FileHandle | undefined
    try {
      // stat first: open would wait for the other end of a FIFO.
      if (!(await stat(path)).isFile()) throw checkpointError(path, 'expected a file, got a folder or a special file')
      handle = await open(path)
      return new SafetensorsFile(path, await readHeader(path, handle), handle)
    } catch (cause) {
      await handle?.close()
      throw fileSystemError(path, 'cannot be read', cause)
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
    await this.#fill(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), begin)
    return { dtype, shape, data }
  }

  /**
   * Reads the bytes of a tensor of any type.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT for an unknown name; ERR_LILY_OUT_OF_MEMORY
   */
  async readBytes(name: string): Promise<Uint8Array> {
    const { begin, end } = this.#entry(name)
    const bytes = allocateOnHost(quote(name), 'uint8', end - begin) as Uint8Array
    await this.#fill(bytes, begin)
    return bytes
  }

  /** Whether a tensor has these bytes. The tensor is read in blocks of at most 16 MiB. */
  async hasBytes(name: string, expected: Uint8Array): Promise<boolean> {
    const { begin, end } = this.#entry(name)
    if (!isInstance(expected, Uint8Array)) {
      fail('ERR_LILY_ARGUMENT', 'expected', `expected a Uint8Array, got ${describe(expected)}`)
    }
    if (end - begin !== expected.byteLength) return false
    const buffer = Buffer.allocUnsafeSlow(Math.min(expected.byteLength, BLOCK_BYTES))
    for (let start = 0; start < expected.byteLength; start += buffer.length) {
      const block = buffer.subarray(0, Math.min(buffer.length, expected.byteLength - start))
      await this.#fill(block, begin + start)
      if (!block.equals(expected.subarray(start, start + block.length))) return false
    }
    return true
  }

  /** Closes the file. Tensors that were read stay valid. */
  async close(): Promise<void> {
    await this.#handle.close()
  }

  #entry(name: string): TensorEntry {
    if (typeof (name as unknown) !== 'string') {
      fail('ERR_LILY_ARGUMENT', 'name', `expected the name of a tensor, got ${describe(name)}`)
    }
    const entry = this.#header.tensors.get(name)
    if (entry !== undefined) return entry
    throw checkpointError(this.path, `has no tensor ${quote(name)}; pass one of tensors.keys()`)
  }

  async #fill(bytes: Uint8Array, position: number): Promise<void> {
    try {
      await fill(this.path, this.#handle, bytes, position)
    } catch (cause) {
      throw fileSystemError(this.path, 'cannot be read', cause)
    }
  }
}

/**
 * Reads and checks the header of an open file.
 *
 * @param path name of the file in error messages
 */
export async function readHeader(path: string, handle: FileHandle): Promise<Header> {
  const { size } = await handle.stat()
  if (size < PREFIX_BYTES) {
    throw checkpointError(
      path,
      `expected a safetensors file of at least ${PREFIX_BYTES} bytes, got ${size} bytes; ${DAMAGED}`,
    )
  }
  const prefix = new Uint8Array(PREFIX_BYTES)
  await fill(path, handle, prefix, 0)
  const header = new Uint8Array(readHeaderLength(path, prefix, size))
  await fill(path, handle, header, PREFIX_BYTES)
  return parseHeader(path, header, size)
}

/** Fills `bytes` from `position` on. A single read may return fewer bytes than requested. */
async function fill(path: string, handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const length = Math.min(bytes.length - done, BLOCK_BYTES)
    const { bytesRead } = await handle.read(bytes, done, length, position + done)
    if (bytesRead === 0) {
      throw checkpointError(
        path,
        `ended at byte ${position + done} while it was read; finish writing it before reading it`,
      )
    }
    done += bytesRead
  }
}
