/** Reading of safetensors files, one tensor at a time. */
import { type FileHandle, open, stat } from 'node:fs/promises'
import type { DType } from '../base/dtype.js'
import { describe, fail } from '../base/errors.js'
import { allocateOnHost } from '../memory/allocate.js'
import { checkpointError, DAMAGED, fileSystemError, quote } from './errors.js'
import { readPath } from './paths.js'
import { type Header, parseHeader, PREFIX_BYTES, readHeaderLength, type TensorEntry } from './safetensors-header.js'

/** The types of a tensor's numbers. */
export type StoredDType = Extract<DType, 'float32' | 'bfloat16' | 'float16'>

/** A tensor out of a file, or for one: an operand of every operation. */
export interface StoredTensor {
  readonly dtype: StoredDType
  readonly shape: readonly number[]
  /** Numbers, or for the types of 16 bits their bits. */
  readonly data: Float32Array | Uint16Array
}

/** This package's names of the format's data types. */
const NAMES: Readonly<Record<string, StoredDType>> = { F32: 'float32', BF16: 'bfloat16', F16: 'float16' }

/** The most that one comparison holds, and one read asks of the system. */
const CHUNK_BYTES = 1 << 24

/**
 * An open safetensors file. The header is checked when it is opened; numbers are read when they are asked for, a tensor
 * at a time, so that a large file is never in memory as a whole.
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
   * Opens a file and checks its header: length, JSON without a key twice, types, shapes, offsets that neither overlap
   * nor leave a gap nor leave the file.
   *
   * @throws LilyError ERR_LILY_CHECKPOINT, which names the file, the tensor, what was expected and what is there
   */
  static async open(file: string | URL): Promise<SafetensorsFile> {
    const path = readPath('path', file)
    let handle: FileHandle | undefined
    try {
      // Before it is opened, which for a pipe would wait.
      if (!(await stat(path)).isFile()) throw checkpointError(path, 'expected a file, got something else')
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

  /** The tensors by their names, in the order of the file. */
  get tensors(): ReadonlyMap<string, TensorEntry> {
    return this.#header.tensors
  }

  /**
   * The numbers of a tensor of type F32, BF16 or F16.
   *
   * @throws LilyError ERR_LILY_CHECKPOINT for another type, or a name that is not there; ERR_LILY_OUT_OF_MEMORY
   */
  async read(name: string): Promise<StoredTensor> {
    const { dtype: stored, shape, begin, end } = this.#entry(name)
    if (!Object.hasOwn(NAMES, stored)) {
      throw checkpointError(
        this.path,
        `tensor ${quote(name)}: expected data type F32, BF16 or F16, got ${stored}; convert it before it is saved`,
      )
    }
    const dtype = NAMES[stored]
    const elements = (end - begin) / (dtype === 'float32' ? 4 : 2)
    const data = allocateOnHost(quote(name), dtype, elements) as StoredTensor['data']
    await this.#fill(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), begin)
    return { dtype, shape, data }
  }

  /** The bytes of a tensor of any type. */
  async readBytes(name: string): Promise<Uint8Array> {
    const { begin, end } = this.#entry(name)
    const bytes = allocateOnHost(quote(name), 'uint8', end - begin) as Uint8Array
    await this.#fill(bytes, begin)
    return bytes
  }

  /** Whether a tensor has these bytes; read in pieces. */
  async hasBytes(name: string, expected: Uint8Array): Promise<boolean> {
    const { begin, end } = this.#entry(name)
    if (end - begin !== expected.byteLength) return false
    const chunk = Buffer.allocUnsafeSlow(Math.min(expected.byteLength, CHUNK_BYTES))
    for (let start = 0; start < expected.byteLength; start += chunk.length) {
      const part = chunk.subarray(0, Math.min(chunk.length, expected.byteLength - start))
      await this.#fill(part, begin + start)
      if (!part.equals(expected.subarray(start, start + part.length))) return false
    }
    return true
  }

  /** Closes the file; what was read stays. */
  async close(): Promise<void> {
    await this.#handle.close()
  }

  #entry(name: string): TensorEntry {
    if (typeof (name as unknown) !== 'string') {
      fail('ERR_LILY_ARGUMENT', 'name', `expected the name of a tensor, got ${describe(name)}`)
    }
    const entry = this.#header.tensors.get(name)
    if (entry !== undefined) return entry
    throw checkpointError(this.path, `has no tensor ${quote(name)}; ask for one of its tensors.keys()`)
  }

  async #fill(bytes: Uint8Array, position: number): Promise<void> {
    try {
      await fill(this.path, this.#handle, bytes, position)
    } catch (cause) {
      throw fileSystemError(this.path, 'cannot be read', cause)
    }
  }
}

async function readHeader(path: string, handle: FileHandle): Promise<Header> {
  const { size } = await handle.stat()
  if (size < PREFIX_BYTES) {
    throw checkpointError(path, `expected a safetensors file, got ${size} bytes; ${DAMAGED}`)
  }
  const prefix = new Uint8Array(PREFIX_BYTES)
  await fill(path, handle, prefix, 0)
  const header = new Uint8Array(readHeaderLength(path, prefix, size))
  await fill(path, handle, header, PREFIX_BYTES)
  return parseHeader(path, header, size)
}

/** Reads until the bytes are full: a read may give less than was asked for. */
async function fill(path: string, handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const length = Math.min(bytes.length - done, CHUNK_BYTES)
    const { bytesRead } = await handle.read(bytes, done, length, position + done)
    if (bytesRead === 0) {
      throw checkpointError(path, `ended at byte ${position + done} while it was read; write it whole, then read it`)
    }
    done += bytesRead
  }
}
