/**
 * No load waits alone. A thread that loads again and again from memory, and waits for each load before it issues the next, takes
 * the latency of memory every time: it keeps a few bytes in flight where dozens are necessary.
 *
 * The rule, for each kernel: of the bytes that threads load synchronously from global memory, at places in the source where a
 * thread loads at least 8 times, at least 90 % are loaded with at least 8 loads in flight. Loads are in flight from where a
 * thread issues them to where it first uses a value of any of them; the emulator counts this in the order of the PTX
 * (emulator/core/loads_in_flight.h). A place where each thread loads fewer than 8 times, such as weights, offsets or the
 * vectors of a thread that has few of them, cannot have 8 in flight; blocks beside it cover its latency. Asynchronous copies
 * are in flight without a thread that waits, and do not count.
 */
import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { isEmulated } from '../support/backend.js'
import { type Job, runInChild } from '../support/child.js'
import type { Spec } from '../support/cases.js'
import { runProgram } from '../support/program.js'
import { temporaryFolder } from '../support/temporary.js'

interface Line {
  readonly file: string
  readonly line: number
  readonly inlined_file?: string
  readonly inlined_line?: number
  readonly repeated_load_bytes: number
  readonly short_wait_bytes: number
}

const MOST_SHORT = 0.1
const folder = temporaryFolder()

/** Of each kernel of a run: the share of the bytes above that threads wait for with fewer loads in flight, and where. */
function shortShares(file: string): { kernel: string; share: number; where: string[] }[] {
  const { kernels } = JSON.parse(readFileSync(file, 'utf8')) as { kernels: Record<string, { lines: Line[] }> }
  return Object.entries(kernels).map(([kernel, { lines }]) => {
    const total = (of: 'repeated_load_bytes' | 'short_wait_bytes') => lines.reduce((sum, line) => sum + line[of], 0)
    const where = lines
      .filter((line) => line.short_wait_bytes > 0)
      .map(({ file, line, inlined_file, inlined_line, short_wait_bytes: bytes }) => {
        const from = inlined_file === undefined ? '' : ` from ${basename(inlined_file)}:${inlined_line}`
        return `${basename(file)}:${line}${from}: ${bytes} bytes`
      })
    return { kernel, share: total('short_wait_bytes') / Math.max(total('repeated_load_bytes'), 1), where }
  })
}

function expectNoShortWaits(file: string): Set<string> {
  const shares = shortShares(file)
  expect(shares.filter(({ share }) => share > MOST_SHORT)).toEqual([])
  return new Set(shares.map(({ kernel }) => kernel.replace(/^.*?(\w+)<.*$/, '$1')))
}

// Several vectors per thread, in whole tiles and with ragged ends.
const base = { tokens: 200, dIn: 256, dOut: 256, experts: 4, scaling: 2, seed: 1 }
const specs: Spec[] = [
  { ...base, routing: 'batch', rank: 16 },
  { ...base, routing: 'batch', rank: 64, pool: 'logits' },
  { ...base, routing: 'sequence', rank: 16, lengths: [70, 130] },
  { ...base, routing: 'token', rank: 32 },
  { ...base, routing: 'lora', rank: 32, experts: 1 },
  { ...base, routing: 'batch', rank: 160 },
  { ...base, routing: 'batch', rank: 16, tokens: 5, dIn: 4096 },
]
const jobs = specs.flatMap((spec): Job[] =>
  [
    { activations: 'bfloat16' },
    { activations: 'bfloat16', parameters: 'float32' },
    { activations: 'float32' },
    { activations: 'bfloat16', dIn: 249, dOut: 251 },
  ].map((types) => ({ spec: { ...spec, ...types } as Spec, how: { outputs: 'add' } })),
)

describe('loads in flight', () => {
  test('of forward and backward, all outputs accumulated', async (context) => {
    if (!isEmulated) context.skip('the device is a GPU, which has no counters')
    const file = join(folder, 'calls.json')
    await runInChild(jobs, { LILY_EMULATOR_COUNTERS: file, LILY_EMULATOR_FAST: '1' })
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
