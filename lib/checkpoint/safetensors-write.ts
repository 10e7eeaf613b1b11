/** Writing of safetensors files, byte for byte as the format's reference implementation does, one tensor at a time. */
import type { FileHandle } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import type { DType } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { tensor, Tensor } from '../tensor/tensor.js'
import { checkpointError, quote } from './errors.js'
import { readPath } from './paths.js'
import { replaceFiles } from './replace-files.js'
import type { StoredTensor } from './safetensors-file.js'
import { bitsOf, DTYPES, MAX_HEADER_BYTES, PREFIX_BYTES } from './safetensors-header.js'

/** A tensor to write. */
export interface TensorSource {
  /** The format's name: F32, BF16, F16, ... */
  readonly dtype: string
  readonly shape: readonly number[]
  /** Its numbers, asked for when they are written. */
  readonly bytes: () => Uint8Array | Promise<Uint8Array>
}

/** The format's names of the types of this package. */
const STORED: Readonly<Partial<Record<DType, string>>> = { float32: 'F32', bfloat16: 'BF16', float16: 'F16' }

/**
 * Writes a safetensors file in the order of the format's reference implementation. A failure, or a crash at any time,
 * leaves the file that was there before.
 *
 * @param tensors by their names: tensors of this package, on any device, or plain ones on the host; float32, bfloat16 or
 *   float16. They must not change until the promise resolves
 * @param metadata of the file, whatever strings one likes
 * @throws LilyError ERR_LILY_CHECKPOINT where the file cannot be written; ERR_LILY_SHAPE, ERR_LILY_DTYPE
 */
export async function writeSafetensors(
  path: string | URL,
  tensors: ReadonlyMap<string, Tensor | StoredTensor>,
  metadata: ReadonlyMap<string, string> = new Map(),
): Promise<void> {
  const file = readPath('path', path)
  await replaceWithTensors(file, new Map(Array.from(tensors, ([name, value]) => [name, sourceOf(value)])), metadata)
}

/** What is on a device is copied when it is written, a tensor at a time. */
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

/** Replaces a file as a whole. */
export async function replaceWithTensors(
  path: string,
  tensors: ReadonlyMap<string, TensorSource>,
  metadata: ReadonlyMap<string, string>,
): Promise<void> {
  const write = (handle: FileHandle) => writeTensors(path, handle, tensors, metadata)
  await replaceFiles(dirname(path), [{ name: basename(path), write }])
}

/** @param path for errors */
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
          `leave a model as it is while it is saved`,
      )
    }
    await writeAll(handle, bytes)
  }
}

function byteLengthOf({ dtype, shape }: TensorSource): number {
  return (shape.reduce((product, size) => product * size, 1) * bitsOf(dtype)) / 8
}

/** The reference's order: the last of its types first, then by the bytes of the name. */
function byTypeAndName([leftName, left]: [string, TensorSource], [rightName, right]: [string, TensorSource]): number {
  return (
    DTYPES.indexOf(right.dtype) - DTYPES.indexOf(left.dtype) ||
    Buffer.compare(Buffer.from(leftName), Buffer.from(rightName))
  )
}

/** The length and the header, padded with spaces so that the numbers begin at a multiple of 8 bytes. */
function headerOf(
  path: string,
  tensors: readonly [string, TensorSource][],
  metadata: ReadonlyMap<string, string>,
): Uint8Array {
  // Joined by hand: an object would put names that look like numbers first.
  const members: string[] = []
  if (metadata.size > 0) {
    const pairs = [...metadata].map(([key, value]) => `${literal(path, key)}:${literal(path, value)}`)
    members.push(`"__metadata__":{${pairs.join(',')}}`)
  }
  let end = 0
  for (const [name, source] of tensors) {
    if (name === '__metadata__') throw checkpointError(path, `the name '__metadata__' is the format's own; rename it`)
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

function literal(path: string, text: string): string {
  if (/\p{Surrogate}/u.test(text)) {
    throw checkpointError(path, `${quote(text)} is no Unicode text (half of a surrogate pair); rename it`)
  }
  return JSON.stringify(text)
}

/** A write may take less than it was given. */
async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength;) {
    const { bytesWritten } = await handle.write(bytes, done, Math.min(bytes.byteLength - done, 1 << 24))
    done += bytesWritten
  }
}
