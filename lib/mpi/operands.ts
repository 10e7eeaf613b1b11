/**
 * The arrays of an operation in host memory, which MPI reads and writes on its thread: copies, because code of the caller may
 * transfer memory while the operation is pending, but for shared memory, which stays where it is.
 */
import { bytesOf, bytesPerElement, type HostData, plainView } from '../base/dtype.js'
import { shapeText } from '../base/shape.js'
import { allocateOnHost } from '../memory/allocate.js'
import { refuseReadOnly } from '../memory/checks.js'
import { isShared, refuseShrinking, refuseTransferred } from '../memory/host-memory.js'
import { isHostMemory } from '../memory/operand-memory.js'
import { checkMemory, type Operand } from '../memory/operand.js'
import { download, upload } from '../tensor/transfer.js'

/** An array of a call. It is contiguous. */
export interface Argument {
  /** What errors call it. */
  readonly argument: string
  readonly operand: Operand
}

/** Checks, before anything is exchanged, an array that an operation writes. */
export function checkWritable({ argument, operand }: Argument): void {
  const { memory } = operand
  if (operand.isReadOnly) refuseReadOnly(argument)
  if (isHostMemory(memory)) refuseShrinking(argument, memory)
}

/**
 * The numbers of arrays in host memory. All downloads from devices run at once.
 *
 * @param reads without it the contents of copies are undefined
 * @param last what this returned for an earlier operation, which is done, on arrays of the same {@link layoutOf}. New copies take
 *   several times as long, because their pages are new to the process
 * @throws LilyError (as a rejection) for memory that is no longer valid; ERR_LILY_CUDA, ERR_LILY_OUT_OF_MEMORY
 */
export async function onHost(
  listed: readonly Argument[],
  reads = true,
  last: readonly HostData[] = [],
): Promise<HostData[]> {
  // Code of the caller has run since the call was made.
  for (const { argument, operand } of listed) checkMemory(argument, operand)
  return Promise.all(
    listed.map(async ({ argument, operand }, i) => {
      const { memory, byteOffset, byteLength, dtype } = operand
      if (isInPlace(operand)) return hostView(operand)
      const copy = last.at(i) ?? allocateOnHost(argument, dtype, byteLength / bytesPerElement(dtype))
      if (!reads) return copy
      if (isHostMemory(memory)) copy.set(hostView(operand))
      else await download(operand, bytesOf(copy), byteOffset)
      return copy
    }),
  )
}

/**
 * Ends an operation that has written to `data`, which {@link onHost} returned: copies are written to the arrays, or enqueued to
 * their device.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for host memory that was transferred meanwhile; for memory that is no longer valid: nothing
 *   but shared memory has been written
 */
export function writeBack(listed: readonly Argument[], data: readonly HostData[]): void {
  for (const { argument, operand } of listed) {
    if (isHostMemory(operand.memory)) refuseTransferred(argument, operand.memory)
    checkMemory(argument, operand)
  }
  for (const [i, { operand }] of listed.entries()) {
    if (!isHostMemory(operand.memory)) upload(operand, data[i])
    else if (!isInPlace(operand)) hostView(operand).set(data[i])
  }
}

/** Whether an operation works on the array itself. */
function isInPlace({ memory }: Operand): boolean {
  return isHostMemory(memory) && isShared(memory.buffer)
}

/** What the copy of an array depends on. */
export function layoutOf({ operand }: Argument): string {
  return isInPlace(operand) ? 'in place' : `${operand.dtype} ${operand.byteLength}`
}

/** The numbers of a contiguous array on the host. */
function hostView({ memory, byteOffset, byteLength, dtype }: Operand): HostData {
  const bytes = bytesPerElement(dtype)
  return plainView(dtype, memory as HostData).subarray(byteOffset / bytes, (byteOffset + byteLength) / bytes)
}

/** What the ranks compare of an array. */
export function properties({ shape, dtype, device }: Operand): string[] {
  return [`of shape ${shapeText(shape)}`, `of type ${dtype}`, `on ${device.type}`]
}
