/** Which kernels the CUDA library has, and which of them a process has executed on the emulator: by their symbols. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** The kernels in the PTX of a library, and for each the targets (sm_90a) of which it has code. */
export function kernelsWithCode(library: string): Map<string, string[]> {
  const text = readFileSync(library, 'latin1')
  const kernels = new Map<string, string[]>()
  for (const module of text.split(/^\.target (?=sm_)/m).slice(1)) {
    const target = /^\w+/.exec(module)![0]
    for (const entry of module.split('.visible .entry ').slice(1)) {
      const body = entry.slice(entry.indexOf('\n{'), entry.indexOf('\n}'))
      // What stop_without_code in native/cuda/tiles/matrix.cuh does; a kernel of a list finds its call first.
      if (body.includes('trap;')) continue
      const name = /^\w+/.exec(entry)![0]
      kernels.set(name, [...(kernels.get(name) ?? []), target])
    }
  }
  return kernels
}

/** Runs processes with the environment that it gets, and adds the kernels that they launched to `executed`. */
export async function recording<T>(
  executed: Set<string>,
  run: (environment: Record<string, string>) => Promise<T>,
): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'lily-executed-'))
  try {
    const result = await run({ LILY_EMULATOR_COUNTERS: join(folder, '%p.json') })
    for (const file of readdirSync(folder)) {
      const { kernels } = JSON.parse(readFileSync(join(folder, file), 'utf8')) as { kernels: object }
      for (const name of Object.keys(kernels)) executed.add(name)
    }
    return result
  } finally {
    rmSync(folder, { recursive: true })
  }
}
