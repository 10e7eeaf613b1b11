/** Opens the file of an ONNX model. */
import { describe, fail } from '../base/errors.js'
import { openFile, readPath } from '../checkpoint/disk/disk.js'
import { checkpointError } from '../checkpoint/errors.js'
import { classOfData, FILE_DATA, type FileData, openData } from '../checkpoint/file-data.js'
import { fill, type OpenFile } from '../checkpoint/open-file.js'
import { allocating } from './memory.js'

/** Bytes of the largest protocol buffer. */
const MAX_BYTES = 2 ** 31 - 1

/** Opens a file at a path, or its content. */
export function openModel(argument: string, file: string | URL | FileData): Promise<OpenFile> {
  const open = openContent(file)
  return open === null
    ? openFile(readPath(argument, file, `a path as a string, a file: URL object, ${FILE_DATA}`))
    : Promise.resolve(open)
}

/** Opens the content of a file. */
export function openBytes(argument: string, bytes: FileData): OpenFile {
  return (
    openContent(bytes) ??
    fail('ERR_LILY_ARGUMENT', argument, `expected ${FILE_DATA}, got ${describe(bytes)}; for a path use injectFile`)
  )
}

function openContent(file: unknown): OpenFile | null {
  const type = classOfData(file)
  return type === null ? null : openData(type === 'File' ? (file as File).name : `the ${type}`, file as FileData)
}

/** Reads a file into memory of its own, and closes it. */
export async function readBytes(file: OpenFile): Promise<Uint8Array<ArrayBuffer>> {
  try {
    checkSize(file.path, file.size)
    const bytes = await allocating(file.path, () => new Uint8Array(file.size))
    await fill(file, bytes, 0)
    return bytes
  } finally {
    await file.close()
  }
}

/** Checks the size of a protocol buffer. */
export function checkSize(path: string, size: number): void {
  if (size <= MAX_BYTES) return
  throw checkpointError(
    path,
    `expected at most ${MAX_BYTES} bytes, which is the limit of protocol buffers, got ${size}; store the weights as external data`,
  )
}
