/** Roofs of the machine: peak arithmetic and memory bandwidth, measured in the same run as the times. */
import { totalmem } from 'node:os'
import { setImmediate } from 'node:timers/promises'
import { native } from '../../lib/binding/native.js'
import { backend, roof } from '../../lib/binding/slots.js'
import type { BackendName, DeviceInfo } from '../../lib/memory/backends.js'

export interface MemoryRoof {
  /** Size of the buffer, which is read or updated again and again. */
  readonly bytes: number
  /** Bytes/s of reading. */
  readonly read: number
  /** Bytes/s of updating in place, reads and writes counted. */
  readonly update: number
}

export interface Roofs {
  /** FLOP/s of float32 multiply-adds. */
  readonly flops: number
  /** FLOP/s of the instructions with which this machine multiplies bfloat16; without any, of float32 multiply-adds. */
  readonly bfloat16Flops: number
  /** What reached that rate: cuBLASLt, or a loop on registers and, on a GPU, why not cuBLASLt. */
  readonly bfloat16Source: string
  /** FLOP/s of float16 products; equal to `flops` on a CPU. */
  readonly float16Flops: number
  /** Memory bandwidth by buffer size, ascending. The last buffer is several times as large as the caches. */
  readonly memory: readonly MemoryRoof[]
}

const KiB = 2 ** 10
const MiB = 2 ** 20

/**
 * Buffer sizes, ascending. On a CPU: from parts that fit in the L1 cache of every thread to a buffer that is much
 * larger than the last-level cache, each 2^octaves times the size before: half an octave, because around the size of a
 * cache the rate changes within a factor of two. Wider steps find a faster memory for some working sets, and so lower floors.
 * On a GPU: around the size of L2. On a CPU no buffer has more than `most` bytes.
 */
export function bufferSizes(
  backend: BackendName,
  { cache = 64 * MiB, threads = 1 }: DeviceInfo,
  octaves = 0.5,
  most = Infinity,
): number[] {
  if (backend === 'cuda') return [1 / 4, 1 / 2, 1, 2, 4].map((share) => cache * share)
  // Half the memory of a small machine is not available to a benchmark.
  const largest = Math.min(Math.max(256 * MiB, 4 * cache), totalmem() / 8, most)
  const sizes = [16 * KiB * threads]
  while (sizes.at(-1)! < largest) {
    sizes.push(Math.min(Math.round(16 * threads * 2 ** (sizes.length * octaves)) * KiB, largest))
  }
  return sizes
}

type Measure = (roof: number, bytes: number) => Promise<number>

/** On a GPU, cuBLASLt's rate if it is installed: it uses instructions that no loop of this package has. */
async function bfloat16Roof(name: BackendName, measure: Measure): Promise<[flops: number, source: string]> {
  let source = 'a loop on registers'
  if (name === 'cuda') {
    try {
      return [await measure(roof.product, 0), 'cuBLASLt']
    } catch (error) {
      // An error of the addon, which is not yet a LilyError.
      const { code, message } = error as NodeJS.ErrnoException
      if (code !== 'ERR_LILY_BACKEND_UNAVAILABLE') throw error
      source += ` (${message})`
    }
  }
  return [await measure(roof.bfloat16, 0), source]
}

/** Measures the roofs of the first device of a backend. `octaves` and `most` as for bufferSizes. */
export async function measureRoofs(
  name: BackendName,
  device: DeviceInfo,
  signal: AbortSignal,
  octaves?: number,
  most?: number,
): Promise<Roofs> {
  const measure: Measure = async (kind, bytes) => {
    await setImmediate()
    signal.throwIfAborted()
    return native.measureRoof(backend[name], 0, kind, bytes)
  }
  const flops = await measure(roof.multiplyAdd, 0)
  const [bfloat16Flops, bfloat16Source] = await bfloat16Roof(name, measure)
  const memory: MemoryRoof[] = []
  for (const bytes of bufferSizes(name, device, octaves, most)) {
    memory.push({ bytes, read: await measure(roof.read, bytes), update: await measure(roof.update, bytes) })
  }
  return { flops, bfloat16Flops, bfloat16Source, float16Flops: name === 'cuda' ? bfloat16Flops : flops, memory }
}

/** The faster of two measurements of each roof: what disturbs one makes it slower. */
export function fasterRoofs(first: Roofs, second: Roofs): Roofs {
  const { bfloat16Source } = first.bfloat16Flops > second.bfloat16Flops ? first : second
  return {
    flops: Math.max(first.flops, second.flops),
    bfloat16Flops: Math.max(first.bfloat16Flops, second.bfloat16Flops),
    bfloat16Source,
    float16Flops: Math.max(first.float16Flops, second.float16Flops),
    memory: first.memory.map(({ bytes, read, update }, i) => ({
      bytes,
      read: Math.max(read, second.memory[i].read),
      update: Math.max(update, second.memory[i].update),
    })),
  }
}

/**
 * The bandwidth for a working set: no measured buffer of that size or more is faster. The buffers counted are the largest
 * that is at most as large as the working set, and all larger ones, so that neither the steps between the sizes nor a
 * disturbed measurement gives a rate that a call exceeds.
 */
export function bandwidthFor({ memory }: Roofs, workingSet: number): Pick<MemoryRoof, 'read' | 'update'> {
  const first = memory.findLastIndex(({ bytes }) => bytes <= workingSet)
  const levels = memory.slice(Math.max(first, 0))
  if (levels.length === 0) throw new Error('no memory roof was measured')
  return {
    read: Math.max(...levels.map(({ read }) => read)),
    update: Math.max(...levels.map(({ update }) => update)),
  }
}
