/**
 * Rows of y, h and p have the same bits in every batch: the places at which d is split follow from d alone, whichever launches
 * a plan chooses for so many tokens. kernels.test.ts compares those of dx.
 */
import { expect, test } from 'vitest'
import { emulatedGpu } from '../../bench/counters/gpus.js'
import { type PlannedCall, planCall } from '../../bench/counters/plan.js'
import { isEmulated, lilyForward } from '../support/backend.js'
import { expectSameBits } from '../support/compare.js'
import { pack } from '../support/dtypes.js'
import { gaussian, randomFrom } from '../support/random.js'

/** One token, the most of forward_decode, and numbers for which plans split d_in, or do not. */
const FEW = [1, 64, 65, 200]
const MANY = [...FEW, 1024, 1100]
const [dIn, dOut, experts] = [1032, 40, 3]

test.each([
  ['bfloat16', 20, MANY],
  ['bfloat16', 70, FEW],
  ['float32', 20, FEW],
] as const)('of %s at r = %i', async (dtype, rank, batches) => {
  const most = Math.max(...batches)
  const shape = (tokens: number): PlannedCall['shape'] => ({ tokens, d: dIn, rank, experts })
  if (isEmulated) {
    const kernels = batches.map((tokens) => {
      const call = { shape: shape(tokens), dtype, method: 'token', direction: 'forward', gpu: emulatedGpu(90) } as const
      return planCall(call).launches.map(({ kernel }) => kernel)
    })
    expect(kernels[0]).toContain('forward_decode')
    expect(kernels[3]).toContain('forward_route')
  }
  const random = randomFrom(rank)
  const of = (rows: number, columns: number) => ({
    data: pack(dtype, gaussian(random, rows * columns)),
    shape: [rows, columns],
    dtype,
  })
  const [x, a, router] = [of(most, dIn), of(rank, dIn), of(experts, rank)]
  const b = { ...of(experts * rank, dOut), shape: [experts, rank, dOut] }
  const results = []
  for (const tokens of batches) {
    const first = { ...x, data: x.data.slice(0, tokens * dIn), shape: [tokens, dIn] }
    const { y, saved } = await lilyForward({ x: first, a, router, b }, { routing: 'token', scaling: 0.5 })
    results.push({ tokens, y: y.data, hidden: saved.hidden.data, probabilities: saved.probabilities?.data })
  }
  const all = results[results.length - 1]
  for (const each of results)
    for (const name of ['hidden', 'probabilities', 'y'] as const) {
      const [rows, expected] = [each[name], all[name]] as (Float32Array | Uint16Array)[]
      expect(rows.length).toBeGreaterThan(0)
      expectSameBits(`${name} of ${each.tokens}`, rows, expected.slice(0, rows.length))
    }
})
