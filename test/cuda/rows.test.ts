/**
 * Rows of y, h and p have the same bits in every batch: the places at which d is split follow from d alone, whichever launches
 * a plan chooses for so many tokens. Those of dx with token routing do not depend on the tile of v either.
 */
import { expect, test } from 'vitest'
import { emulatedGpu } from '../../bench/counters/gpus.js'
import { type PlannedCall, planCall } from '../../bench/counters/plan.js'
import { isEmulated, lilyBackward, lilyForward } from '../support/backend.js'
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

test('of dx with token routing, whose experts cancel each other nearly', async () => {
  const [d, rank, experts] = [40, 16, 4]
  // The tile of v has 16 rows for some of them and 64 for others.
  const batches = [100, 200, 400]
  if (isEmulated) {
    const tiles = batches.map((tokens) => {
      const shape = { tokens, d, rank, experts }
      const call = { shape, dtype: 'bfloat16', method: 'token', direction: 'backward', gpu: emulatedGpu(90) } as const
      return planCall(call).launches.find(({ kernel }) => kernel === 'backward_dy')?.tile[1]
    })
    expect(new Set(tiles)).toEqual(new Set([16, 64]))
  }
  const random = randomFrom(5)
  const of = (rows: number, columns: number, scale = 1) =>
    gaussian(random, rows * columns).map((value) => value * scale)
  const tensorOf = (values: Float32Array, shape: number[]) => ({
    data: pack('bfloat16', values),
    shape,
    dtype: 'bfloat16' as const,
  })
  const [x, dy, half] = [of(400, d), of(400, d), of(rank, d)]
  const b = Float32Array.from({ length: experts * rank * d }, (_, i) => {
    const [expert, at] = [Math.floor(i / half.length), i % half.length]
    return expert % 2 === 0 ? half[at] : -half[at]
  })
  const given = {
    a: tensorOf(of(rank, d), [rank, d]),
    router: tensorOf(of(experts, rank, 1e-5), [experts, rank]),
    b: tensorOf(b, [experts, rank, d]),
  }
  const rows = []
  for (const tokens of batches) {
    const part = (values: Float32Array) => tensorOf(values.slice(0, tokens * d), [tokens, d])
    const { saved } = await lilyForward({ x: part(x), ...given }, { routing: 'token', scaling: 0.3 })
    rows.push((await lilyBackward({ dy: part(dy) }, saved)).dx.data)
  }
  for (const each of rows) expectSameBits('dx', each, rows[2].slice(0, each.length))
})

test('of y where an infinity in x becomes 0, whatever pads the rows of h', async () => {
  const [d, experts] = [64, 3]
  // r is no whole vector of 16 bytes: with many tokens, with partial sums of h, and in the kernels of large ranks.
  for (const [tokens, rank] of [
    [4, 4],
    [100, 4],
    [1100, 4],
    [100, 140],
  ]) {
    const of = (value: number, shape: number[]) => ({
      data: pack(
        'bfloat16',
        new Float32Array(shape.reduce((p, q) => p * q)).map(() => value),
      ),
      shape,
      dtype: 'bfloat16' as const,
    })
    const x = of(1, [tokens, d])
    x.data[0] = pack('bfloat16', Float32Array.of(Infinity))[0]
    const given = { x, a: of(-1, [rank, d]), b: of(1, [experts, rank, d]) }
    const { y } = await lilyForward(given, { routing: 'uniform', activation: 'relu', scaling: 1 })
    expect(new Set(y.data), `${tokens} tokens, r = ${rank}`).toEqual(new Set([0]))
  }
})
