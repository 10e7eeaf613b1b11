/**
 * Lists of calls over disjoint rows, compared bit by bit with the calls on their own, whose rows are the whole of x and y.
 */
import { describe, expect, test, vi } from 'vitest'
import { GpuKernels } from '../../lib/webgpu/kernels.js'
import { type Case, makeCase, type Spec } from '../support/cases.js'
import { expectSameBits } from '../support/compare.js'
import { testGpu } from '../support/gpu-device.js'
import { randomFrom } from '../support/random.js'
import type { Values } from '../support/run.js'
import { type List, runRows } from './run-rows.js'
import { runOnGpu } from './run.js'

const { device, lily } = testGpu()
const kernels = new GpuKernels(device)

/** Sorted by case, in turns, or at random. */
type Pattern = 'sorted' | 'turns' | 'random'

/** The rows of cases with so many tokens; `base` more rows are of none. */
function spread(tokens: readonly number[], base: number, pattern: Pattern): Pick<List, 'rows' | 'all'> {
  const random = randomFrom(base + 1)
  const places = { sorted: (k: number) => k, turns: (_: number, t: number) => t, random }
  const owners = [base, ...tokens]
    .flatMap((count, k) => Array.from({ length: count }, (_, t) => ({ k: k - 1, at: places[pattern](k, t) })))
    .sort((p, q) => p.at - q.at)
  const rows = tokens.map((_, k) => [...owners.keys()].filter((row) => owners[row].k === k))
  return { rows, all: owners.length }
}

type Part = Partial<Spec> & Pick<Spec, 'routing' | 'tokens' | 'rank'>

/** Cases of one d_in and d_out. */
const casesOf = (parts: readonly Part[], common: Partial<Spec> = {}) =>
  parts.map((part, k) => makeCase({ dIn: 300, dOut: 70, experts: 1, seed: k + 1, ...common, ...part }))

/** Runs a list, and its cases on their own with dy times the factors; y is then compared times the factors. */
async function check(cases: readonly Case[], list: Omit<List, 'cases'>): Promise<void> {
  const { outputs, scale, all, rows } = list
  const scaled = (numbers: Float32Array, k: number) => {
    const cols = numbers.length / cases[k].tokens
    return scale ? numbers.map((value, i) => value * scale[k][Math.floor(i / cols)]) : numbers
  }
  const alone = []
  for (const [k, c] of cases.entries())
    alone.push(await runOnGpu(kernels, device, { ...c, dy: scaled(c.dy, k) }, { outputs }))
  const old = alone.map((result) => result.old)
  const { values, base, damaged } = await runRows(kernels, device, { ...list, cases }, old)
  expect(damaged).toEqual([])
  for (const [k, result] of alone.entries())
    for (const [name, expected] of Object.entries(result.values) as [keyof Values, Float32Array][])
      expectSameBits(`${name} of case ${k}`, values[k][name]!, name === 'y' ? scaled(expected, k) : expected)
  // The rows of no case.
  const count = all - rows.flat().length
  const [{ dIn, dOut }] = cases
  for (const [numbers, cols] of [[base.y, dOut] as const, [base.dx, dIn] as const])
    expect(numbers).toEqual(new Float32Array(count * cols).fill(outputs === 'add' ? 7 : 0))
}

interface How extends Omit<List, 'cases' | 'rows' | 'all'> {
  readonly pattern: Pattern
  readonly isScaled: boolean
}

const MIXES: readonly [string, Part[], Partial<Spec>, How][] = [
  [
    'LoRA, batch and token, with factors',
    [
      { routing: 'lora', tokens: 9, rank: 4 },
      { routing: 'batch', tokens: 20, rank: 4, experts: 3, masked: 0.3 },
      { routing: 'learned', tokens: 12, rank: 4, experts: 3 },
      { routing: 'lora', tokens: 1, rank: 16 },
      { routing: 'lora', tokens: 0, rank: 4 },
      { routing: 'batch', tokens: 7, rank: 6, experts: 2, masked: 0.2 },
      { routing: 'learned', tokens: 5, rank: 3, experts: 4 },
      { routing: 'token', tokens: 8, rank: 4, experts: 3 },
    ],
    {},
    { outputs: 'overwrite', gap: 2, pattern: 'random', isScaled: true },
  ],
  // Rows of an odd length: stores of neighbouring rows share words.
  [
    'weights of tokens, in bfloat16',
    [
      { routing: 'token', tokens: 20, rank: 4, experts: 3 },
      { routing: 'sequence', tokens: 13, rank: 5, experts: 3, lengths: [6, 0, 7], masked: 0.3 },
      { routing: 'token', tokens: 1, rank: 5, experts: 3 },
    ],
    { activations: 'bfloat16', dIn: 65, dOut: 33 },
    { outputs: 'add', pattern: 'turns', isScaled: false },
  ],
]

describe('the bits of separate calls', () => {
  for (const [name, parts, common, { pattern, isScaled, ...how }] of MIXES)
    test(name, async () => {
      const cases = casesOf(parts, common)
      const tokens = cases.map((c) => c.tokens)
      // Powers of two: products with them are exact.
      const scale = tokens.map((count) => Array.from({ length: count }, (_, t) => [1, 0.5, -2, 4][t % 4]))
      await check(cases, { ...how, ...spread(tokens, 6, pattern), ...(isScaled && { scale }) })
    })
})

test('an index is clamped to the rows', async () => {
  const cases = casesOf([{ routing: 'lora', tokens: 3, rank: 4 }])
  await check(cases, { outputs: 'overwrite', rows: [[0, 2, 4]], index: [[-5, 2, 2 ** 31 - 1]], all: 5 })
})

test('the dispatches of a call do not grow with its adapters', () => {
  const dispatch = vi.spyOn(GPUComputePassEncoder.prototype, 'dispatchWorkgroups')
  const counts = [1, 2, 8].map((count) => {
    const tensor = (rows: number, cols: number) => lily.tensor(new Float32Array(rows * cols), [rows, cols])
    const operands = { x: tensor(16, 8), a: tensor(4 * count, 8), b: tensor(8, 4 * count) }
    const rankOffsets = Array.from({ length: count + 1 }, (_, k) => 4 * k)
    const adapterOf = Array.from({ length: 16 }, (_, t) => t % count)
    dispatch.mockClear()
    const { y, saved } = lily.loraForward(operands, { rankOffsets, adapterOf })
    const forward = dispatch.mock.calls.length
    lily.loraBackward({ dy: y }, saved)
    return [forward, dispatch.mock.calls.length - forward]
  })
  dispatch.mockRestore()
  expect(counts).toEqual([
    [3, 3],
    [3, 3],
    [3, 3],
  ])
})
