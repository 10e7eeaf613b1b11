/** Tests of the parts of the benchmark whose errors would not show in its output. */
import { describe, expect, test } from 'vitest'
import type { Report, Result } from '../bench/harness/report.js'
import { medianRatio, sampleInterleaved, timingOf } from '../bench/harness/sampling.js'
import { composedLily } from '../bench/methods/composed/lily.js'
import { composedLora } from '../bench/methods/composed/lora.js'
import type { Method } from '../bench/methods/methods.js'
import { floorOf } from '../bench/roofs/floor.js'
import { phasesOf, workOf } from '../bench/roofs/work.js'
import { backendNames, routings, selectCases } from '../bench/workload/cases.js'
import { decode, dtypeNames, dtypes, encode, type Float } from '../bench/workload/dtypes.js'
import { makeActivations, makeLilyParameters, makeLoraParameters } from '../bench/workload/operands.js'
import { sequenceOffsets } from '../bench/workload/sequences.js'
import { deviceShapes, parseShape, shapes } from '../bench/workload/shapes.js'
import { equalParametersRank, lilyParameters } from '../bench/workload/trainable-parameters.js'
import { rooflineChart } from '../cli/bench/charts/roofline.js'
import type { Row } from '../cli/bench/rows.js'
import { lilyBackward, lilyForward, loraBackward, loraForward, type Routing, type Tensor } from '../lib/index.js'

const shape = { tokens: 33, d: 40, rank: 5, experts: 3 }
const onHost = (tensor: Tensor): Tensor => tensor
const numbers = ({ data, dtype }: Tensor): Float32Array => decode(data, dtype as Float)

/** The maximum difference, relative to the maximum of the expected values. */
function distance(found: Tensor, expected: Tensor): number {
  const [values, references] = [numbers(found), numbers(expected)]
  const largest = Math.max(...references.map(Math.abs))
  expect(largest).toBeGreaterThan(0)
  return Math.max(...values.map((value, i) => Math.abs(value - references[i]))) / largest
}

// float32: sums of at most 200 terms in two orders. 16 bits: a few roundings of intermediate results to 8 or 11 bits that
// only one of the two implementations performs.
const tolerance = { float32: 1e-5, bfloat16: 0.03, float16: 0.004, mixed: 0.03 }

describe('the composed baseline matches the fused calls', () => {
  const weights = Float32Array.of(0.5, 0.3, 0.2)
  const optionsOf = (routing: Routing) => ({
    routing,
    ...(routing === 'sequence' ? { sequenceOffsets: sequenceOffsets(shape.tokens) } : {}),
    ...(routing === 'fixed' ? { weights: { data: weights, shape: [3] } } : {}),
  })

  for (const dtype of dtypeNames)
    test.each(routings)(`${dtype}, %s`, (routing) => {
      const types = dtypes[dtype]
      const make = () => ({
        activations: makeActivations(shape, types, onHost),
        parameters: makeLilyParameters(shape, types.parameters, onHost),
      })
      const composed = make()
      composedLily({ ...composed, types, routing, weights })['forward+backward']()

      const fused = make()
      const { x, y, dy, dx } = fused.activations
      const { a, router, b, da, dRouter, db } = fused.parameters
      const isRouted = routing !== 'uniform' && routing !== 'fixed'
      const { saved } = lilyForward({ x, y, a, b, ...(isRouted ? { router } : {}) }, optionsOf(routing))
      lilyBackward({ dy, dx, da, db, ...(isRouted ? { dRouter } : {}) }, saved)

      for (const name of ['y', 'dx'] as const) {
        const found = distance(composed.activations[name], fused.activations[name])
        expect(found, name).toBeLessThan(tolerance[dtype])
      }
      for (const name of ['da', 'db', ...(isRouted ? (['dRouter'] as const) : [])] as const) {
        const found = distance(composed.parameters[name], fused.parameters[name])
        expect(found, name).toBeLessThan(tolerance[dtype])
      }
    })

  test.each(dtypeNames)('%s, LoRA', (dtype) => {
    const types = dtypes[dtype]
    const make = () => ({
      ...makeActivations(shape, types, onHost),
      ...makeLoraParameters(shape.d, shape.rank, types.parameters, onHost),
    })
    const composed = make()
    composedLora(composed, composed, types)['forward+backward']()
    const { x, y, dy, dx, a, b, da, db } = make()
    const { saved } = loraForward({ x, y, a, b })
    loraBackward({ dy, dx, da, db }, saved)
    for (const [name, expected] of Object.entries({ y, dx, da, db })) {
      expect(distance(composed[name as 'y'], expected), name).toBeLessThan(tolerance[dtype])
    }
  })
})

test('encoding and decoding of 16-bit numbers', () => {
  const values = Float32Array.of(0, 1, -2, 0.5, 65504, 2 ** -14)
  expect([...decode(encode(values, 'float16'), 'float16')]).toEqual([...values])
  expect([...encode(Float32Array.of(1, -2), 'bfloat16')]).toEqual([0x3f80, 0xc000])
  expect([...encode(Float32Array.of(1, -2), 'float16')]).toEqual([0x3c00, 0xc000])
  // The smallest and the largest denormal.
  expect([...decode([0x0001, 0x03ff], 'float16')]).toEqual([2 ** -24, 1023 * 2 ** -24])
})

test('the rank of LoRA with equal trainable parameters', () => {
  const sizes = { tokens: 1, d: 100, rank: 10, experts: 3 }
  // 8 layers: 2 matrices A and 3 matrices B of 1000 numbers, 8 routers of 30. LoRA of rank r' has 1600 r'.
  expect(lilyParameters({ layers: 8, strideA: 4 }, sizes)).toBe(5240)
  expect(equalParametersRank({ layers: 8, strideA: 4 }, sizes)).toBe(3)
  expect(lilyParameters({ layers: 9, strideA: 4 }, sizes)).toBe(3000 + 3000 + 270)
  expect(equalParametersRank({ layers: 1000, strideA: 1000 }, { ...sizes, rank: 1 })).toBe(1)
})

describe('work and floor', () => {
  const sizes = { tokens: 100, d: 10, rank: 2, experts: 4 }
  const flops = (routing: Parameters<typeof phasesOf>[1], withBackward: boolean) =>
    workOf(phasesOf(sizes, routing, dtypes.float32, withBackward)).flops

  test('FLOPs match the formulas', () => {
    // Products of 2 M r d = 4000: two forward, four backward; 2 E r d = 160 per pass over the experts.
    expect(flops('none', false)).toBe(8000)
    expect(flops('none', true)).toBe(24_000 + 40)
    expect(flops('batch', false)).toBe(8000 + 160)
    expect(flops('batch', true)).toBe(24_000 + 4 * 160)
    expect(flops('uniform', true)).toBe(24_000 + 3 * 160)
    // K = E r: one product of forward and two of backward are four times as large.
    expect(flops('token', false)).toBe(8000 + 3 * 4000)
    expect(flops('token', true)).toBe(24_000 + 9 * 4000 + 160)
    expect(flops('sequence', false)).toBe(8000 + 8 * 160)
  })

  test('the floor is the sum over phases of the slower of arithmetic and memory', () => {
    const roofs = {
      flops: 1e3,
      bfloat16Flops: 1e4,
      float16Flops: 1e3,
      memory: [{ bytes: 1e9, read: 1e3, update: 2e3 }],
    }
    const phases = [
      { flops: 5000, read: 1000, updated: 1000 },
      { flops: 1000, read: 1000, updated: 2000 },
    ]
    expect(floorOf(phases, 0, dtypes.float32, roofs)).toBe(5 + 3)
    expect(floorOf(phases, 0, dtypes.bfloat16, roofs)).toBe(2 + 3)
  })
})

describe('sampling', () => {
  const limits = { seconds: 0, rounds: 3, signal: new AbortController().signal }

  test('is interleaved, and ratios compare samples of one round', async () => {
    const order: string[] = []
    // A machine that becomes slower with every sample.
    let speed = 1
    const clock = (run: () => void) => {
      run()
      speed *= 1.1
      return speed * (order.at(-1) === 'a' ? 2 : 1)
    }
    const [a, b] = await sampleInterleaved([() => order.push('a'), () => order.push('b')], clock, limits)
    expect(order.slice(-6)).toEqual(['a', 'b', 'a', 'b', 'a', 'b'])
    expect(a).toHaveLength(3)
    expect(medianRatio(a, b)).toBeCloseTo(2 / 1.1)
  })

  test('ends when the signal aborts', async () => {
    const interrupt = new AbortController()
    const aborting = () => interrupt.abort()
    const run = sampleInterleaved([aborting], () => (aborting(), 1), {
      ...limits,
      rounds: 1e9,
      signal: interrupt.signal,
    })
    await expect(run).rejects.toThrow('aborted')
  })

  test('statistics', () => {
    expect(timingOf([4, 1, 2, 3, 5])).toEqual({ median: 3, spread: 1 / 3, samples: 5 })
  })
})

describe('the roofline chart', () => {
  const roofs = {
    flops: 118e9,
    bfloat16Flops: 236e9,
    float16Flops: 118e9,
    memory: [
      { bytes: 2 ** 18, read: 117e9, update: 233e9 },
      { bytes: 2 ** 28, read: 8e9, update: 16e9 },
    ],
  }
  const result = (intensity: number, gigaflops: number, method: Method): Result => ({
    ...{
      shape,
      dtype: 'float32',
      routing: 'batch',
      pass: 'forward',
      method,
      rank: 1,
      spread: 0,
      samples: 3,
      floor: null,
    },
    ...{ flops: intensity * 1e6, bytes: 1e6, median: (intensity * 1e6) / (gigaflops * 1e9) },
    ...{ ratioToLora: 1, ratioToFused: null },
  })
  /** The first is what one shape gives; the last exceeds all roofs, and is far below them. */
  const marks: [string, [number, number][]][] = [
    ['one shape', [[5, 40]]],
    [
      'two shapes',
      [
        [3, 20],
        [6, 60],
      ],
    ],
    ['many shapes', Array.from({ length: 40 }, (_, i) => [0.3 * 1.15 ** i, 1.1 ** i])],
    [
      'results far from the roofs',
      [
        [0.01, 0.001],
        [5000, 900],
      ],
    ],
  ]

  test.each(marks)('draws inside its frame: %s', (_, list) => {
    const rows = list.map(([intensity, gigaflops]): Row => {
      const [lily, lora] = (['lily', 'lora'] as const).map((each) => result(intensity, gigaflops, each))
      const by = new Map<Method, Result>([lily, lora].map((each) => [each.method, each]))
      return { shape, dtype: 'float32', routing: 'batch', pass: 'forward', by, lily, lora }
    })
    const html = rooflineChart(rows, { roofs } as unknown as Report, 250)!.outerHTML
    const lines = [...html.matchAll(/aria-label="line">(.*?)<\/g>/g)].map(([, line]) =>
      [.../[ML]([-\d.]+),([-\d.]+)/g[Symbol.matchAll](line)].map(([, x, y]) => [Number(x), Number(y)]),
    )
    // Two arithmetic roofs and two memory roofs, all visible.
    expect(lines).toHaveLength(4)
    for (const line of lines) expect(line).toHaveLength(2)
    const dots = [...html.matchAll(/<circle ([^>]*)>/g)].map(([, text]) =>
      ['cx', 'cy'].map((name) => Number(new RegExp(`${name}="([^"]*)"`).exec(text)![1])),
    )
    expect(dots).toHaveLength(2 * list.length)
    for (const [x, y] of [...lines.flat(), ...dots]) {
      expect(x).toBeGreaterThanOrEqual(44 - 0.01)
      expect(x).toBeLessThanOrEqual(360 - 14 + 0.01)
      expect(y).toBeGreaterThanOrEqual(32 - 0.01)
      expect(y).toBeLessThanOrEqual(250 - 38 + 0.01)
    }
    // The labels of the roofs are in the legend, where they overlap nothing.
    const [legend, svg] = html.split('<svg')
    for (const text of ['float32, 118 GFLOP/s', 'bfloat16, 236 GFLOP/s', '256 KiB, 117 GB/s', '256 MiB, 8.0 GB/s']) {
      expect(legend).toContain(text)
      expect(svg).not.toContain(text)
    }
  })
})

describe('cases', () => {
  const noSelection = { shapes: [], dtypes: [], routings: [], quick: false }

  test.each(backendNames)(
    '%s: the default cases cover every shape, data type and routing, without duplicates',
    (backend) => {
      const cases = selectCases({ backend, ...noSelection })
      expect(new Set(cases.map(({ dtype }) => dtype))).toEqual(new Set(dtypeNames))
      expect(new Set(cases.map(({ routing }) => routing))).toEqual(new Set(routings))
      for (const expected of backend === 'cpu' ? shapes : [...shapes, ...deviceShapes])
        expect(cases.map(({ shape }) => shape)).toContainEqual(expected)
      expect(new Set(cases.map((one) => JSON.stringify(one))).size).toBe(cases.length)
    },
  )

  test('a selection gives all combinations', () => {
    const selected = { ...noSelection, shapes: [shape] }
    const cases = selectCases({ backend: 'cpu', ...selected, dtypes: dtypeNames, routings: ['batch', 'token'] })
    expect(cases).toHaveLength(8)
    expect(selectCases({ backend: 'cpu', ...selected })).toEqual([{ shape, dtype: 'float32', routing: 'batch' }])
    expect(selectCases({ backend: 'cuda', ...selected })).toEqual([{ shape, dtype: 'bfloat16', routing: 'batch' }])
  })

  test('parsing of shapes', () => {
    expect(parseShape('512,768,16,4')).toEqual({ tokens: 512, d: 768, rank: 16, experts: 4 })
    for (const wrong of ['1,2,3', '1,2,3,4,5', '0,1,1,1', '1,1,1.5,1', '1,1,4097,1', '1,1,1,65', 'a,b,c,d']) {
      expect(() => parseShape(wrong), wrong).toThrow('expected M,d,r,E')
    }
  })
})
