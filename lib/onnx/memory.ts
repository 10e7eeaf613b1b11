/**
 * Memory that nothing else uses. The package's own may be that of WebAssembly, which moves, and ONNX Runtime may transfer what
 * it receives to a worker.
 */
import { isError, LilyError } from '../base/errors.js'

/** Zeros, for a matrix of this name. */
export function newFloats(name: string, length: number): Float32Array<ArrayBuffer> {
  return allocating(name, () => new Float32Array(length))
}

/**
 * What `allocate` returns.
 *
 * @param what is allocated, for the message
 * @throws LilyError ERR_LILY_OUT_OF_MEMORY
 */
export function allocating<T>(what: string, allocate: () => T): T {
  try {
    return allocate()
  } catch (cause) {
    if (!isError(cause) || cause.name !== 'RangeError') throw cause
    throw new LilyError('ERR_LILY_OUT_OF_MEMORY', `${what}: an allocation of host memory failed (${cause.message})`, {
      cause,
    })
  }
}
