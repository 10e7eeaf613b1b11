/** Frozen linear layers on a GPUDevice: against the float64 reference and the cpu backend, alone and below adapters. */
import { describe, expect, it, test } from 'vitest'
import * as main from '../../lib/index.js'
import { createLily } from '../../lib/webgpu/index.js'
import {
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  lilyForwardAsync,
  linearBackward,
  linearForward,
  loraBackward,
  loraForward,
} from '../support/backend.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { pack, type Types } from '../support/dtypes.js'
import { testGpu } from '../support/gpu-device.js'
import { expectMatches } from '../support/linear-check.js'
import { type LinearHow, type LinearSpec, makeLinear, runLinear } from '../support/linear.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'

const { device, lily } = testGpu()

/** The type of the weight is that of x, or float32, or of 16 bits below float32 activations. */
const TYPES: readonly (readonly [string, Types])[] = [
  ['float32', {}],
  ['bfloat16', { activations: 'bfloat16' }],
  ['float16 with float32 weights', { activations: 'float16', parameters: 'float32' }],
  ['float32 with bfloat16 weights', { activations: 'float32', parameters: 'bfloat16' }],
  ['float32 with float16 weights', { activations: 'float32', parameters: 'float16' }],
]

const check = async (spec: LinearSpec, how: LinearHow) => {
  expectMatches({ spec, how }, await runLinear(makeLinear(spec), how))
}

describe.each(TYPES)('%s', (_, types) => {
  test.each([
    [{ tokens: 1, dIn: 1, dOut: 1, bias: true }, { outputs: 'overwrite' }],
    [{ tokens: 33, dIn: 257, dOut: 65, bias: true }, { outputs: 'add' }],
    [
      { tokens: 70, dIn: 64, dOut: 130 },
      { outputs: 'new', isAsync: true },
    ],
  ] as const)('%j', (sizes, how) => check({ ...sizes, ...types, seed: 1 }, how))

  // Rows that begin in the middle of a word of 32 bits.
  test('pitched operands', () => {
    const layout = { gap: 2, margin: 1 }
    const layouts = { x: layout, weight: layout, bias: layout, dy: layout, y: layout, dx: layout }
    return check({ tokens: 7, dIn: 13, dOut: 5, bias: true, ...types, seed: 2 }, { outputs: 'add', layout: layouts })
  })
})

describe('sizes', () => {
  // The larger tiles of each direction.
  test.each([
    { tokens: 530, dIn: 20, dOut: 1030, bias: true },
    { tokens: 530, dIn: 1030, dOut: 20 },
  ])('%j', (sizes) => check({ ...sizes, seed: 3 }, { outputs: 'add' }))

  test('no tokens', async () => {
    const { y, dx } = await runLinear(makeLinear({ tokens: 0, dIn: 5, dOut: 3, bias: true, seed: 1 }))
    expect([y.length, dx.length]).toEqual([0, 0])
  })

  test('a row has the same bits in every batch, and the numbers of the cpu backend', async () => {
    const [tokens, dIn, dOut] = [600, 40, 1000]
    const all = makeLinear({ tokens, dIn, dOut, bias: true, seed: 4 })
    const { y, dx } = await runLinear(all)
    const [x, dy] = [Array.from(all.x), Array.from(all.dy)]
    const one = await runLinear({ ...all, tokens: 1, x: x.slice(7 * dIn, 8 * dIn), dy: dy.slice(7 * dOut, 8 * dOut) })
    expectSameBits('y', one.y, y.slice(7 * dOut, 8 * dOut))
    expectSameBits('dx', one.dx, dx.slice(7 * dIn, 8 * dIn))
    const weight = main.tensor(Float32Array.from(all.weight), [dOut, dIn])
    const bias = main.tensor(Float32Array.from(all.bias ?? []), [dOut])
    const onCpu = main.linearForward({ x: main.tensor(Float32Array.from(x), [tokens, dIn]), weight, bias })
    expect(relativeError(y, onCpu.y.data as Float32Array)).toBeLessThan(1e-6)
  })
})

describe('the weight of a call', () => {
  const [tokens, dIn, dOut, rank, experts] = [21, 40, 52, 5, 3]
  const random = randomFrom(5)
  type Float = 'float32' | 'bfloat16'
  const of = (dtype: Float, ...shape: number[]) => {
    const length = shape.reduce((p, q) => p * q)
    return { data: pack(dtype, gaussian(random, length)), shape, dtype }
  }
  const numbersOf = (...given: main.Tensor[]) => given.map(({ data }) => data)

  test.each([
    ['float32', 'batch'],
    ['bfloat16', 'token'],
  ] as const)('Lily, %s, %s: the bits of two calls', async (dtype, routing) => {
    const [x, a, router, b] = [
      of(dtype, tokens, dIn),
      of(dtype, rank, dIn),
      of(dtype, experts, rank),
      of(dtype, experts, rank, dOut),
    ]
    const [weight, bias, dy] = [of(dtype, dOut, dIn), of(dtype, dOut), of(dtype, tokens, dOut)]
    const { y: base } = await linearForward({ x, weight, bias })
    const { y, saved } = await lilyForward({ x, a, router, b, y: base }, { routing, scaling: 0.5 })
    const { dx: baseDx } = await linearBackward({ dy, weight })
    const { dx, da } = await lilyBackward({ dy, dx: baseDx }, saved)
    const expected = numbersOf(y, dx, da)

    const both = await lilyForward({ x, weight, bias, a, router, b }, { routing, scaling: 0.5 })
    const gradients = await lilyBackward({ dy }, both.saved)
    for (const [i, values] of numbersOf(both.y, gradients.dx, gradients.da).entries()) {
      expectSameBits(`result ${i}`, values, expected[i])
    }
    const later = await lilyForwardAsync({ x, weight, bias, a, router, b }, { routing, scaling: 0.5 })
    const ofLater = await lilyBackwardAsync({ dy }, later.saved)
    for (const [i, values] of numbersOf(later.y, ofLater.dx, ofLater.da).entries()) {
      expectSameBits(`result ${i} of the Async forms`, values, expected[i])
    }
  })

  it('LoRA overwrites given outputs, as on the cpu backend, under a bfloat16 weight', async () => {
    const [x, a, b, dy] = [
      of('float32', tokens, dIn),
      of('float32', rank, dIn),
      of('float32', dOut, rank),
      of('float32', tokens, dOut),
    ]
    const weight = of('bfloat16', dOut, dIn)
    const widened = { data: Float32Array.from(main.cast(weight, 'float32').data), shape: [dOut, dIn] }
    const [y, dx] = [of('float32', tokens, dOut), of('float32', tokens, dIn)]
    const { saved } = await loraForward({ x, weight, a, b, y }, { accumulate: false })
    await loraBackward({ dy, dx }, saved, { accumulate: false })
    const onCpu = main.loraForward({ x, weight: widened, a, b })
    const { dx: expected } = main.loraBackward({ dy }, onCpu.saved)
    expect(relativeError(y.data as Float32Array, onCpu.y.data as Float32Array)).toBeLessThan(1e-6)
    expect(relativeError(dx.data as Float32Array, expected.data as Float32Array)).toBeLessThan(1e-6)
  })
})

describe('a createLily object', () => {
  const small = () => ({
    x: lily.tensor([1, 2, 3, 4], [2, 2]),
    weight: lily.tensor([1, 0, 0, 1, 1, 1], [3, 2]),
    bias: lily.tensor([10, 20, 30], [3]),
  })

  it('runs both directions, their Async forms, and encodes', async () => {
    const { x, weight, bias } = small()
    const expected = [11, 22, 33, 13, 24, 37]
    const { y } = lily.linearForward({ x, weight, bias })
    expect([...(await y.toHost()).data]).toEqual(expected)
    expect([...(await (await lily.linearForwardAsync({ x, weight, bias })).y.toHost()).data]).toEqual(expected)
    const encoder = device.createCommandEncoder()
    const { y: encoded } = lily.linearForward({ x, weight, bias }, { encoder })
    const { dx } = lily.linearBackward({ dy: encoded, weight }, { encoder })
    device.queue.submit([encoder.finish()])
    lily.submitted(encoder)
    const sums = [44, 55, 50, 61]
    expect([...(await dx.toHost()).data]).toEqual(sums)
    expect([...(await (await lily.linearBackwardAsync({ dy: y, weight })).dx.toHost()).data]).toEqual(sums)
  })

  it('adds a float32 bias beside a weight of 16 bits', async () => {
    const { x, bias } = small()
    const ones = lily.tensor(new Uint16Array(6).fill(0x3f80), [3, 2], 'bfloat16')
    const { y } = lily.linearForward({ x, weight: ones, bias })
    expect([...(await y.toHost()).data]).toEqual([13, 23, 33, 17, 27, 37])
  })

  it('an adapter and its layer are commands of one submission', () => {
    const { x, weight } = small()
    const [a, b] = [lily.tensor([1, 1], [1, 2]), lily.tensor([1, 2, 3], [3, 1])]
    let submits = 0
    const submit = device.queue.submit.bind(device.queue)
    device.queue.submit = (buffers) => {
      submits++
      submit(buffers)
    }
    try {
      const { y, saved } = lily.loraForward({ x, weight, a, b })
      lily.loraBackward({ dy: y }, saved)
    } finally {
      device.queue.submit = submit
    }
    expect(submits).toBe(2)
  })

  it('refuses bad operands, and writes nothing', async () => {
    const { x, weight, bias } = small()
    const y = lily.tensor([1, 2, 3, 4, 5, 6], [2, 3])
    const refused = (code: string, text: string, given: object) =>
      expectRefused(code, text, () => lily.linearForward({ x, weight, bias, y, ...given }))
    const host = main.tensor([1, 0, 0, 1, 1, 1], [3, 2])
    await refused('ERR_LILY_SHAPE', 'weight: expected [d_out, 2]', { weight: lily.tensor([1, 2, 3], [1, 3]) })
    await refused('ERR_LILY_SHAPE', 'bias: expected [3]', { bias: x })
    const [narrow, halves] = [
      lily.tensor(new Uint16Array(6), [3, 2], 'bfloat16'),
      lily.tensor(new Uint16Array(3), [3], 'float16'),
    ]
    await refused('ERR_LILY_DTYPE', 'bias: expected bfloat16 or float32', { weight: narrow, bias: halves })
    await refused('ERR_LILY_DEVICE', 'weight: expected device webgpu', { weight: host })
    await refused('ERR_LILY_DEVICE', 'x', { x: main.tensor([1, 2], [1, 2]) })
    const half = lily.tensor(new Uint16Array(4), [2, 2], 'bfloat16')
    const other = lily.tensor(new Uint16Array(6), [3, 2], 'float16')
    await refused('ERR_LILY_DTYPE', 'weight: expected bfloat16 or float32, got float16', {
      x: half,
      weight: other,
      bias: undefined,
      y: undefined,
    })
    await refused('ERR_LILY_ARGUMENT', 'y: its memory overlaps that of x', {
      x: y,
      y,
      weight: lily.tensor(new Float32Array(9), [3, 3]),
    })
    const packed = main.packLinear(host)
    const message = 'weight: expected a tensor on webgpu'
    await refused('ERR_LILY_DEVICE', message, { weight: packed })
    await expectRefused('ERR_LILY_DEVICE', message, () => lily.linearBackward({ dy: y, weight: packed }))
    const [a, b] = [lily.tensor([1, 1], [1, 2]), lily.tensor([1, 2, 3], [3, 1])]
    await expectRefused('ERR_LILY_DEVICE', message, () => lily.loraForward({ x, weight: packed, a, b, y }))
    expect([...(await y.toHost()).data]).toEqual([1, 2, 3, 4, 5, 6])
  })

  it('names a weight that the device cannot bind, before it encodes', async () => {
    const adapter = await testGpu().gpu.requestAdapter()
    using small = createLily(await adapter!.requestDevice({ requiredLimits: { maxStorageBufferBindingSize: 2 ** 27 } }))
    const weight = small.tensor(new Float32Array(2 ** 25 + 256), [2 ** 17 + 1, 256])
    const x = small.tensor(new Float32Array(256), [1, 256])
    await expectRefused('ERR_LILY_ARGUMENT', 'maxStorageBufferBindingSize', () => small.linearForward({ x, weight }))
  })
})
