/** What this machine can do at most, measured in the run whose times are held against it. */
import { setImmediate } from 'node:timers/promises'
import { native } from '../lib/native.js'

export interface Roofs {
  /** float32 FLOP/s of multiply-adds. */
  readonly flops: number
  /** The same of products of bfloat16, where the processor has them. */
  readonly bfloat16Flops: number
  /** Rates by the size of the buffer, ascending: bytes/s read, and bytes/s (read and written) updated in place. */
  readonly memory: readonly { readonly bytes: number; readonly read: number; readonly update: number }[]
}

const MiB = 2 ** 20
const sizes = [0.25, 1, 4, 8, 16, 32, 64, 256].map((size) => size * MiB)

/** Roofs of the cpu backend. */
export async function measureRoofs(signal: AbortSignal): Promise<Roofs> {
  const { roof, backend } = native.constants
  const measure = async (kind: number, bytes: number): Promise<number> => {
    await setImmediate()
    signal.throwIfAborted()
    return native.measureRoof(backend.cpu, 0, kind, bytes)
  }
  const flops = await measure(roof.multiplyAdd, 0)
  const bfloat16Flops = await measure(roof.bfloat16, 0)
  const memory: Roofs['memory'][number][] = []
  for (const bytes of sizes) {
    memory.push({ bytes, read: await measure(roof.read, bytes), update: await measure(roof.update, bytes) })
  }
  return { flops, bfloat16Flops, memory }
}

/** The roofs of the memory level that a working set lives in: of the smallest measured buffer that is as large. */
export function memoryRoof(roofs: Roofs, workingSet: number): Roofs['memory'][number] {
  const level = roofs.memory.find(({ bytes }) => bytes >= workingSet) ?? roofs.memory.at(-1)
  if (level === undefined) throw new Error('no memory roof was measured')
  return level
}
