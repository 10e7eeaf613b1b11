/**
 * Memory that nothing else uses. The package's own may belong to WebAssembly, which moves it, and ONNX Runtime may transfer its
 * inputs to a worker.
 */
import { isError, LilyError } from '../base/errors.js'

/**
 * What `allocate` returns. It takes each RangeError for a lack of memory: another cause is a deep recursion, which the
 * parser of models has limited before.
 *
 * @param what name of the allocation, for the message
 * @throws LilyError (as a rejection) ERR_LILY_OUT_OF_MEMORY
 */
export async function allocating<T>(what: string, allocate: () => T | Promise<T>): Promise<T> {
  try {
    return await allocate()
  } catch (cause) {
    if (!isError(cause) || cause.name !== 'RangeError') throw cause
    throw new LilyError('ERR_LILY_OUT_OF_MEMORY', `${what}: an allocation of host memory failed (${cause.message})`, {
      cause,
    })
  }
}
