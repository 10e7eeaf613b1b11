/** Writes safetensors files, byte-identical to those of the format's reference implementation, one tensor at a time. */
import type { FileHandle } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import type { DType } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { tensor, Tensor } from '../tensor/tensor.js'
import { checkpointError, quote } from './errors.js'
import { replaceFiles } from './replace-files.js'
import type { StoredTensor } from './safetensors-file.js'
import { bitsOf, DTYPES, MAX_HEADER_BYTES, PREFIX_BYTES } from './safetensors-header.js'

/** A tensor to write. */
export interface TensorSource {
  /** The format's name of the type: F32, BF16, F16, ... */
  readonly dtype: string
  readonly shape: readonly number[]
  /** Returns the data. It is called when the tensor is written. */
  readonly bytes: () => Uint8Array | Promise<Uint8Array>
}

/** The format's names of this package's float types. */
const STORED: Readonly<Partial<Record<DType, string>>> = { float32: 'F32', bfloat16: 'BF16', float16: 'F16' }

/**
 * Writes a safetensors file, with the tensors in the order of the format's reference implementation. An existing file
 * is replaced atomically: after an error or a crash it has its old contents.
 *
 * @param tensors by name: a {@link Tensor} on any device, or `{ dtype, shape, data }` on the host, of type float32,
 *   bfloat16 or float16. They must not change until the promise resolves
 * @param metadata arbitrary strings, the file's `__metadata__`
 * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT if the file cannot be written; ERR_LILY_SHAPE, ERR_LILY_DTYPE
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, Tensor | StoredTensor>,
  metadata: ReadonlyMap<string, string> = new Map(),
): Promise<void> {
  await replaceWithTensors(path, new Map(Array.from(tensors, ([name, value]) => [name, sourceOf(value)])), metadata)
}

/** A tensor to write. Device memory is copied to the host when the tensor is written, so one at a time. */
export function sourceOf(value: Tensor | StoredTensor): TensorSource {
  const owned = value instanceof Tensor ? value : tensor(value.data, value.shape, value.dtype)
  const stored = STORED[owned.dtype]
  if (stored === undefined) {
    return fail('ERR_LILY_DTYPE', 'tensors', `expected float32, bfloat16 or float16, got ${owned.dtype}; convert it`)
  }
  const bytes = async () => {
    const { data } = await owned.toHost()
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  }
  return { dtype: stored, shape: owned.shape, bytes }
}

/** Replaces a file atomically. */
export async function replaceWithTensors(
  path: string,
  tensors: ReadonlyMap<string, TensorSource>,
  metadata: ReadonlyMap<string, string>,
): Promise<void> {
  const write = (handle: FileHandle) => writeTensors(path, handle, tensors, metadata)
  await replaceFiles(dirname(path), [{ name: basename(path), write }])
}

/**
 * Writes the contents of a safetensors file.
 *
 * @param path name of the file in error messages
 */
export async function writeTensors(
  path: string,
  handle: FileHandle,
  tensors: ReadonlyMap<string, TensorSource>,
  metadata: ReadonlyMap<string, string>,
): Promise<void> {
  const sorted = [...tensors].sort(byTypeAndName)
  await writeAll(handle, headerOf(path, sorted, metadata))
  for (const [name, source] of sorted) {
    const bytes = await source.bytes()
    if (bytes.byteLength !== byteLengthOf(source)) {
      throw checkpointError(
        path,
        `tensor ${quote(name)}: expected ${byteLengthOf(source)} bytes to write, got ${bytes.byteLength}; ` +
          `do not change a model while it is saved`,
      )
    }
    await writeAll(handle, bytes)
  }
}

function byteLengthOf({ dtype, shape }: TensorSource): number {
  return (shape.reduce((product, size) => product * size, 1) * bitsOf(dtype)) / 8
}

/**
 * Compares tensors in the reference implementation's order: by type, the last of DTYPES first, then by the bytes of the
 * name.
 */
function byTypeAndName([leftName, left]: [string, TensorSource], [rightName, right]: [string, TensorSource]): number {
  return (
    DTYPES.indexOf(right.dtype) - DTYPES.indexOf(left.dtype) ||
    Buffer.compare(Buffer.from(leftName), Buffer.from(rightName))
  )
}

/** The length and the header. The header is padded with spaces so that the data starts at a multiple of 8 bytes. */
function headerOf(
  path: string,
  tensors: readonly [string, TensorSource][],
  metadata: ReadonlyMap<string, string>,
): Uint8Array {
  // Not JSON.stringify of one object: that would put names that are integers first.
  const members: string[] = []
  if (metadata.size > 0) {
    const pairs = [...metadata].map(([key, value]) => `${literal(path, key)}:${literal(path, value)}`)
    members.push(`"__metadata__":{${pairs.join(',')}}`)
  }
  let end = 0
  for (const [name, source] of tensors) {
    if (name === '__metadata__')
      throw checkpointError(path, `expected no tensor named '__metadata__', which the format reserves; rename it`)
    const begin = end
    end += byteLengthOf(source)
    const { dtype, shape } = source
    members.push(`${literal(path, name)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, end] })}`)
  }
  const json = Buffer.from(`{${members.join(',')}}`)
  const length = Math.ceil(json.length / PREFIX_BYTES) * PREFIX_BYTES
  if (length > MAX_HEADER_BYTES) {
    throw checkpointError(
      path,
      `expected a header of at most ${MAX_HEADER_BYTES} bytes, got ${length}; save fewer tensors`,
    )
  }
  const bytes = Buffer.alloc(PREFIX_BYTES + length, ' ')
  bytes.writeBigUInt64LE(BigInt(length))
  json.copy(bytes, PREFIX_BYTES)
  return bytes
}

/** A JSON string literal. */
function literal(path: string, text: string): string {
  if (/\p{Surrogate}/u.test(text)) {
    throw checkpointError(path, `expected well-formed Unicode, got a lone surrogate in ${quote(text)}; rename it`)
  }
  return JSON.stringify(text)
}

/** Writes all bytes. A single write may write fewer bytes than requested. */
async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength;) {
    const { bytesWritten } = await handle.write(bytes, done, Math.min(bytes.byteLength - done, 1 << 24))
    done += bytesWritten
  }
}
