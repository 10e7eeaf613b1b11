/** What this machine can do at most, measured in the run whose times are held against it. */
import { setImmediate } from 'node:timers/promises'
import { native } from '../lib/binding/native.js'
import type { BackendName, DeviceInfo } from '../lib/memory/backends.js'

export interface Roofs {
  /** float32 FLOP/s of multiply-adds. */
  readonly flops: number
  /** The same of products of bfloat16, where the processor has them; and of float16, which only GPUs have. */
  readonly bfloat16Flops: number
  readonly float16Flops: number
  /** Rates by the size of the buffer, ascending: bytes/s read, and bytes/s (read and written) updated in place. */
  readonly memory: readonly { readonly bytes: number; readonly read: number; readonly update: number }[]
}

const MiB = 2 ** 20

/** Of the levels of a processor's caches and of memory; of a GPU's cache and of its memory. */
function sizesFor(backend: BackendName, cache: number): number[] {
  if (backend === 'cpu') return [0.25, 1, 4, 8, 16, 32, 64, 256].map((size) => size * MiB)
  return [cache / 4, cache * 4]
}

/** Roofs of the first device of a backend. */
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
  const memory: Roofs['memory'][number][] = []
  for (const bytes of sizesFor(name, cache)) {
    memory.push({ bytes, read: await measure(roof.read, bytes), update: await measure(roof.update, bytes) })
  }
  return { flops, bfloat16Flops, float16Flops: name === 'cuda' ? bfloat16Flops : flops, memory }
}

/** The roofs of the memory level that a working set lives in: of the smallest measured buffer that is as large. */
export function memoryRoof(roofs: Roofs, workingSet: number): Roofs['memory'][number] {
  const level = roofs.memory.find(({ bytes }) => bytes >= workingSet) ?? roofs.memory.at(-1)
  if (level === undefined) throw new Error('no memory roof was measured')
  return level
}
