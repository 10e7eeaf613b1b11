/** Tests of the parts of the benchmark whose errors would not show in its output. */
import { readFileSync } from 'node:fs'
import { totalmem } from 'node:os'
import { fileURLToPath } from 'node:url'
import { describe, expect, test, vi } from 'vitest'
import type { Report, Result } from '../../bench/harness/report.js'
import { medianRatio, ratioOf, sampleInterleaved, timingOf } from '../../bench/harness/sampling.js'
import { blockDifference } from '../../bench/harness/outputs.js'
import { type Findings, measure } from '../../bench/harness/session.js'
import { composedLily } from '../../bench/methods/composed/lily.js'
import { composedLora } from '../../bench/methods/composed/lora.js'
import { hasLayer, type Method, methods, passes } from '../../bench/methods/methods.js'
import { floorOf } from '../../bench/roofs/floor.js'
import { bandwidthFor, bufferSizes, fasterRoofs, type Roofs } from '../../bench/roofs/roofs.js'
import { phasesOf, workingSet, workOf } from '../../bench/roofs/work.js'
import { backendNames, routings, selectCases } from '../../bench/workload/cases.js'
import { decode, dtypeNames, dtypes, encode, type Float } from '../../bench/workload/dtypes.js'
import { makeActivations, makeLilyParameters, makeLoraParameters } from '../../bench/workload/operands.js'
import { sequenceOffsets } from '../../bench/workload/sequences.js'
import { deviceShapes, parseShape, shapes } from '../../bench/workload/shapes.js'
import { equalParametersRank, lilyParameters } from '../../bench/workload/trainable-parameters.js'
import { rooflineChart } from '../../cli/bench/charts/roofline.js'
import { resultTables } from '../../cli/bench/page-tables.js'
import { type Row, rowsOf } from '../../cli/bench/rows.js'
import { readReports } from '../../cli/bench/read-reports.js'
import { reportText } from '../../cli/bench/text.js'
import { verdictOf } from '../../cli/bench/verdict.js'
import { native } from '../../lib/binding/native.js'
import {
  type DeviceInfo,
  lilyBackward,
  lilyForward,
  loraBackward,
  loraForward,
  type Routing,
  type Tensor,
} from '../../lib/index.js'

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
        parameters: makeLilyParameters(shape, types.parameters, onHost, routing),
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
    expect(flops('learned', true)).toBe(24_000 + 4 * 160)
    // K = E r: one product of forward and two of backward are four times as large.
    expect(flops('token', false)).toBe(8000 + 3 * 4000)
    expect(flops('token', true)).toBe(24_000 + 9 * 4000 + 160)
    expect(flops('sequence', false)).toBe(8000 + 8 * 160)
  })

  // A machine with caches of 100 and 1000 bytes.
  const roofs: Roofs = {
    flops: 1e3,
    bfloat16Flops: 1e4,
    bfloat16Source: 'a loop on registers',
    float16Flops: 1e3,
    memory: [
      { bytes: 50, read: 100, update: 200 },
      { bytes: 100, read: 80, update: 160 },
      { bytes: 200, read: 40, update: 80 },
      { bytes: 1000, read: 20, update: 60 },
      { bytes: 4000, read: 4, update: 8 },
    ],
  }

  test('bandwidth is that of the largest measured buffer that is not larger than the working set', () => {
    const rates = (bytes: number) => Object.values(bandwidthFor(roofs, bytes))
    expect(rates(10)).toEqual([100, 200])
    expect(rates(50)).toEqual([100, 200])
    expect(rates(99)).toEqual([100, 200])
    expect(rates(100)).toEqual([80, 160])
    expect(rates(3999)).toEqual([20, 60])
    expect(rates(4000)).toEqual([4, 8])
    expect(rates(Infinity)).toEqual([4, 8])
  })

  test('no larger buffer is faster, even if the measurement of a smaller one was disturbed', () => {
    const [first, second, ...rest] = roofs.memory
    const disturbed = { ...roofs, memory: [first, { ...second, read: 1, update: 1 }, ...rest] }
    expect(bandwidthFor(disturbed, 100)).toEqual({ read: 40, update: 80 })
  })

  const phase = { flops: 0, read: 0, reread: 0, updated: 0 }

  test('the floor is the sum over phases of the slower of arithmetic and memory', () => {
    const phases = [
      { ...phase, flops: 5000, read: 30, updated: 20 },
      { ...phase, flops: 100, read: 20, reread: 20, updated: 10 },
    ]
    // Both phases have a working set of 50 bytes: 0.3 + 0.2 s and 0.4 + 0.1 s of memory traffic.
    expect(floorOf(phases, 0, dtypes.float32, roofs)).toBeCloseTo(5 + 0.5, 10)
    expect(floorOf(phases, 0, dtypes.bfloat16, roofs)).toBeCloseTo(0.5 + 0.5, 10)
    expect(floorOf(phases, 0, dtypes.float16, roofs)).toBeCloseTo(5 + 0.5, 10)
  })

  test('every phase has the bandwidth of its own working set', () => {
    // Together the phases use 1100 bytes, but neither uses more than 1000.
    const phases = [
      { ...phase, read: 100 },
      { ...phase, read: 800, updated: 200 },
    ]
    expect(floorOf(phases, 0, dtypes.float32, roofs)).toBeCloseTo(100 / 80 + 800 / 20 + 400 / 60, 10)
  })

  test('with cold caches, only what the call has used before is in a cache', () => {
    const phases = [{ ...phase, read: 40, reread: 30, updated: 20 }]
    expect(floorOf(phases, 4000, dtypes.float32, roofs)).toBeCloseTo(40 / 4 + 30 / 100 + 40 / 8, 10)
    // So few and small operand sets that the second cache holds all of them.
    expect(floorOf(phases, 1000, dtypes.float32, roofs)).toBeCloseTo(40 / 20 + 30 / 100 + 40 / 60, 10)
  })

  test.each(['none', ...routings] as const)(
    'the floor of %s is at most the time of a machine that the roofs describe',
    (routing) => {
      // The machine processes one phase after the other, and what a phase uses comes from memory in the first phase that
      // uses it, and otherwise from the level that holds everything that the call uses: slower than the phase alone.
      for (const tokens of [1, 10, 300])
        for (const withBackward of [false, true]) {
          const phases = phasesOf({ ...sizes, tokens }, routing, dtypes.float32, withBackward)
          const whole = workingSet({ ...sizes, tokens }, routing, dtypes.float32, withBackward)
          const { read, update } = bandwidthFor(roofs, whole)
          const time = phases.reduce(
            (sum, { flops, read: first, reread, updated }) =>
              sum + Math.max(flops / roofs.flops, (first + reread) / read + (2 * updated) / update),
            0,
          )
          expect(floorOf(phases, 0, dtypes.float32, roofs)).toBeLessThanOrEqual(time)
          expect(floorOf(phases, 0, dtypes.float32, roofs)).toBeGreaterThan(0)
          expect(floorOf(phases, 1e6, dtypes.float32, roofs)).toBeGreaterThanOrEqual(
            floorOf(phases, 0, dtypes.float32, roofs),
          )
        }
    },
  )

  test('the arrays of backward that forward has read are read again', () => {
    const bytes = { x: 4 * 1000, a: 4 * 20, b: 4 * 80 }
    const { x, a, b } = bytes
    expect(phasesOf(sizes, 'batch', dtypes.float32, true)).toMatchObject([
      { read: x + a, reread: 0, updated: 0 },
      { read: b, reread: 0, updated: x },
      { read: x, reread: b, updated: b },
      { read: 0, reread: x + a, updated: x + a },
    ])
  })

  test('buffers from the L1 caches of all threads to several times the last-level cache', () => {
    const device = { threads: 3, cache: 2 ** 28 }
    const found = bufferSizes('cpu', device as DeviceInfo)
    expect(found[0]).toBe(3 * 2 ** 14)
    expect(found.at(-1)).toBe(Math.min(4 * 2 ** 28, totalmem() / 8))
    for (const [i, bytes] of found.slice(1, -1).entries()) {
      expect(bytes / found[i]).toBeGreaterThan(1.35)
      expect(bytes / found[i]).toBeLessThan(1.5)
    }
    // Those of a quick run are some of them.
    const few = bufferSizes('cpu', device as DeviceInfo, 3)
    expect(few).toEqual(found.filter((_, i) => i % 6 === 0 || i === found.length - 1))
    expect(bufferSizes('cpu', device as DeviceInfo, 3, 2 ** 24)).toEqual([...few.slice(0, 3), 2 ** 24])
  })
})

describe('sampling', () => {
  const limits = { seconds: 0, rounds: 3, signal: new AbortController().signal }

  test('is interleaved, and ratios compare samples of one round', async () => {
    const order: string[] = []
    // A machine that becomes slower with every sample.
    let speed = 1
    const sampler = (name: string) => () => {
      order.push(name)
      speed *= 1.1
      return speed * (name === 'a' ? 2 : 1)
    }
    const [a, b] = await sampleInterleaved([sampler('a'), sampler('b')], limits)
    expect(order.slice(-6)).toEqual(['a', 'b', 'a', 'b', 'a', 'b'])
    expect(a).toHaveLength(3)
    expect(medianRatio(a, b)).toBeCloseTo(2 / 1.1)
    expect(ratioOf([4, 1, 2, 3, 5], [1, 1, 1, 1, 1])).toEqual({ median: 3, spread: 1 / 3 })
    expect(ratioOf([2, 20, 4], [1, 10, 2])).toEqual({ median: 2, spread: 0 })
  })

  test('ends when the signal aborts', async () => {
    const interrupt = new AbortController()
    const aborting = () => (interrupt.abort(), 1)
    const run = sampleInterleaved([aborting], {
      ...limits,
      rounds: 1e9,
      signal: interrupt.signal,
    })
    await expect(run).rejects.toThrow('aborted')
  })

  test('a sample lasts at least as long as requested', async () => {
    const calls: number[] = []
    const sampler = (count: number) => (calls.push(count), 0.01)
    await sampleInterleaved([sampler], limits)
    expect(calls.slice(-3)).toEqual([1, 1, 1])
    await sampleInterleaved([sampler], { ...limits, sampleSeconds: 0.05 })
    expect(calls.slice(-3)).toEqual([5, 5, 5])
  })

  test('statistics', () => {
    expect(timingOf([4, 1, 2, 3, 5])).toEqual({ median: 3, spread: 1 / 3, samples: 5 })
  })
})

describe('a run', () => {
  const cases = selectCases({ backend: 'cpu', shapes: [shape], dtypes: [], routings: ['batch', 'fixed'], quick: true })
  const cpuMethods = methods.filter((method) => !method.endsWith('-graph') && !hasLayer(method))

  /**
   * Measures with a clock that only the measurements advance: a roof takes 0.1 seconds, the n-th sample `sampleSeconds(n)`,
   * and the second measurement of a case or of the roofs is `again`.
   */
  async function runWith(
    seconds: number,
    rate: (again: boolean) => number,
    sampleSeconds: (n: number, again: boolean) => number,
  ): Promise<Findings & { steps: string[]; left: number[]; at: number[]; end: number }> {
    let [now, samples, again, isRunning] = [0, 0, false, false]
    vi.spyOn(performance, 'now').mockImplementation(() => now * 1e3)
    vi.spyOn(process.hrtime, 'bigint').mockImplementation(() => {
      if (isRunning) now += sampleSeconds(samples++, again)
      isRunning = !isRunning
      return BigInt(Math.round(now * 1e9))
    })
    vi.spyOn(native, 'measureRoof').mockImplementation(() => {
      now += 0.1
      return rate(again)
    })
    const device: DeviceInfo = { id: 0, name: 'a processor', threads: 1, cache: 2 ** 20 }
    const model = { layers: 32, strideA: 4 }
    const plan = { backend: 'cpu', device, gpu: null, cases, caches: 'warm', model, withLayer: false } as const
    const findings: Findings = { roofs: null, overhead: null, results: [], failures: [], notes: [] }
    const [steps, left, at]: [string[], number[], number[]] = [[], [], []]
    const onProgress = (step: string, secondsLeft: number) => {
      steps.push(step)
      left.push(secondsLeft)
      at.push(now)
      again = step.endsWith('again')
      samples = 0
    }
    try {
      const { signal } = new AbortController()
      await measure(
        { ...plan, seconds, roofOctaves: 3, roofBytes: Infinity, rounds: 3 },
        findings,
        signal,
        onProgress,
        String,
      )
    } finally {
      vi.restoreAllMocks()
    }
    return { ...findings, steps, left, at, end: now }
  }

  const names = ['batch', 'fixed'].map((routing) => `33, 40, 5, 3 float32 ${routing}`)
  const before = ['roofs', 'overhead of a call', ...names]
  const steady = () => 0.02
  const uneven = (n: number) => (n % 3 === 0 ? 0.02 : 0.02 * (1 + (n % 7)))

  test('without doubts measures every case once', async () => {
    const { steps, results, notes } = await runWith(30, () => 1e12, steady)
    expect(steps).toEqual(before)
    expect(results.flatMap(({ doubts }) => doubts)).toEqual([])
    expect(notes).toEqual([])
  })

  test('measures cases with a large spread again', async () => {
    const { steps, results, notes } = await runWith(
      100,
      () => 1e12,
      (n, again) => (again ? steady() : uneven(n)),
    )
    expect(steps).toEqual([...before, ...names.map((name) => `${name}, again`)])
    expect(results.map(({ routing, pass, method }) => [routing, pass, method])).toEqual(
      ['batch', 'fixed'].flatMap((routing) =>
        passes.flatMap((pass) => cpuMethods.map((method) => [routing, pass, method])),
      ),
    )
    expect(results.flatMap(({ doubts }) => doubts)).toEqual([])
    expect(notes).toEqual([])
  })

  test('keeps the earlier results if the later ones are worse', async () => {
    // The samples of forward, and then those of both passes.
    const { results } = await runWith(
      30,
      () => 1e12,
      (n, again) => (again || n > 250 ? uneven(n) : steady()),
    )
    const inDoubt = results.filter(({ doubts }) => doubts.length > 0).map(({ pass }) => pass)
    expect(new Set(inDoubt)).toEqual(new Set(['forward+backward']))
  })

  test('measures the roofs again if a time is below its floor', async () => {
    const { steps, results, roofs, notes } = await runWith(30, (again) => (again ? 1e12 : 1e4), steady)
    expect(steps).toEqual([...before, 'roofs, again'])
    expect(roofs!.flops).toBe(1e12)
    for (const { floor, median, doubts } of results) {
      expect(floor).toBeLessThan(median)
      expect(doubts).toEqual([])
    }
    expect(notes).toEqual([])
  })

  test('keeps and explains doubts without time for another measurement', async () => {
    const { steps, results, notes } = await runWith(0.1, () => 1e4, uneven)
    expect(steps).toEqual(before)
    expect(results.map(({ doubts }) => doubts)).toEqual(results.map(() => ['floor', 'spread']))
    expect(notes).toEqual([
      expect.stringContaining('!: 20 of 20 times are less than their floor'),
      expect.stringContaining('!: 20 of 20 times have a spread'),
    ])
  })

  test.each([
    ['the time budget', 100, 1e12, 0.05],
    // 1e7 FLOP/s are floors of 3 ms forward, and of 10 ms with backward.
    ['the minimum number of rounds', 1, 1e7, 0.02],
  ])('estimates the time left within a factor of 2, if it is that of %s', async (_, seconds, rate, sampleSeconds) => {
    const { left, at, end } = await runWith(
      seconds,
      () => rate,
      () => sampleSeconds,
    )
    for (const [i, estimate] of left.entries()) {
      // Nothing is known before the roofs are measured but the budget.
      if (i === 0) continue
      expect(estimate / (end - at[i])).toBeGreaterThan(0.5)
      expect(estimate / (end - at[i])).toBeLessThan(2)
    }
  })
})

test('a wrong block shows in the difference of outputs, however large the array', () => {
  const numbers = (wrong: number) => {
    const data = Float32Array.from({ length: 999 * 70 }, (_, i) => Math.sin(i))
    data[500 * 70 + 69] += wrong
    return { data, shape: [999, 70], dtype: 'float32' as const }
  }
  expect(blockDifference(numbers(0), numbers(0))).toBe(0)
  // Of the last 6 columns and 8 rows, whose norm is about sqrt(48 / 2).
  expect(blockDifference(numbers(1), numbers(0))).toBeCloseTo(1 / Math.sqrt(24), 1)
  expect(blockDifference(numbers(NaN), numbers(0))).toBe(Infinity)
  expect(blockDifference(numbers(Infinity), numbers(0))).toBe(Infinity)
})

test('the faster of two measurements of the roofs', () => {
  const roofs = (flops: number, bfloat16Flops: number, bfloat16Source: string, read: number, update: number) => ({
    ...{ flops, bfloat16Flops, bfloat16Source, float16Flops: flops },
    memory: [{ bytes: 10, read, update }],
  })
  expect(fasterRoofs(roofs(1, 4, 'cuBLASLt', 5, 8), roofs(2, 3, 'a loop', 6, 7))).toEqual(roofs(2, 4, 'cuBLASLt', 6, 8))
})

const measuredRoofs = {
  flops: 118e9,
  bfloat16Flops: 236e9,
  bfloat16Source: 'a loop on registers',
  float16Flops: 118e9,
  memory: [
    { bytes: 2 ** 18, read: 117e9, update: 233e9 },
    { bytes: 2 ** 28, read: 8e9, update: 16e9 },
  ],
}
const rooflineOf = (rows: readonly Row[]) => rooflineChart(rows, { roofs: measuredRoofs } as unknown as Report, 250)

describe('the roofline chart', () => {
  const result = (intensity: number, gigaflops: number, method: Method): Result => ({
    shape,
    dtype: 'float32',
    routing: 'batch',
    pass: 'forward',
    method,
    rank: 1,
    spread: 0,
    samples: 3,
    floor: null,
    doubts: [],
    difference: null,
    flops: intensity * 1e6,
    bytes: 1e6,
    median: (intensity * 1e6) / (gigaflops * 1e9),
    lilyRatio: null,
    ratioToLora: 1,
    ratioToFused: null,
    ratioToLayer: null,
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
    const html = rooflineOf(rows)!.outerHTML
    const lines = [...html.matchAll(/<g [^>]*stroke-linejoin="round"[^>]*>(.*?)<\/g>/g)].map(([, line]) =>
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

test('a report has the numbers of each method in its column, as text and as a page', () => {
  const of = { shape, dtype: 'float32', routing: 'batch' } as const
  const result = (method: Method, changes: Partial<Result>): Result => ({
    ...of,
    pass: 'forward',
    method,
    rank: 5,
    spread: 0.01,
    samples: 3,
    floor: 1e-3,
    doubts: [],
    difference: null,
    flops: 1,
    bytes: 1e6,
    median: 1e-3,
    lilyRatio: null,
    ratioToLora: 1,
    ratioToFused: null,
    ratioToLayer: null,
    ...changes,
  })
  const report: Report = {
    verdict: 'On this machine it is fast.',
    version: '1.2.3',
    measuredAt: '',
    command: '',
    complete: false,
    machine: {
      backend: 'cpu',
      device: 'a processor',
      detail: 'avx2',
      threads: 2,
      platform: 'linux-x64',
      node: 'v20.1.0',
    },
    caches: 'cold',
    model: { layers: 32, strideA: 4 },
    roofs: {
      flops: 118e9,
      bfloat16Flops: 236e9,
      bfloat16Source: 'a loop on registers',
      float16Flops: 118e9,
      memory: [18, 20, 22, 24, 28].map((log, i) => ({ bytes: 2 ** log, read: 8e9 + i * 1e9, update: 16e9 })),
    },
    overheadSeconds: { forward: 1.5e-6, backward: 2e-6 },
    notes: ['a note'],
    results: [
      result('lily', { median: 2e-3, spread: 0.05, bytes: 24e6, ratioToLora: 0.8 }),
      result('lora', { median: 4e-3 }),
      result('lora-equal-parameters', { rank: 7, ratioToLora: 1.6 }),
      result('lily-composed', { ratioToFused: 3 }),
      result('layer', { median: 50e-3 }),
      result('lily-layer', { ratioToLayer: 1.1 }),
      result('lora-layer', { ratioToLayer: 1.25 }),
      result('lily-graph', { median: 0.05e-3, ratioToLora: 0.6 }),
      result('lora-graph', { ratioToLora: 0.9 }),
      result('lily', { pass: 'forward+backward', floor: 2.78e-3, doubts: ['floor', 'spread'], ratioToLora: 1.234 }),
      result('lora', { pass: 'forward+backward', floor: null, doubts: ['spread'] }),
      result('layer', { pass: 'forward+backward', doubts: ['spread'] }),
      result('lily-graph', { pass: 'forward+backward' }),
    ],
    failures: [{ ...of, shape: { ...shape, rank: 2 }, reason: 'not enough memory' }],
  }
  const lines = reportText(report)
    .split('\n')
    .map((line) => line.replace(/ {2,}/g, ' | '))
  expect(lines.slice(0, 5)).toEqual([
    'On this machine it is fast.',
    '',
    'cpu: a processor, avx2, 2 threads, linux-x64, Node v20.1.0',
    'roofs: 118 GFLOP/s in float32, 236 GFLOP/s in bfloat16; GB/s read / updated in place: 256 KiB 8.0 / 16, 256 MiB 12 / 16',
    'overhead of a call, at most: forward 1.5 µs, backward 2.0 µs (time of a whole call at 1, 8, 4, 2)',
  ])
  const head = 'Lily ms | ± | GB/s | of floor | LoRA ms | of floor | Lily/LoRA | equal params | unfused'
  const begin = lines.findIndex((line) => line.startsWith('M, d, r, E'))
  expect(lines.slice(begin, begin + 6)).toEqual([
    `M, d, r, E | ${head} | layer ms | + Lily | + LoRA | graph ms | graph/LoRA`,
    '',
    'float32, batch routing',
    '33, 40, 5, 3 | forward | 2.000 | 5% | 12 | 50% | 4.000 | 25% | 0.80 | 0.50 (r 7) | 3.00 | 50.0 | 10% | 25% | 0.0500 | 0.67',
    '33, 40, 5, 3 | forward+backward | 1.000 | 1%! | 1.0 | 278%! | 1.000! | - | 1.23 | - | - | 1.000! | - | - | 1.000 | -',
    '33, 40, 2, 3 | FAILED',
  ])
  for (const line of [
    'cold caches; preallocated y, dx and gradients, accumulated in place; medians, ± half the interquartile range',
    'a note',
    'FAILED: 33, 40, 2, 3, float32, batch routing: not enough memory',
    'interrupted: the remaining cases were not measured',
  ])
    expect(lines).toContain(line)

  const [title, table, ...others] = resultTables('cpu', rowsOf(report.results), report.failures)
  expect([title.outerHTML, others]).toEqual(['<h3>float32, batch routing</h3>', []])
  const textOf = (html: string) => [...html.matchAll(/<t[dh][^>]*>(.*?)<\/t[dh]>/g)].map(([, text]) => text).join(' | ')
  expect([...table.outerHTML.matchAll(/<tr[^>]*>(.*?)<\/tr>/g)].map(([, row]) => textOf(row))).toEqual([
    'M, d, r, E | pass | Lily ms | ± | GB/s | of floor | LoRA ms | of floor | Lily / LoRA | equal params | unfused Lily | ' +
      'layer ms | layer + Lily | layer + LoRA | graph ms | graph / LoRA',
    '33, 40, 5, 3 | fwd | 2.000 | 5% | 12 | 50% | 4.000 | 25% | 0.80 | 0.50 (r 7) | 3.00 | 50.0 | 10% | 25% | 0.0500 | 0.67',
    '+ bwd | 1.000 | 1%! | 1.0 | 278%! | 1.000! |  | 1.23 |  |  | 1.000! |  |  | 1.000 | ',
    '33, 40, 2, 3 | failed: not enough memory',
  ])
})

describe('the sentence about a run', () => {
  const cpu = { backend: 'cpu', device: '', detail: 'avx2', threads: 1, platform: '', node: '' } as const
  type Machine = Report['machine']

  /** Results of one problem: ratios of Lily to LoRA with equal parameters and of the same rank, and of unfused to fused. */
  const problem = (rank: number, equal: number, same: number, unfused: number | null = null, spread = 0.01): Result[] =>
    passes.flatMap((pass) => {
      const of = { shape: { ...shape, rank }, dtype: 'float32', routing: 'batch', pass } as const
      const rest = { rank, flops: 1, bytes: 1, samples: 5, spread, floor: null, doubts: [], difference: null }
      const result = (method: Method, changes: Partial<Result>): Result => {
        const ratios = { lilyRatio: null, ratioToLora: 1, ratioToLayer: null, ratioToFused: null }
        return { ...of, ...rest, method, median: 1e-3, ...ratios, ...changes }
      }
      // Forward alone has other ratios, which the sentence does not have.
      const factor = pass === 'forward' ? 100 : 1
      return [
        result('lily', { ratioToLora: factor * same, lilyRatio: { median: 1, spread: 0 } }),
        result('lora', { lilyRatio: { median: factor * same, spread } }),
        result('lora-equal-parameters', { lilyRatio: { median: factor * equal, spread } }),
        ...(unfused === null ? [] : [result('lily-composed', { ratioToFused: factor * unfused })]),
      ]
    })
  const sentence = (results: Result[], machine: Machine = cpu) => verdictOf({ machine, results })

  test('has the medians of the problems', () => {
    expect(sentence([...problem(1, 0.9, 1.2, 2), ...problem(2, 0.8, 1.3, 2.5), ...problem(3, 3, 1.1, 9)])).toBe(
      'On this machine a fused Lily adapter takes 0.90 times as long as LoRA with as many trainable parameters, and 1.20 ' +
        'times as long as LoRA of the same rank, forward and backward together (medians of 3 problems); the same steps as ' +
        'separate calls take 2.50 times as long.',
    )
  })

  test('claims no difference that is smaller than the spread of the ratios', () => {
    expect(sentence(problem(1, 0.98, 1.05, null, 0.03))).toBe(
      'On this machine a fused Lily adapter takes as long as LoRA with as many trainable parameters within the noise (0.98 ' +
        'times), and 1.05 times as long as LoRA of the same rank, forward and backward together (one problem).',
    )
  })

  test('leaves noisy problems out, and says when most of them are noisy', () => {
    const noisy = problem(9, 50, 50, 50, 0.26)
    const calm = [...problem(1, 0.5, 2), ...problem(2, 0.7, 4)]
    expect(sentence([...calm, ...noisy])).toMatch(
      / 0\.60 times as long .* 3\.00 times as long .* \(medians of 2 problems; 1 more was too noisy\)\.$/,
    )
    expect(sentence([...problem(1, 0.5, 2), ...noisy])).toBe(
      'On this machine the measurements were too noisy to compare Lily with LoRA: the ratios of 1 of 2 problems vary by more ' +
        'than ±25% from round to round; run it again on an idle machine or with more --seconds.',
    )
    // A problem is noisy if one of its ratios is.
    for (const method of ['lora', 'lora-equal-parameters']) {
      const disturbed = problem(9, 50, 50).map((result) => {
        return result.method === method ? { ...result, lilyRatio: { median: 50, spread: 0.26 } } : result
      })
      expect(sentence([...calm, ...disturbed])).toContain('1 more was too noisy')
    }
  })

  test('says where the times are from, and that there are none', () => {
    const results = problem(1, 0.5, 2, 3)
    const webgpu = { ...cpu, backend: 'webgpu', detail: 'adapter of a GPU', threads: null } as const
    expect(sentence(results, webgpu)).toMatch(
      /^On this GPU a fused .*; the same formula as operations of TensorFlow\.js takes 3\.00 times as long\.$/,
    )
    expect(sentence(results, { ...webgpu, detail: 'software adapter' })).toMatch(
      /^On this software adapter, whose times say nothing about a GPU, a fused Lily/,
    )
    expect(sentence([])).toBe('On this machine nothing was measured that this sentence could compare.')
  })

  test('is made for reports of earlier versions, which have no ratios by round', () => {
    const file = fileURLToPath(new URL('../../bench/results/cpu-zen5-avx512bf16-2-threads.json', import.meta.url))
    const text = readFileSync(file, 'utf8')
    expect(text).not.toMatch(/verdict|doubts|lilyRatio/)
    const [{ verdict, results }] = readReports(text)
    const ratios = rowsOf(results)
      .filter(({ pass }) => pass !== 'forward')
      .map(({ lily }) => lily.ratioToLora)
      .sort((a, b) => a - b)
    expect(ratios).toHaveLength(16)
    expect(verdict).toContain(
      `and ${((ratios[7] + ratios[8]) / 2).toFixed(2)} times as long as LoRA of the same rank, `,
    )
    expect(verdict).toContain('(medians of 16 problems)')
    expect(readReports(JSON.stringify([{ results, verdict: 'kept', machine: cpu }]))[0].verdict).toBe('kept')
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
      for (const expected of backend === 'cuda' ? [...shapes, ...deviceShapes] : shapes)
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
