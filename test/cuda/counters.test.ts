/**
 * Memory accesses and MMA instructions of the kernels, counted by the emulator, against budgets.ts.
 *
 * @long
 */
import { describe, expect, test } from 'vitest'
import { count, countForward, countOfForward, type Counts } from '../../bench/counters/count.js'
import type { Job } from '../../bench/counters/counted-call.js'
import { emulatedGpu, gpuNames, gpus } from '../../bench/counters/gpus.js'
import {
  floorSeconds,
  moved,
  type Plan,
  planCall,
  type PlannedCall,
  type PlannedMethod,
  planCalls,
  predictedSeconds,
  requested,
  touched,
} from '../../bench/counters/plan.js'
import { type Direction, minimumBytes } from '../../bench/roofs/work.js'
import { dtypes } from '../../bench/workload/dtypes.js'
import { type Shape, shapeText } from '../../bench/workload/shapes.js'
import { isEmulated } from '../support/backend.js'
import { isLong } from '../support/runs.js'
import {
  adapters,
  AT_SCALE,
  atScale,
  type Budget,
  budgets,
  largeRanks,
  ONE_GROUP,
  requests,
  SHARED_CLOCKS,
  unmodelled,
} from './budgets.js'

const DIRECTIONS = ['forward', 'backward'] as const
const title = (shape: Shape) => `(${shapeText(shape)})`
const minimum = (direction: Direction, shape: Shape) => minimumBytes(direction, shape, 'batch', dtypes.bfloat16)

/** Skips the test on a GPU. */
function needsEmulator(context: { skip: (reason: string) => void }): void {
  if (!isEmulated) context.skip('the device is a GPU, which has no counters')
}

const plan = (direction: Direction, job: Job, architecture: 75 | 90) =>
  planCall({ ...job, direction, gpu: emulatedGpu(architecture) })

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

/**
 * What the model of time (bench/counters/model) assumes agrees with the counts. Bytes touched differ only in the ends of rows that share
 * a sector. Of bytes requested the model leaves out masks, offsets and whatever else is less than a hundredth.
 */
function expectModelled(counts: Counts, direction: Direction, job: Job, architecture: 75 | 90 = 90): void {
  const planned = plan(direction, job, architecture)
  expectTouched(counts, direction, planned)
  const tolerance = job.shape.rank >= 128 ? 0.06 : 0.03
  expect(Math.abs(counts.requested / requested(planned) - 1), `${direction}, requested`).toBeLessThan(tolerance)
}

function expectTouched(counts: Counts, direction: Direction, planned: Plan): void {
  expect(planned.launches.length, direction).toBe(counts.launches)
  expect(Math.abs(counts.touched / touched(planned) - 1), `${direction}, touched`).toBeLessThan(1e-3)
}

// The matrix units of Turing support float16, at half the depth per instruction. All other counts are the same.
describe.each([
  ['bfloat16', 90, 1],
  ['float16', 75, 2],
] as const)('%s on sm_%s, all outputs accumulated', (dtype, architecture, halves) => {
  // Turing has those that the plan models, unless the run is a long one.
  for (const { shape, ...budget } of architecture === 75 && !isLong ? budgets : [...budgets, ...unmodelled])
    test(title(shape), async (context) => {
      needsEmulator(context)
      const counts = await count({ shape, dtype, method: 'batch' }, String(architecture))
      for (const direction of DIRECTIONS) {
        expectWithin(counts[direction], budget[direction], minimum(direction, shape))
        if (budgets.some((each) => each.shape === shape))
          expectModelled(counts[direction], direction, { shape, dtype, method: 'batch' }, architecture)
        // Excludes shapes whose results are no multiples of a tile, and few tokens, which do not fill a tile.
        const { tokens, d, rank } = shape
        const least = (halves * (direction === 'forward' ? 2 : 4) * tokens * rank * d) / 2048
        // The tiles of backward_x have 64 rows of dA at least: at r = 16 three quarters of them are zeros.
        const most = rank > 128 ? 1.05 : direction === 'backward' && rank < 64 ? 1.8 : 1.1
        if (tokens >= 1024 || rank > 128) expect(counts[direction].matrixInstructions / least).toBeLessThanOrEqual(most)
      }
    })
})

// With wgmma: the clocks of shared memory are about those of the matrix units.
test('shared memory and matrix units of the tile of eight warps', async (context) => {
  needsEmulator(context)
  // One tile of the result, and a sum so long that its end hardly counts. C is read along its columns: h has a kernel of its own.
  const job: Job = { shape: { tokens: 128, d: 8192, rank: 256, experts: 1 }, dtype: 'bfloat16', method: 'uniform' }
  const planned = planCall({ ...job, direction: 'forward', gpu: emulatedGpu(90, 1) }).launches[0]
  expect([planned.kernel, planned.threads, ...planned.tile]).toEqual(['large_product', 256, 128, 256, 64])
  const rowsAlongSum = 'Lb0EEEvNS0_12LargeProductE'
  const { wavefronts, matrixInstructions } = await countForward(job, rowsAlongSum, '90', 1)
  expect(matrixInstructions).toBe((128 * 256 * 8192) / 2048)
  expect(wavefronts / matrixInstructions).toBeGreaterThan(1)
  expect(wavefronts / matrixInstructions).toBeLessThanOrEqual(SHARED_CLOCKS)
})

test.for(largeRanks)('modelled time at r = $rank on $gpu', ({ rank, gpu: name, ...least }) => {
  const gpu = gpus[name]
  const shape = { ...AT_SCALE, rank, experts: 2 }
  for (const direction of DIRECTIONS) {
    const seconds = predictedSeconds(planCall({ gpu, shape, dtype: 'bfloat16', method: 'batch', direction }))
    expect(floorSeconds(gpu, direction, shape, 'batch', 'bfloat16') / seconds, direction).toBeGreaterThanOrEqual(
      least[direction],
    )
  }
})

describe('the traffic that a plan assumes', () => {
  // What is read again where dy is larger than half of the emulator's L2, one group without a router, weights per token with
  // tiles of eight warps in backward, sequences, and a large rank.
  const shapes: readonly [Job['method'], Shape][] = [
    ['batch', { tokens: 1152, d: 1024, rank: 48, experts: 4 }],
    ['lora', { tokens: 384, d: 1024, rank: 64, experts: 1 }],
    ['token', { tokens: 640, d: 128, rank: 128, experts: 4 }],
    ['sequence', { tokens: 384, d: 1024, rank: 32, experts: 4 }],
    ['batch', { tokens: 640, d: 512, rank: 256, experts: 2 }],
  ]
  for (const [method, shape] of shapes)
    test(`${method} ${title(shape)}`, async (context) => {
      needsEmulator(context)
      const job: Job = { shape, dtype: 'bfloat16', method }
      const counts = await count(job)
      for (const direction of DIRECTIONS) expectModelled(counts[direction], direction, job)
    })
})

test('parameters in float32 with activations in bfloat16: one more launch, which casts them', async (context) => {
  needsEmulator(context)
  const job = { shape: { tokens: 384, d: 1024, rank: 32, experts: 4 }, method: 'batch' } as const
  const counts = await count({ ...job, dtype: 'mixed' })
  for (const direction of DIRECTIONS) {
    const plain = plan(direction, { ...job, dtype: 'bfloat16' }, 90)
    expect(counts[direction].launches, direction).toBe(plain.launches.length + 1)
    expectModelled(counts[direction], direction, { ...job, dtype: 'mixed' })
  }
})

// What is read and written once: x, y, which is added to, and the parameters of all adapters.
test.for(adapters.counted)(
  '$count adapters, scattered: $scattered',
  async ({ shape, count: of, scattered, ...most }, context) => {
    needsEmulator(context)
    const job: Job = { shape, dtype: 'bfloat16', method: 'lora', adapters: of, scattered }
    const counts = await countOfForward(job)
    const { tokens, d, rank } = shape
    expect(counts.touched / (2 * d * (3 * tokens + 2 * of * rank))).toBeLessThanOrEqual(most.touched)
    // The model does not know of the numbers of rows, of which blocks request sectors again and again.
    expectTouched(counts, 'forward', plan('forward', job, 90))
  },
)

describe.each(gpuNames)('plans at scale on %s', (device) => {
  const gpu = gpus[device]
  // Turing has no bfloat16.
  const dtype = device === 't4' ? 'float16' : 'bfloat16'
  const callsOf = (methods: readonly PlannedMethod[], rank: number): PlannedCall[] =>
    methods.flatMap((method) =>
      DIRECTIONS.map((direction) => ({ gpu, shape: { ...AT_SCALE, rank }, dtype, method, direction })),
    )

  for (const { rank, ...most } of atScale)
    test(`bytes moved at r = ${rank}`, () => {
      const shape = { ...AT_SCALE, rank }
      for (const direction of DIRECTIONS)
        expect(
          moved(planCall({ gpu, shape, dtype, method: 'batch', direction })) / minimum(direction, shape),
          direction,
        ).toBeLessThanOrEqual(most[direction][device])
    })

  for (const { methods, rank, ...most } of requests)
    test(`bytes requested at r = ${rank}, ${methods.join(', ')}`, () => {
      const calls = callsOf(methods, rank)
      for (const [i, planned] of planCalls(calls).entries()) {
        const { method, direction } = calls[i]
        expect(requested(planned) / touched(planned), `${method} ${direction}`).toBeLessThanOrEqual(
          most[direction][device],
        )
      }
    })

  for (const rank of [136, 448, 896])
    test(`time of the traffic with L2 at r = ${rank}`, () => {
      const calls = callsOf(ONE_GROUP, rank)
      for (const [i, { launches }] of planCalls(calls).entries()) {
        const total = (of: 'l2Seconds' | 'busySeconds') => launches.reduce((sum, launch) => sum + launch[of], 0)
        const { method, direction } = calls[i]
        expect(total('l2Seconds') / total('busySeconds'), `${method} ${direction}`).toBeLessThanOrEqual(1.2)
      }
    })
})
