/** How large a rotation of buffers must be for the caches to forget one before its turn comes again. */
import { readdirSync, readFileSync } from 'node:fs'

const MiB = 2 ** 20

/** Of Linux; where the machine does not say, that of a large one. */
function lastLevelBytes(): number {
  try {
    const folder = '/sys/devices/system/cpu/cpu0/cache'
    const sizes = readdirSync(folder)
      .filter((name) => name.startsWith('index'))
      .map((name) => readFileSync(`${folder}/${name}/size`, 'utf8'))
      .map((text) => parseInt(text, 10) * (text.includes('M') ? MiB : 1024))
    return Math.max(...sizes)
  } catch {
    return 64 * MiB
  }
}

/** Sets of `bytes` each, of which a call uses one: twice the last cache between two uses. */
export function coldSets(bytes: number, backend: 'cpu' | 'cuda'): number {
  // No GPU's L2 is larger than 128 MiB.
  const cache = backend === 'cuda' ? 128 * MiB : lastLevelBytes()
  return 1 + Math.max(1, Math.ceil((2 * cache) / bytes))
}
