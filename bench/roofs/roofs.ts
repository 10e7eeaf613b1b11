/** Roofs of the machine: peak arithmetic and memory bandwidth, measured in the same run as the times. */
import { setImmediate } from 'node:timers/promises'
import { native } from '../../lib/binding/native.js'
import type { BackendName, DeviceInfo } from '../../lib/memory/backends.js'

export interface MemoryRoof {
  /** Size of the buffer. */
  readonly bytes: number
  /** Bytes/s of reading. */
  readonly read: number
  /** Bytes/s of updating in place, reads and writes counted. */
  readonly update: number
}

export interface Roofs {
  /** FLOP/s of float32 multiply-adds. */
  readonly flops: number
  /** FLOP/s of bfloat16 products, or of float32 multiply-adds if the processor has no such products. */
  readonly bfloat16Flops: number
  /** FLOP/s of float16 products; equal to `flops` on a CPU. */
  readonly float16Flops: number
  /** Memory bandwidth by buffer size, ascending. */
  readonly memory: readonly MemoryRoof[]
}

const MiB = 2 ** 20

/** Buffer sizes for the cache levels and the memory of a CPU, or for the L2 and the memory of a GPU. */
function bufferSizes(backend: BackendName, cache: number): number[] {
  if (backend === 'cpu') return [0.25, 1, 4, 8, 16, 32, 64, 256].map((size) => size * MiB)
  return [cache / 4, cache * 4]
}

/** Measures the roofs of the first device of a backend. */
export async function measureRoofs(
  name: BackendName,
  { cache = 64 * MiB }: DeviceInfo,
  signal: AbortSignal,
): Promise<Roofs> {
  const { roof, backend } = native.constants
  const measure = async (kind: number, bytes: number): Promise<number> => {
    await setImmediate()
    signal.throwIfAborted()
    return native.measureRoof(backend[name], 0, kind, bytes)
  }
  const flops = await measure(roof.multiplyAdd, 0)
  const bfloat16Flops = await measure(roof.bfloat16, 0)
  const memory: MemoryRoof[] = []
  for (const bytes of bufferSizes(name, cache)) {
    memory.push({ bytes, read: await measure(roof.read, bytes), update: await measure(roof.update, bytes) })
  }
  return { flops, bfloat16Flops, float16Flops: name === 'cuda' ? bfloat16Flops : flops, memory }
}

/** The roof of the memory level that holds a working set: that of the smallest measured buffer of at least its size. */
export function memoryRoof(roofs: Roofs, workingSet: number): MemoryRoof {
  const level = roofs.memory.find(({ bytes }) => bytes >= workingSet) ?? roofs.memory.at(-1)
  if (level === undefined) throw new Error('no memory roof was measured')
  return level
}
