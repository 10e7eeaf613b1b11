/** Lists of calls over disjoint rows: their bits are those of the calls, and launches do not grow with them. */
import { describe, expect, test } from 'vitest'
import { gpuNames, gpus } from '../../bench/counters/gpus.js'
import { planCall, type PlannedCall, touched } from '../../bench/counters/plan.js'
import { adapters } from './budgets.js'
import { clamped, expectSameAsCalls, long, mixes, scaled } from './list-check.js'
import { runBoth } from './list.js'

test.each(mixes)('the bits of separate calls: %s', async (_, list) => {
  expectSameAsCalls(list, await runBoth(list))
})

test.each(scaled)('factors of rows, %s: y, and the gradients of dy times the factors', async (_, list) => {
  expectSameAsCalls(list, await runBoth(list))
})

test('more calls than one launch holds have the bits of separate calls', async () => {
  expectSameAsCalls(long, await runBoth(long))
})

test('an index is clamped to the rows', async () => {
  expectSameAsCalls(clamped, await runBoth(clamped))
})

describe.each(gpuNames)('plans on %s', (device) => {
  // Turing has no bfloat16.
  const dtype = device === 't4' ? 'float16' : 'bfloat16'
  const plan = (call: Omit<PlannedCall, 'gpu' | 'dtype'>) => planCall({ gpu: gpus[device], dtype, ...call })
  const METHODS = ['lora', 'token', 'batch'] as const

  /** The kernels of lists with 1, 2, 8 and 32 adapters. */
  const kernelsOf = (call: Omit<PlannedCall, 'gpu' | 'dtype' | 'shape'>, tokensOf: (adapters: number) => number) =>
    [1, 2, 8, 32].map((count) => {
      const shape = { tokens: tokensOf(count), d: 4096, rank: 16, experts: 4 }
      return plan({ ...call, shape, adapters: count }).launches.map(({ kernel }) => kernel)
    })

  test('launches do not grow with the adapters that divide the tokens of a call', () => {
    for (const method of ['lora', 'token'] as const)
      for (const scattered of [false, true])
        for (const tokens of [32, 512, 2048]) {
          const kernels = kernelsOf({ method, direction: 'forward', scattered }, () => tokens)
          expect(kernels).toEqual(new Array(4).fill(kernels[0]))
        }
  })

  test('nor, where each has the plan of its own call, with such calls', () => {
    for (const [direction, method] of [
      ['forward', 'batch'],
      ...METHODS.map((name) => ['backward', name] as const),
    ] as const)
      for (const scattered of [false, true])
        for (const each of [4, 64, 256]) {
          const kernels = kernelsOf({ method, direction, scattered }, (count) => count * each)
          expect(kernels, `${direction} ${method}`).toEqual(new Array(4).fill(kernels[0]))
        }
  })

  test('bytes touched', () => {
    for (const method of METHODS) {
      const { many, decoding } = adapters
      const of = (shape: PlannedCall['shape'], count: number, scattered = false) =>
        touched(plan({ shape, method, direction: 'forward', adapters: count, scattered }))
      expect(of(many.shape, many.count) / of(many.shape, 1), method).toBeLessThanOrEqual(many.touched)
      const { tokens, d, rank, experts } = decoding.shape
      const parameters = rank * d * (1 + (method === 'lora' ? 1 : experts))
      const least = 2 * (3 * tokens * d + decoding.count * parameters)
      expect(of(decoding.shape, decoding.count) / least, method).toBeLessThanOrEqual(decoding.touched)
      expect(of(decoding.shape, decoding.count, true) / least, method).toBeLessThanOrEqual(decoding.scattered)
    }
  })
})
