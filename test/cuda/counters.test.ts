/** What the kernels do to memory and matrix units, in counts of the emulator, against bench/counters/budgets.ts. */
import { describe, expect, test } from 'vitest'
import { atScale, type Budget, budgets, unmodelled } from '../../bench/counters/budgets.js'
import { count, type Counts } from '../../bench/counters/count.js'
import { backwardTraffic, devices, forwardTraffic } from '../../bench/counters/traffic.js'
import { dtypes } from '../../bench/dtypes.js'
import { type Direction, fewestBytes } from '../../bench/floor.js'
import type { Shape } from '../../bench/shapes.js'
import { isEmulated } from '../support/backend.js'

const DIRECTIONS = ['forward', 'backward'] as const
const title = ({ tokens, d, rank, experts }: Shape) => `(${[tokens, d, rank, experts].join(', ')})`
const fewest = (direction: Direction, shape: Shape) => fewestBytes(direction, shape, 'batch', dtypes.bfloat16)

/** Skips where the device is a GPU. */
function needsEmulator(context: { skip: (reason: string) => void }): void {
  if (!isEmulated) context.skip('a GPU takes part, which does not count')
}

const model = (direction: Direction, shape: Shape, device = devices.emulator) =>
  (direction === 'forward' ? forwardTraffic : backwardTraffic)(shape, device)

function expectWithin(counts: Counts, budget: Budget, fewestBytes: number): void {
  expect(counts.launches).toBeLessThanOrEqual(budget.launches)
  expect(counts.touched / fewestBytes).toBeLessThanOrEqual(budget.touched)
  expect(counts.coalescing).toBeLessThanOrEqual(budget.coalescing)
  expect(counts.wavefronts).toBeLessThanOrEqual(budget.wavefronts)
  // Below the least possible something would not have been counted.
  expect(counts.touched).toBeGreaterThanOrEqual(fewestBytes)
  expect(counts.coalescing).toBeGreaterThanOrEqual(1)
  expect(counts.wavefronts).toBeGreaterThanOrEqual(1)
}

/** The formula is no guess: it gives what is counted, but for the ends of rows that share a sector. */
function expectModelled(counts: Counts, direction: Direction, shape: Shape): void {
  expect(Math.abs(counts.touched / model(direction, shape).touched - 1), direction).toBeLessThan(1e-3)
}

// Turing's matrix units take float16, and half the depth at a time; nothing else is another number there.
describe.each([
  ['bfloat16', '80', 1],
  ['float16', '75', 2],
] as const)('%s on sm_%s, all outputs accumulated into', (dtype, architecture, halves) => {
  for (const { shape, ...budget } of [...budgets, ...unmodelled])
    test(title(shape), async (context) => {
      needsEmulator(context)
      const counts = await count({ shape, dtype, method: 'batch' }, architecture)
      for (const direction of DIRECTIONS) {
        expectWithin(counts[direction], budget[direction], fewest(direction, shape))
        if (budgets.some((each) => each.shape === shape)) expectModelled(counts[direction], direction, shape)
        // Where the sides of the result are no multiples of a tile, more would be rounding; few tokens fill no tile.
        const { tokens, d, rank } = shape
        const least = (halves * (direction === 'forward' ? 2 : 4) * tokens * rank * d) / 2048
        if (tokens >= 1024 || rank > 128) expect(counts[direction].matrixInstructions / least).toBeLessThanOrEqual(1.1)
      }
    })
})

describe('bfloat16, all outputs accumulated into', () => {
  // dy is larger than half of the emulator's cache: read once by one kernel, and in splits that fit into the cache.
  for (const shape of [
    { tokens: 1280, d: 1024, rank: 8, experts: 4 },
    { tokens: 1152, d: 1024, rank: 48, experts: 4 },
  ])
    test(`dy larger than the cache, ${title(shape)}`, async (context) => {
      needsEmulator(context)
      const counts = await count({ shape, dtype: 'bfloat16', method: 'batch' })
      for (const direction of DIRECTIONS) expectModelled(counts[direction], direction, shape)
    })
})

describe('the formula', () => {
  for (const { shape, ...most } of atScale)
    for (const [name, device] of Object.entries(devices))
      if (name !== 'emulator')
        test(`${title(shape)} on ${name}`, () => {
          for (const direction of DIRECTIONS)
            expect(model(direction, shape, device).moved / fewest(direction, shape), direction).toBeLessThanOrEqual(
              most[direction],
            )
        })
})
