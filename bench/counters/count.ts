/**
 * Memory accesses and MMA instructions of calls, counted by the emulator. Every call runs through the public API in a
 * separate process. The counts of backward are the counts of forward and backward together, minus forward's.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Pass } from '../methods/methods.js'
import type { Job } from './counted-call.js'
import { EMULATED_MULTIPROCESSORS } from './gpus.js'

/** emulator/core/counters.h defines each. */
type Field =
  'matrix_instructions' | 'global_sectors' | 'global_sectors_ideal' | 'shared_wavefronts' | 'shared_wavefronts_ideal'
type Counters = Record<Field, number>

interface KernelCounters extends Counters {
  launches: number
  distinct_sectors_read: number
  distinct_sectors_written: number
}

export interface Counts {
  readonly launches: number
  /** Bytes of the distinct sectors that each launch touches, summed over launches; reads and writes count separately. */
  readonly touched: number
  /** Bytes of all sectors requested, from L2 or from memory. */
  readonly requested: number
  /** Sectors requested, relative to contiguous accesses to the same bytes. */
  readonly coalescing: number
  /** Wavefronts of shared memory in whole kernels, relative to accesses without bank conflicts. */
  readonly wavefronts: number
  /** MMA instructions of all warps. */
  readonly matrixInstructions: number
}

const SECTOR = 32
const root = fileURLToPath(new URL('../..', import.meta.url))

type Kernels = Map<string, KernelCounters>

async function countInChild(job: Job, pass: Pass, architecture: string, multiprocessors: number): Promise<Kernels> {
  const folder = mkdtempSync(join(tmpdir(), 'lily-counters-'))
  const file = join(folder, 'counters.json')
  try {
    const program = fileURLToPath(new URL('counted-call.ts', import.meta.url))
    const child = spawn(process.execPath, ['--import', 'tsx', program, pass, JSON.stringify(job)], {
      cwd: root,
      stdio: ['ignore', 'ignore', 'pipe'],
      env: {
        ...process.env,
        LILY_CUDA_LIBRARY: join(root, 'build/emulator/lily_cuda.so'),
        LILY_EMULATOR_COUNTERS: file,
        // Its launches would be counted.
        LILY_SELF_TEST: '0',
        LILY_EMULATOR_ARCH: architecture,
        LILY_EMULATOR_SMS: String(multiprocessors),
        // The test suite checks the kernels; this process only counts.
        LILY_EMULATOR_FAST: '1',
        LILY_EMULATOR_LEAKS: '0',
      },
    })
    let message = ''
    child.stderr.on('data', (text: Buffer) => (message += text.toString()))
    const [code] = (await once(child, 'close')) as [number | null]
    if (code !== 0) throw new Error(`counting ${JSON.stringify(job)} exited with ${code}: ${message}`)
    const { kernels } = JSON.parse(readFileSync(file, 'utf8')) as { kernels: Record<string, KernelCounters> }
    return new Map(Object.entries(kernels))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function summarise(kernels: Kernels, without: Kernels = new Map()): Counts {
  const total = (of: (kernel: KernelCounters) => number): number => {
    const sum = (all: Kernels) => [...all.values()].reduce((result, kernel) => result + of(kernel), 0)
    return sum(kernels) - sum(without)
  }
  const ratio = (a: number, b: number) => (b === 0 ? 1 : a / b)
  return {
    launches: total(({ launches }) => launches),
    touched: SECTOR * total((kernel) => kernel.distinct_sectors_read + kernel.distinct_sectors_written),
    requested: SECTOR * total((kernel) => kernel.global_sectors),
    coalescing: ratio(
      total((kernel) => kernel.global_sectors),
      total((kernel) => kernel.global_sectors_ideal),
    ),
    wavefronts: ratio(
      total((kernel) => kernel.shared_wavefronts),
      total((kernel) => kernel.shared_wavefronts_ideal),
    ),
    matrixInstructions: total((kernel) => kernel.matrix_instructions),
  }
}

/** @param architecture compute capability of the emulated GPU: 75, 90, ... */
export async function count(job: Job, architecture = '90'): Promise<{ forward: Counts; backward: Counts }> {
  const [forward, both] = await Promise.all(
    (['forward', 'forward+backward'] as const).map((pass) =>
      countInChild(job, pass, architecture, EMULATED_MULTIPROCESSORS),
    ),
  )
  return { forward: summarise(forward), backward: summarise(both, forward) }
}

/** Counts of forward alone. */
export const countOfForward = async (job: Job): Promise<Counts> =>
  summarise(await countInChild(job, 'forward', '90', EMULATED_MULTIPROCESSORS))

/** Wavefronts of shared memory and MMA instructions of the kernels of forward whose names contain `kernel`. */
export async function countForward(
  job: Job,
  kernel: string,
  architecture: string,
  multiprocessors: number,
): Promise<{ wavefronts: number; matrixInstructions: number }> {
  const kernels = [...(await countInChild(job, 'forward', architecture, multiprocessors))].filter(([name]) =>
    name.includes(kernel),
  )
  const sum = (field: Field) => kernels.reduce((total, [, counters]) => total + counters[field], 0)
  return { wavefronts: sum('shared_wavefronts'), matrixInstructions: sum('matrix_instructions') }
}
