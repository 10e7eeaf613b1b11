/**
 * The kernels for WebGPU on their own, with operands in GPU buffers: random problems over all modes, data types and layouts,
 * compared with the float64 reference on the inputs as rounded. A validation error of WebGPU fails a test.
 *
 * @long
 */
import { afterAll, describe, expect, test } from 'vitest'
import { GpuKernels } from '../../lib/webgpu/kernels.js'
import { isLong } from '../support/runs.js'
import { makeCase, type Spec, splitTokens } from '../support/cases.js'
import { checkResult } from '../support/check.js'
import { expectClose, expectSameBits } from '../support/compare.js'
import { type Float, round, TYPES } from '../support/dtypes.js'
import { testGpu } from '../support/gpu-device.js'
import { integer, randomFrom } from '../support/random.js'
import { forward } from '../support/reference.js'
import { type How, runOnGpu } from './run.js'

const { gpu, device } = testGpu()
const kernels = new GpuKernels(device)

async function check(spec: Spec, how: How = {}, of = kernels): Promise<void> {
  const c = makeCase(spec)
  const result = await runOnGpu(of, device, c, how)
  expect(result.damaged, 'operands written to where they must not be').toEqual([])
  checkResult(c, result, how)
}

/** The device with another limit for a binding. */
function deviceThatBinds(maxStorageBufferBindingSize: number): GPUDevice {
  const withLimit = <T extends object>(of: T, changed: Readonly<Record<string, unknown>>): T =>
    new Proxy(of, {
      get: (target, key) => {
        if (Object.hasOwn(changed, key)) return changed[key as string]
        const value: unknown = Reflect.get(target, key, target)
        return typeof value === 'function' ? (value.bind(target) as unknown) : value
      },
    })
  return withLimit(device, { limits: withLimit(device.limits, { maxStorageBufferBindingSize }) })
}

/** Random sizes. Whether rows have an even number of elements is the same for all, as it decides on shaders in 16 bits. */
function sizes(seed: number, isEven: boolean, lengths: boolean, ofExperts = 8): Omit<Spec, 'routing'> {
  const random = randomFrom(seed)
  const size = (most: number) => {
    const half = integer(random, 0, Math.floor((most - 1) / 2))
    return isEven ? 2 * half + 2 : 2 * half + 1
  }
  const tokens = integer(random, 1, 90)
  return {
    tokens,
    dIn: size(300),
    dOut: size(300),
    rank: size(15),
    experts: integer(random, 1, ofExperts),
    seed,
    scaling: [1, 0.5, -2][seed % 3],
    ...(lengths && { lengths: splitTokens(tokens, 1 + (seed % 9), seed) }),
  }
}

interface Mode {
  readonly name: string
  readonly spec: Partial<Spec> & Pick<Spec, 'routing'>
  readonly grouped?: boolean
}

const MODES: readonly Mode[] = [
  { name: 'batch', spec: { routing: 'batch' } },
  { name: 'batch, logits, masked, relu', spec: { routing: 'batch', pool: 'logits', masked: 0.4, activation: 'relu' } },
  { name: 'sequence', spec: { routing: 'sequence' }, grouped: true },
  {
    name: 'sequence, logits, masked, relu',
    spec: { routing: 'sequence', pool: 'logits', masked: 0.3, activation: 'relu' },
    grouped: true,
  },
  { name: 'token, relu', spec: { routing: 'token', activation: 'relu' } },
  { name: 'learned', spec: { routing: 'learned' } },
  { name: 'fixed', spec: { routing: 'fixed' } },
  { name: 'fixed, groups', spec: { routing: 'fixed' }, grouped: true },
  { name: 'uniform', spec: { routing: 'uniform' } },
  { name: 'lora', spec: { routing: 'lora', experts: 1 } },
]

describe('random problems in float32', () => {
  for (const { name, spec, grouped = false } of MODES) {
    const isLora = spec.routing === 'lora'
    test(`${name}: overwrites, and then deferred`, async () => {
      for (const seed of isLong ? [1, 2, 3, 4, 5] : [1, 2]) {
        await check({ ...sizes(seed, seed % 2 === 0, grouped), ...spec })
        if (!isLora) await check({ ...sizes(seed + 50, true, grouped), ...spec }, { deferB: true, outputs: 'add' })
      }
    })
    test(`${name}: adds, pitched, in one buffer`, async () => {
      for (const seed of isLong ? [6, 7, 8, 9, 10] : [7, 9]) {
        const how: How = { outputs: 'add', oneBuffer: true, layout: () => ({ gap: seed % 4, margin: seed % 3 }) }
        await check({ ...sizes(seed, seed % 2 === 0, grouped), ...spec }, how)
      }
    })
  }
})

describe('dropout', () => {
  const kinds: readonly [string, Spec, How][] = [
    ['batch, added to', { ...sizes(61, true, false), routing: 'batch', dropout: 0.3 }, { outputs: 'add' }],
    [
      'sequence, relu',
      { ...sizes(62, false, true), routing: 'sequence', masked: 0.3, activation: 'relu', dropout: 0.5 },
      {},
    ],
    ['token, in bfloat16', { ...sizes(63, false, false), routing: 'token', activations: 'bfloat16', dropout: 0.1 }, {}],
    [
      'LoRA across tiles, in float16, added to',
      {
        ...{ routing: 'lora', tokens: 300, dIn: 2060, dOut: 90, rank: 33, experts: 1, seed: 64 },
        ...{ activations: 'float16', parameters: 'float32', dropout: 0.25 },
      },
      { outputs: 'add', layout: () => ({ gap: 3, margin: 1 }) },
    ],
  ]
  for (const [name, spec, how] of kinds)
    test(name, async () => {
      await check(spec, how)
    })
})

describe('gradients of given weights', () => {
  const needs = { dWeights: true }
  test.each<[string, Partial<Spec>, How]>([
    ['one group', {}, { needs }],
    ['added to, with a fold of db later', { dropout: 0.2 }, { needs, outputs: 'add', deferB: true }],
    ['of sequences, some without tokens, in bfloat16', { lengths: [20, 0, 31], activations: 'bfloat16' }, { needs }],
    ['nothing else', { tokens: 700, rank: 70 }, { needs: { ...needs, dx: false, da: false, db: false } }],
    ['nothing else, of sequences', { lengths: [0, 51] }, { needs: { ...needs, dx: false, da: false, db: false } }],
    ['without tokens', { tokens: 0 }, { needs }],
  ])('%s', async (_, spec, how) => {
    await check({ ...sizes(71, false, false), tokens: 51, routing: 'fixed', ...spec }, how)
  })
})

/** Each type with two modes, so that every mode occurs; even rows store whole words, odd ones halves. */
describe('random problems in 16 bits', () => {
  const types = Object.entries(TYPES).filter(([, { activations }]) => activations !== undefined)
  for (const [i, [name, ofTypes]] of types.entries())
    for (const turn of [0, 1]) {
      const { name: mode, spec, grouped = false } = MODES[(2 * i + turn * 5) % MODES.length]
      const isEven = (i + turn) % 2 === 0
      test(`${name}, ${mode}, rows of an ${isEven ? 'even' : 'odd'} length`, async () => {
        for (const seed of [11, 12, 13]) {
          // Rows of an odd length with a gap of one: they begin at whole words, and end with half of one.
          const endsInHalf = !isEven && seed === 13
          const layout = { gap: endsInHalf ? 1 : 2, margin: isEven || endsInHalf ? 2 : 1 }
          const how: How = { outputs: turn === 0 ? 'add' : 'overwrite', layout: () => layout }
          await check({ ...sizes(seed, isEven, grouped), ...ofTypes, ...spec }, how)
        }
      })
    }
  test('every row begins in the middle of a word', async () => {
    const how: How = { outputs: 'add', layout: () => ({ gap: 2, margin: 1 }) }
    await check({ ...sizes(14, true, false), activations: 'bfloat16', routing: 'batch' }, how)
  })
})

describe('sizes that cross tiles', () => {
  const specs: Spec[] = [
    { routing: 'batch', tokens: 300, dIn: 530, dOut: 600, rank: 70, experts: 3, seed: 1, masked: 0.2 },
    // So many products of experts and rank that forward combines B in a pass of its own, and E above a tile.
    { routing: 'batch', tokens: 300, dIn: 70, dOut: 90, rank: 130, experts: 40, seed: 2, pool: 'logits' },
    { routing: 'token', tokens: 300, dIn: 270, dOut: 257, rank: 33, experts: 5, seed: 3 },
    { routing: 'sequence', tokens: 300, dIn: 300, dOut: 257, rank: 70, experts: 3, lengths: [1, 0, 255, 44], seed: 4 },
    { routing: 'lora', tokens: 300, dIn: 257, dOut: 300, rank: 70, experts: 1, seed: 5 },
    { routing: 'uniform', tokens: 4200, dIn: 40, dOut: 300, rank: 5, experts: 2, seed: 6 },
    { routing: 'batch', tokens: 4200, dIn: 20, dOut: 30, rank: 5, experts: 64, seed: 7, masked: 0.5 },
  ]
  for (const spec of specs)
    test(`${spec.routing} ${[spec.tokens, spec.dIn, spec.dOut, spec.rank, spec.experts].join(', ')}`, async () => {
      await check(spec, { outputs: 'add' })
    })
  // As on a device that binds less: v does not fit, so two ranges of tokens take turns.
  test('v in ranges of tokens', async () => {
    const spec: Spec = { routing: 'token', tokens: 201, dIn: 30, dOut: 40, rank: 33, experts: 5, seed: 8 }
    await check(spec, { outputs: 'add' }, new GpuKernels(deviceThatBinds(300_000)))
  })
})

/** Tiles that a device with the default limits does not have. */
describe('the largest limits of the adapter', async () => {
  const adapter = await gpu.requestAdapter()
  const { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX } =
    adapter!.limits
  const requiredLimits = { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX }
  const large = await adapter!.requestDevice({ requiredLimits })
  const errors: string[] = []
  large.addEventListener('uncapturederror', ({ error }) => errors.push(error.message))
  afterAll(() => {
    large.destroy()
  })
  const isLarger = maxComputeWorkgroupStorageSize >= 32768 && maxComputeInvocationsPerWorkgroup >= 512
  const onLarge = new GpuKernels(large)

  const sizes = { tokens: 520, dIn: 300, dOut: 2050, rank: 33 }
  const specs: Spec[] = [
    // More partial sums of the weights than 256 threads add in one step for nine experts.
    { ...sizes, routing: 'batch', experts: 9, masked: 0.2, seed: 51 },
    { ...sizes, routing: 'token', experts: 2, seed: 52 },
    // Its passes have the same tiles as those of a batch; dx is large, too.
    ...(isLong
      ? [{ ...sizes, dIn: 2100, routing: 'lora', experts: 1, activations: 'bfloat16', seed: 53 } as const]
      : []),
  ]
  for (const spec of specs)
    test(spec.routing, async ({ skip }) => {
      if (!isLarger) skip('the adapter has no more than the default limits')
      const c = makeCase(spec)
      const result = await runOnGpu(onLarge, large, c, { outputs: 'add' })
      expect(errors.splice(0)).toEqual([])
      expect(result.damaged).toEqual([])
      checkResult(c, result, { outputs: 'add' })
      // Each sum is formed by one thread, whatever the tile. The weights of a batch are sums over the threads of a workgroup.
      if (spec.routing === 'batch') return
      const { values } = await runOnGpu(kernels, device, c, { outputs: 'add' })
      for (const name of ['y', 'hidden', 'dx'] as const)
        expectSameBits(name, result.values[name] as Float32Array, values[name] as Float32Array)
    })
})

describe('a device that binds too little', () => {
  test('the refusal names the limit, and so many tokens that one fewer or as many run', async () => {
    const limited = new GpuKernels(deviceThatBinds(8192))
    const spec: Spec = { routing: 'batch', tokens: 60, dIn: 50, dOut: 40, rank: 4, experts: 2, seed: 9 }
    const refusal =
      /^x: one pass binds 12000 bytes .* 8192 \(maxStorageBufferBindingSize\); .* at most 40 tokens per call$/
    await expect(check(spec, {}, limited)).rejects.toThrow(refusal)
    await expect(check({ ...spec, tokens: 41 }, {}, limited)).rejects.toThrow(/at most 40 tokens/)
    await check({ ...spec, tokens: 40 }, {}, limited)
    await expect(check({ ...spec, dIn: 3000 }, {}, limited)).rejects.toThrow(/request a device with a larger limit$/)
  })
})

describe('gradients that are not required', () => {
  const some = [{ dx: false }, { da: false, dRouter: false }, { dx: false, da: false, dRouter: false }]
  for (const routing of ['batch', 'sequence', 'token', 'lora'] as const)
    test(routing, async () => {
      const grouped = routing === 'sequence'
      for (const [i, needs] of [...some, { dx: false, da: false, db: false }, { db: false }].entries())
        await check({ ...sizes(20 + i, true, grouped), routing, ...(routing === 'lora' && { experts: 1 }) }, { needs })
    })
  test('without any, and without what backward reads', async () => {
    for (const { spec, grouped = false } of MODES) {
      const c = makeCase({ ...sizes(30, true, grouped), ...spec })
      const { values, damaged } = await runOnGpu(kernels, device, c, { inference: true })
      expect(damaged).toEqual([])
      expectClose('y', values.y as Float32Array, forward(c).y)
    }
  })
})

describe('empty problems', () => {
  for (const { name, spec, grouped = false } of MODES)
    test(`${name}: no tokens, and one`, async () => {
      const of = { ...sizes(40, true, false), ...spec }
      for (const outputs of ['add', 'overwrite'] as const) {
        await check({ ...of, tokens: 0, masked: 0, ...(grouped && { lengths: [] }) }, { outputs })
        await check({ ...of, tokens: 0, masked: 0, ...(grouped && { lengths: [0, 0] }) }, { outputs })
      }
      await check({ ...of, tokens: 1, ...(grouped && { lengths: [0, 1, 0] }) })
    })
  for (const lengths of [undefined, [21, 0, 1, 8]])
    test(`no kept token in ${lengths ? 'a group' : 'the batch'}: no gradient, even with NaN`, async () => {
      for (const pool of ['probabilities', 'logits'] as const) {
        const routing = lengths ? 'sequence' : 'batch'
        const spec = { ...sizes(41, true, false), tokens: 30, routing, lengths, pool, masked: 0.2 } as const
        for (const deferB of [false, true]) {
          const how: How = { deferB, outputs: 'add' }
          await check({ ...spec, emptyGroup: 'finite' }, how)
          const finite = await runOnGpu(kernels, device, makeCase({ ...spec, emptyGroup: 'finite' }), how)
          const withNaN = await runOnGpu(kernels, device, makeCase({ ...spec, emptyGroup: 'nan' }), how)
          expect(withNaN.values.hidden?.some(Number.isNaN)).toBe(true)
          for (const name of ['dx', 'da', 'dRouter', 'db', 'weights'] as const)
            expect(withNaN.values[name], name).toEqual(finite.values[name])
        }
      }
    })
})

describe('bits', () => {
  // Alone, and among so many others that no workgroup splits the long dimension.
  for (const routing of ['sequence', 'token', 'lora'] as const)
    test(`${routing}: tokens do not depend on the rest of the batch`, async () => {
      const [before, length, after] = [4100, 19, 70]
      const of = { dIn: 600, dOut: 530, rank: 5, experts: routing === 'lora' ? 1 : 3, routing, seed: 43 } as const
      const grouped = routing === 'sequence'
      const tokens = before + length + after
      const all = makeCase({ ...of, tokens, ...(grouped && { lengths: [before, length, after] }) })
      const rows = (values: Float32Array, cols: number) => values.slice(before * cols, (before + length) * cols)
      const alone = {
        ...all,
        tokens: length,
        x: rows(all.x, all.dIn),
        dy: rows(all.dy, all.dOut),
        offsets: all.offsets && Int32Array.of(0, length),
      }
      const [wide, narrow] = [await runOnGpu(kernels, device, all), await runOnGpu(kernels, device, alone)]
      for (const [name, cols] of [
        ['y', of.dOut],
        ['hidden', of.rank],
        ['dx', of.dIn],
      ] as const)
        expectSameBits(name, rows(wide.values[name] as Float32Array, cols), narrow.values[name] as Float32Array)
    })
})

describe('rounding', () => {
  for (const activations of ['bfloat16', 'float16'] as const)
    test(`y in ${activations}: to nearest, ties to even`, async () => {
      const b = roundingCases(activations)
      const types = { activations, parameters: 'float32', precision: 'high' } as const
      const c = makeCase({
        routing: 'lora',
        tokens: 1,
        dIn: 1,
        dOut: b.length,
        rank: 1,
        experts: 1,
        seed: 44,
        ...types,
      })
      c.x.fill(1)
      c.a.fill(1)
      const { values } = await runOnGpu(kernels, device, { ...c, b, dy: new Float32Array(b.length) })
      // The sum with zero forgets the sign of a zero, which `round` does not keep.
      const expected = Float32Array.from(b, (value) => round(activations, value) + 0)
      expect(values.y?.map((value) => value + 0)).toEqual(expected)
    })
})

/** Numbers at and next to ties of two neighbours, over all exponents; the ends of the range; NaN and infinities. */
function roundingCases(dtype: Float): Float32Array {
  const bits = dtype === 'bfloat16' ? 16 : 13
  const numbers = new Float32Array(new Uint32Array(1).buffer)
  const word = new Uint32Array(numbers.buffer)
  const random = randomFrom(45)
  const cases = [
    NaN,
    Infinity,
    -Infinity,
    0,
    65504,
    65519,
    65520,
    -65536,
    2 ** -24,
    2 ** -25,
    2 ** -25 * 1.01,
    2 ** -14,
  ]
  for (let exponent = 90; exponent < 160; exponent++)
    for (const rest of [0, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2 ** (bits - 1) + 1])
      for (const sign of [0, 1]) {
        const mantissa = (integer(random, 0, 2 ** (23 - bits) - 1) << bits) | rest
        word[0] = ((sign << 31) | (exponent << 23) | mantissa) >>> 0
        cases.push(numbers[0])
      }
  return Float32Array.from(cases)
}
