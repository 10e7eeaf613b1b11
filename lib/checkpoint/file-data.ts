/** Files in the memory of a program, or that a browser has given it. */
import { messageOf, reading } from '../base/errors.js'
import { classNameOf, isFixed } from '../base/views.js'
import { checkpointError } from './errors.js'
import type { FileContent, OpenFile } from './open-file.js'

/** The content of a file. A `File` is also a `Blob`. */
export type FileData = Blob | ArrayBuffer | Uint8Array

/** In messages. */
export const FILE_DATA = 'a Blob, an ArrayBuffer or a Uint8Array'

/** The class of the content of a file, also of another realm; null for anything else. */
export function classOfData(value: unknown): 'Blob' | 'File' | 'ArrayBuffer' | 'Uint8Array' | null {
  if (typeof value !== 'object' || value === null) return null
  if (classNameOf(value) === 'Uint8Array') return 'Uint8Array'
  const tag = Object.prototype.toString.call(value).slice(8, -1)
  return tag === 'Blob' || tag === 'File' || tag === 'ArrayBuffer' ? tag : null
}

/**
 * Opens the content of a file. A Blob is read where it is, part by part.
 *
 * @param path name in messages
 */
export function openData(path: string, data: FileData): OpenFile {
  const type = classOfData(data)
  const isBlob = type === 'Blob' || type === 'File'
  // The constructor throws for a buffer that has been transferred.
  const all = reading(path, () => {
    if (isBlob) return data as Blob
    if (type === 'ArrayBuffer') return new Uint8Array(data as ArrayBuffer)
    const view = data as Uint8Array
    return new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
  })
  const size = isBlob ? (all as Blob).size : (all as Uint8Array).byteLength
  // A browser rejects, for example, if a Blob's file has changed since it was picked. A buffer may have been transferred,
  // or shrunk, since it was opened.
  const advice = isBlob ? 'pick the file again' : 'do not transfer or shrink its buffer until the file is read'
  return {
    path,
    size,
    read: async (bytes, position) => {
      try {
        const end = position + bytes.length
        const part = isBlob
          ? new Uint8Array(await (all as Blob).slice(position, end).arrayBuffer())
          : (all as Uint8Array).subarray(position, end)
        bytes.set(part)
        return part.length
      } catch (cause) {
        throw checkpointError(path, `cannot be read (${messageOf(cause)}); ${advice}`, cause)
      }
    },
    close: () => Promise.resolve(),
  }
}

/** Bytes that a Blob and crypto.subtle accept: bytes in shared memory, such as WebAssembly's, are copied. */
export function unshared(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return isFixed(bytes.buffer) ? (bytes as Uint8Array<ArrayBuffer>) : bytes.slice()
}

/** Collects files. Tensors are copied one at a time, into memory that a browser may keep on the disk. */
export async function toFiles(contents: readonly FileContent[]): Promise<File[]> {
  const files: File[] = []
  for (const { name, blocks, check } of contents) {
    const parts: Blob[] = []
    for await (const block of blocks()) {
      // Memory that was transferred meanwhile is empty. What follows the block in the iteration reports that.
      if (block.length > 0) parts.push(new Blob([unshared(block)]))
    }
    const file = new File(parts, name)
    await check?.(openData(name, file))
    files.push(file)
  }
  return files
}
