/** Memory accesses and MMA instructions of the kernels, counted by the emulator, against bench/counters/budgets.ts. */
import { describe, expect, test } from 'vitest'
import { atScale, type Budget, budgets, unmodelled } from '../../bench/counters/budgets.js'
import { count, type Counts } from '../../bench/counters/count.js'
import { backwardTraffic, devices, forwardTraffic } from '../../bench/counters/traffic.js'
import { type Direction, minimumBytes } from '../../bench/roofs/work.js'
import { dtypes } from '../../bench/workload/dtypes.js'
import { type Shape, shapeText } from '../../bench/workload/shapes.js'
import { isEmulated } from '../support/backend.js'

const DIRECTIONS = ['forward', 'backward'] as const
const title = (shape: Shape) => `(${shapeText(shape)})`
const minimum = (direction: Direction, shape: Shape) => minimumBytes(direction, shape, 'batch', dtypes.bfloat16)

/** Skips the test on a GPU. */
function needsEmulator(context: { skip: (reason: string) => void }): void {
  if (!isEmulated) context.skip('the device is a GPU, which has no counters')
}

const model = (direction: Direction, shape: Shape, device = devices.emulator) =>
  (direction === 'forward' ? forwardTraffic : backwardTraffic)(shape, device)

function expectWithin(counts: Counts, budget: Budget, minBytes: number): void {
  expect(counts.launches).toBeLessThanOrEqual(budget.launches)
  expect(counts.touched / minBytes).toBeLessThanOrEqual(budget.touched)
  expect(counts.coalescing).toBeLessThanOrEqual(budget.coalescing)
  expect(counts.wavefronts).toBeLessThanOrEqual(budget.wavefronts)
  // Counts below the minimum would be incomplete.
  expect(counts.touched).toBeGreaterThanOrEqual(minBytes)
  expect(counts.coalescing).toBeGreaterThanOrEqual(1)
  expect(counts.wavefronts).toBeGreaterThanOrEqual(1)
}

/** The formula agrees with the counts, except for the ends of rows that share a sector. */
function expectModelled(counts: Counts, direction: Direction, shape: Shape): void {
  expect(Math.abs(counts.touched / model(direction, shape).touched - 1), direction).toBeLessThan(1e-3)
}

// The matrix units of Turing support float16, at half the depth per instruction. All other counts are the same.
describe.each([
  ['bfloat16', '80', 1],
  ['float16', '75', 2],
] as const)('%s on sm_%s, all outputs accumulated', (dtype, architecture, halves) => {
  for (const { shape, ...budget } of [...budgets, ...unmodelled])
    test(title(shape), async (context) => {
      needsEmulator(context)
      const counts = await count({ shape, dtype, method: 'batch' }, architecture)
      for (const direction of DIRECTIONS) {
        expectWithin(counts[direction], budget[direction], minimum(direction, shape))
        if (budgets.some((each) => each.shape === shape)) expectModelled(counts[direction], direction, shape)
        // Excludes shapes whose results are no multiples of a tile, and few tokens, which do not fill a tile.
        const { tokens, d, rank } = shape
        const least = (halves * (direction === 'forward' ? 2 : 4) * tokens * rank * d) / 2048
        if (tokens >= 1024 || rank > 128) expect(counts[direction].matrixInstructions / least).toBeLessThanOrEqual(1.1)
      }
    })
})

describe('bfloat16, all outputs accumulated', () => {
  // dy is larger than half of the emulator's L2: one kernel reads it once, or it is split so that each split fits in L2.
  for (const shape of [
    { tokens: 1280, d: 1024, rank: 8, experts: 4 },
    { tokens: 1152, d: 1024, rank: 48, experts: 4 },
  ])
    test(`dy larger than L2, ${title(shape)}`, async (context) => {
      needsEmulator(context)
      const counts = await count({ shape, dtype: 'bfloat16', method: 'batch' })
      for (const direction of DIRECTIONS) expectModelled(counts[direction], direction, shape)
    })
})

describe('the traffic formula', () => {
  for (const { shape, ...most } of atScale)
    for (const [name, device] of Object.entries(devices))
      if (name !== 'emulator')
        test(`${title(shape)} on ${name}`, () => {
          for (const direction of DIRECTIONS)
            expect(model(direction, shape, device).moved / minimum(direction, shape), direction).toBeLessThanOrEqual(
              most[direction],
            )
        })
})
