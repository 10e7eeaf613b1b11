/** The arrays of an operation in host memory, which MPI reads and writes: those on the host in place, others as copies. */
import { bytesOf, bytesPerElement, type HostData, plainView } from '../base/dtype.js'
import { shapeText } from '../base/shape.js'
import { allocateOnHost } from '../memory/allocate.js'
import { refuseReadOnly } from '../memory/checks.js'
import { CPU } from '../memory/device.js'
import { refuseShrinking, refuseTransferred } from '../memory/host-memory.js'
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
 * @throws LilyError (as a rejection) for memory that is no longer valid; ERR_LILY_CUDA, ERR_LILY_OUT_OF_MEMORY
 */
export async function onHost(listed: readonly Argument[], reads = true): Promise<HostData[]> {
  // Code of the caller has run since the call was made.
  for (const { argument, operand } of listed) checkMemory(argument, operand)
  return Promise.all(
    listed.map(async ({ argument, operand }) => {
      const { memory, byteOffset, byteLength, dtype } = operand
      const bytes = bytesPerElement(dtype)
      if (isHostMemory(memory)) {
        return plainView(dtype, memory).subarray(byteOffset / bytes, (byteOffset + byteLength) / bytes)
      }
      const copy = allocateOnHost(argument, dtype, byteLength / bytes)
      if (reads) await download(operand, bytesOf(copy), byteOffset)
      return copy
    }),
  )
}

/**
 * Ends an operation that has written to `data`, which {@link onHost} returned: what is a copy is enqueued to its device.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for host memory that was transferred meanwhile; for device memory that is no longer valid:
 *   no copy has been enqueued
 */
export function writeBack(listed: readonly Argument[], data: readonly HostData[]): void {
  checkAfterwards(listed, data)
  for (const [i, { operand }] of listed.entries()) if (operand.device !== CPU) upload(operand, data[i])
}

/** The same for an operation that has only read `data`. */
export function checkAfterwards(listed: readonly Argument[], data: readonly HostData[]): void {
  for (const [i, { argument, operand }] of listed.entries()) {
    if (operand.device === CPU) refuseTransferred(argument, data[i])
    else checkMemory(argument, operand)
  }
}

/** What the ranks compare of an array. */
export function properties({ shape, dtype, device }: Operand): string[] {
  return [`of shape ${shapeText(shape)}`, `of type ${dtype}`, `on ${device.type}`]
}
