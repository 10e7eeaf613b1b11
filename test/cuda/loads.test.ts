/**
 * No load waits alone. A thread that loads again and again from memory, and waits for each load before it issues the next, takes
 * the latency of memory every time: it keeps a few bytes in flight where dozens are necessary.
 *
 * The rule, for each kernel: of the bytes that threads load synchronously from global memory, at places of the source where a
 * thread loads at least 8 times, at least 90 % are waited for with 8 loads or 64 bytes in flight, or with as few waits as 8 loads
 * in flight would have required. emulator/core/loads_in_flight.h says what counts as a wait, and why these numbers. A place
 * where each thread loads fewer than 8 times, such as weights, offsets or the vectors of a thread that has few of them, cannot
 * have 8 in flight; other blocks cover its latency. Asynchronous copies are in flight without a thread that waits.
 */
import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { isEmulated } from '../support/backend.js'
import { type Job, runInChild } from '../support/child.js'
import type { Spec } from '../support/cases.js'
import { runProgram } from '../support/program.js'
import { temporaryFolder } from '../support/temporary.js'

interface Kernel {
  readonly global_sectors: number
  readonly lines: readonly Line[]
}

interface Line {
  readonly file: string
  readonly line: number
  readonly inlined_file?: string
  readonly inlined_line?: number
  readonly repeated_load_bytes: number
  readonly short_wait_bytes: number
}

const MOST_SHORT = 0.1
/** Where fewer bytes are waited for, of all that a kernel requests, they do not matter: those of R, for example. */
const LEAST_OF_ALL = 0.01
const SECTOR = 32
const folder = temporaryFolder()

/**
 * Of each kernel of a run: the share of the bytes above that threads wait for with fewer loads in flight, the share of these in
 * all bytes that the kernel requests, and where they wait.
 */
function shortWaits(file: string): { kernel: string; share: number; ofAll: number; where: string[] }[] {
  const { kernels } = JSON.parse(readFileSync(file, 'utf8')) as { kernels: Record<string, Kernel> }
  return Object.entries(kernels).map(([name, { lines, global_sectors: sectors }]) => {
    const kernel = name.replace(/^_ZN4lily4cuda\d+([a-z_]+)I.*$/, '$1')
    const total = (of: 'repeated_load_bytes' | 'short_wait_bytes') => lines.reduce((sum, line) => sum + line[of], 0)
    const where = lines
      .filter((line) => line.short_wait_bytes > 0)
      .map(({ file, line, inlined_file, inlined_line, short_wait_bytes: bytes }) => {
        const from = inlined_file === undefined ? '' : ` from ${basename(inlined_file)}:${inlined_line}`
        return `${basename(file)}:${line}${from}: ${bytes} bytes`
      })
    const short = total('short_wait_bytes')
    return {
      kernel,
      share: short / Math.max(total('repeated_load_bytes'), 1),
      ofAll: short / (SECTOR * sectors),
      where,
    }
  })
}

function expectNoShortWaits(file: string): void {
  const waits = shortWaits(file)
  expect(waits.length).toBeGreaterThan(1)
  expect(waits.filter(({ share, ofAll }) => share > MOST_SHORT && ofAll > LEAST_OF_ALL)).toEqual([])
}

// A few vectors per thread, and few enough tokens that they are not split where there is one multiprocessor: gradients are
// then added to the old ones without partial sums.
const base = { tokens: 100, dIn: 128, dOut: 128, experts: 4, scaling: 2, seed: 1 }
const specs = {
  batch: { ...base, routing: 'batch', rank: 16 },
  wide: { ...base, routing: 'batch', rank: 60, pool: 'logits' },
  sequence: { ...base, routing: 'sequence', rank: 16, lengths: [40, 60] },
  token: { ...base, routing: 'token', rank: 32 },
  lora: { ...base, routing: 'lora', rank: 32, experts: 1 },
  // So wide that R, of which each tile of tokens loads all, is a small part of the bytes.
  large: { ...base, routing: 'batch', rank: 160, dOut: 256 },
  decoding: { ...base, routing: 'batch', rank: 16, tokens: 5, dIn: 4096 },
} satisfies Record<string, Spec>

const runs: readonly { SMS: string; types: Partial<Spec>; names: readonly (keyof typeof specs)[] }[] = [
  { SMS: '64', types: { activations: 'bfloat16' }, names: ['batch', 'token'] },
  {
    SMS: '1',
    types: { activations: 'bfloat16' },
    names: ['batch', 'wide', 'sequence', 'token', 'lora', 'large', 'decoding'],
  },
  { SMS: '1', types: { activations: 'bfloat16', parameters: 'float32' }, names: ['batch', 'token'] },
  { SMS: '1', types: { activations: 'float32' }, names: ['batch'] },
  // Rows that are not aligned.
  { SMS: '1', types: { activations: 'bfloat16', dIn: 121, dOut: 123 }, names: ['batch', 'sequence', 'lora'] },
]

describe('loads in flight', () => {
  test.for(['64', '1'])('of all outputs accumulated, on %s multiprocessors', async (SMS, context) => {
    if (!isEmulated) context.skip('the device is a GPU, which has no counters')
    const file = join(folder, `calls-${SMS}.json`)
    const jobs = runs
      .filter((run) => run.SMS === SMS)
      .flatMap(({ types, names }) =>
        names.map((name): Job => ({ spec: { ...specs[name], ...types }, how: { outputs: 'add' } })),
      )
    const environment = { LILY_EMULATOR_COUNTERS: file, LILY_EMULATOR_FAST: '1', LILY_EMULATOR_SMS: SMS }
    const { refused } = await runInChild(jobs, environment)
    expect(refused).toBeUndefined()
    expectNoShortWaits(file)
  })

  test('of fold, AdamW and the frozen layer', async (context) => {
    if (!isEmulated) context.skip('the device is a GPU, which has no counters')
    const file = join(folder, 'others.json')
    const { code, text } = await runProgram('launches.js', { COUNTERS: file, FAST: '1' })
    expect(code, text).toBe(0)
    expectNoShortWaits(file)
  })
})
