/** Writes safetensors files one tensor at a time, byte for byte as the format's reference implementation does. */
import { bytesOf, type DType, type HostData } from '../base/dtype.js'
import { describe, fail } from '../base/errors.js'
import { entriesOf, isPlain, type Named } from '../base/options.js'
import { checkMemory, failDetached } from '../memory/operand.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import { Tensor, tensorOf } from '../tensor/tensor.js'
import { copyOnHost } from '../tensor/transfer.js'
import { readPath, replaceFile } from './disk/disk.js'
import { checkpointError, quote } from './errors.js'
import { MAX_NAME } from './json.js'
import type { FileContent, OpenFile } from './open-file.js'
import { readHeader, type StoredTensor } from './safetensors-file.js'
import { byteLengthOf, DTYPES, MAX_HEADER_BYTES, PREFIX_BYTES } from './safetensors-header.js'

export interface TensorSource {
  /** The format's name: F32, BF16, F16, ... */
  readonly dtype: string
  readonly shape: readonly number[]
  /** Returns the data. It is called when the tensor is written. */
  readonly bytes: () => Uint8Array | Promise<Uint8Array>
}

/** The format's names of this package's float types. */
const STORED: Readonly<Partial<Record<DType, string>>> = { float32: 'F32', bfloat16: 'BF16', float16: 'F16' }

/**
 * Writes a safetensors file in the order of the format's reference implementation. A failure, or a crash at any time,
 * leaves the file that was there before. The header is read back before the file takes its name.
 *
 * @param tensors by their names, in every form that a call accepts, on any device; float32, bfloat16 or float16. A
 *   `{ data, shape, dtype }` of shape [] is a scalar. They must not change until the promise resolves
 * @param metadata of the file: strings by strings
 * @throws LilyError ERR_LILY_ARGUMENT for a name or a metadata value that is not a string, ERR_LILY_SHAPE, ERR_LILY_DTYPE;
 *   ERR_LILY_CHECKPOINT if the file cannot be written; ERR_LILY_ARGUMENT with the tensor's name if its buffer is
 *   transferred meanwhile. The old file is unchanged then
 * @example
 * await writeSafetensors('model.safetensors', { weight: tensor([1, 2, 3, 4], [2, 2]) }, { step: '3' })
 */
export async function writeSafetensors(
  path: string | URL,
  tensors: Named<TensorLike>,
  metadata: Named<string> = new Map(),
): Promise<void> {
  const file = readPath('path', path)
  const sources = new Map(entriesOf('tensors', tensors).map(([name, value]) => [name, sourceOf(value, name)]))
  const texts = new Map(entriesOf('metadata', metadata))
  for (const [key, value] of texts) {
    if (typeof value === 'string') continue
    fail(
      'ERR_LILY_ARGUMENT',
      'metadata',
      `expected a string for ${quote(key)}, as the format has only strings, got ${describe(value)}; convert it`,
    )
  }
  await replaceWithTensors(file, sources, texts)
}

/** A tensor to write. Device memory is copied to the host when the tensor is written, so one at a time. */
export function sourceOf(value: TensorLike, name: string): TensorSource {
  const scalar = asVector(value)
  const operand = resolve(name, scalar ?? value)
  checkMemory(name, operand)
  const owned = value instanceof Tensor ? value : tensorOf(operand)
  const stored = STORED[owned.dtype]
  if (stored === undefined) {
    return fail(
      'ERR_LILY_DTYPE',
      'tensors',
      `${quote(name)}: expected float32, bfloat16 or float16, got ${owned.dtype}; convert it`,
    )
  }
  const bytes = async () => {
    checkMemory(name, operand) // the tensor may have been disposed of since, or its memory transferred
    const host = resolve(name, await owned.toHost())
    checkMemory(name, host)
    const { memory, byteOffset, byteLength } = host.rows > 1 && host.pitch !== host.columns ? copyOnHost(host) : host
    return bytesOf(memory as HostData).subarray(byteOffset, byteOffset + byteLength)
  }
  return { dtype: stored, shape: scalar === null ? owned.shape : [], bytes }
}

/** A scalar, which a file may hold but no operand is, as a tensor of one element; null for any other value. */
function asVector(value: TensorLike): StoredTensor | null {
  if (!isPlain(value)) return null
  const scalar = { ...(value as StoredTensor) }
  return Array.isArray(scalar.shape) && scalar.shape.length === 0 ? { ...scalar, shape: [1] } : null
}

export async function replaceWithTensors(
  path: string,
  tensors: ReadonlyMap<string, TensorSource>,
  metadata: ReadonlyMap<string, string>,
): Promise<void> {
  await replaceFile(path, tensorsContent(path, tensors, metadata))
}

/**
 * Checks names, metadata and sizes, and returns the content of the file.
 *
 * @param path for errors
 */
export function tensorsContent(
  path: string,
  tensors: ReadonlyMap<string, TensorSource>,
  metadata: ReadonlyMap<string, string>,
): Omit<FileContent, 'name'> {
  const sorted = sortTensors(tensors)
  const header = headerOf(path, sorted, metadata)
  return {
    blocks: async function* () {
      yield header
      for (const [name, source] of sorted) yield* tensorBlocks(path, name, source)
    },
    check: (written) => checkWritten(written, sorted, metadata),
  }
}

/** The data of a tensor, as one block. */
async function* tensorBlocks(path: string, name: string, source: TensorSource): AsyncIterable<Uint8Array> {
  const bytes = await source.bytes()
  if (bytes.byteLength !== byteLengthOf(source)) {
    throw checkpointError(
      path,
      `tensor ${quote(name)}: expected ${byteLengthOf(source)} bytes to write, got ${bytes.byteLength}; ` +
        `do not change a model while it is saved`,
    )
  }
  yield bytes
  // A transfer while it was written leaves no bytes.
  if (bytes.byteLength !== byteLengthOf(source)) failDetached(name)
}

/** Reads the header back: a file that no reader accepts must not replace one that was good. */
async function checkWritten(
  file: OpenFile,
  tensors: readonly [string, TensorSource][],
  metadata: ReadonlyMap<string, string>,
): Promise<void> {
  const header = await readHeader(file)
  const textOf = (tensor?: Pick<TensorSource, 'dtype' | 'shape'>) => JSON.stringify([tensor?.dtype, tensor?.shape])
  // By name: JSON.parse puts names that are integers first.
  const isSame =
    header.tensors.size === tensors.length &&
    tensors.every(([name, source]) => textOf(header.tensors.get(name)) === textOf(source)) &&
    header.metadata.size === metadata.size &&
    [...metadata].every(([key, text]) => header.metadata.get(key) === text)
  if (!isSame)
    throw checkpointError(file.path, 'the header that was written reads back differently; the old file was kept')
}

/**
 * Tensors in the reference implementation's order: by type, the last of DTYPES first, then by the bytes of the name.
 */
function sortTensors(tensors: ReadonlyMap<string, TensorSource>): [string, TensorSource][] {
  const encoder = new TextEncoder()
  const encoded = Array.from(tensors, (entry) => ({ entry, bytes: encoder.encode(entry[0]) }))
  encoded.sort((left, right) => byType(left.entry[1], right.entry[1]) || byBytes(left.bytes, right.bytes))
  return encoded.map(({ entry }) => entry)
}

function byType(left: TensorSource, right: TensorSource): number {
  return DTYPES.indexOf(right.dtype) - DTYPES.indexOf(left.dtype)
}

function byBytes(left: Uint8Array, right: Uint8Array): number {
  const length = Math.min(left.length, right.length)
  for (let i = 0; i < length; i++) if (left[i] !== right[i]) return left[i] - right[i]
  return left.length - right.length
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
    const pairs = [...metadata].map(([key, value]) => `${nameLiteral(path, key)}:${literal(path, value)}`)
    members.push(`"__metadata__":{${pairs.join(',')}}`)
  }
  let end = 0
  for (const [name, source] of tensors) {
    if (name === '__metadata__')
      throw checkpointError(path, `expected no tensor named '__metadata__', which the format reserves; rename it`)
    const begin = end
    end += byteLengthOf(source)
    const { dtype, shape } = source
    members.push(`${nameLiteral(path, name)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, end] })}`)
  }
  const json = new TextEncoder().encode(`{${members.join(',')}}`)
  const length = Math.ceil(json.length / PREFIX_BYTES) * PREFIX_BYTES
  if (length > MAX_HEADER_BYTES) {
    throw checkpointError(
      path,
      `expected a header of at most ${MAX_HEADER_BYTES} bytes, got ${length}; save fewer tensors`,
    )
  }
  const bytes = new Uint8Array(PREFIX_BYTES + length).fill(' '.charCodeAt(0))
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true)
  bytes.set(json, PREFIX_BYTES)
  return bytes
}

/** A name of a tensor, or a key of the metadata, that a reader accepts. */
function nameLiteral(path: string, name: string): string {
  if (name.length > MAX_NAME) {
    throw checkpointError(path, `expected names of at most ${MAX_NAME} characters, got ${quote(name)}; rename it`)
  }
  return literal(path, name)
}

function literal(path: string, text: string): string {
  if (/\p{Surrogate}/u.test(text)) {
    throw checkpointError(path, `expected well-formed Unicode, got a lone surrogate in ${quote(text)}; rename it`)
  }
  return JSON.stringify(text)
}
