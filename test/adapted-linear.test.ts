/** A frozen layer and its adapter in one call: the bits of the two calls, and checks of both before anything is written. */
import { describe, expect, it } from 'vitest'
import {
  type HostTensorLike,
  lilyBackward,
  lilyForward,
  lilyLinearBackward,
  lilyLinearBackwardAsync,
  lilyLinearForward,
  lilyLinearForwardAsync,
  linearBackward,
  linearForward,
  loraBackward,
  loraForward,
  loraLinearBackward,
  loraLinearBackwardAsync,
  loraLinearForward,
  loraLinearForwardAsync,
  packLinear,
  type TensorLike,
} from '../lib/index.js'
import { expectSameBits } from './support/compare.js'
import { type Float, pack } from './support/dtypes.js'
import { gaussian, randomFrom } from './support/random.js'
import { expectRefused } from './support/refused.js'

const sizes = { batch: 3, length: 7, dIn: 40, dOut: 52, rank: 5, experts: 3 }
const { batch, length, dIn, dOut, rank, experts } = sizes
const tokens = batch * length

interface Operands {
  x: HostTensorLike
  a: HostTensorLike
  router: HostTensorLike
  b: HostTensorLike
  weight: HostTensorLike
  bias: HostTensorLike
  dy: HostTensorLike
}

function operands(dtype: Float, parameters: Float, isLora: boolean): Operands {
  const random = randomFrom(5)
  const made = (type: Float, ...shape: number[]): HostTensorLike => ({
    data: pack(
      type,
      gaussian(
        random,
        shape.reduce((p, q) => p * q),
      ),
    ),
    shape,
    dtype: type,
  })
  return {
    x: made(dtype, batch, length, dIn),
    a: made(parameters, rank, dIn),
    router: made(parameters, experts, rank),
    b: isLora ? made(parameters, dOut, rank) : made(parameters, experts, rank, dOut),
    weight: made(parameters, dOut, dIn),
    bias: made(parameters, dOut),
    dy: made(dtype, batch, length, dOut),
  }
}

const filled = (dtype: Float, value: number, ...shape: number[]): HostTensorLike => ({
  data: pack(dtype, new Float32Array(shape.reduce((p, q) => p * q)).fill(value)),
  shape,
  dtype,
})

type Results = Record<string, { readonly data: ArrayBufferView; readonly shape: readonly number[] } | undefined>

function expectSame(actual: Results, expected: Results): void {
  expect(Object.keys(actual)).toEqual(Object.keys(expected))
  for (const [name, value] of Object.entries(expected)) {
    if (value === undefined) continue
    expect(actual[name]?.shape, name).toEqual(value.shape)
    expectSameBits(name, actual[name]?.data ?? new Uint8Array(), value.data)
  }
}

const TYPES = [
  ['float32', 'float32'],
  ['bfloat16', 'bfloat16'],
  ['float16', 'float32'],
] as const

const ROUTINGS = [
  { routing: 'batch' },
  { routing: 'sequence', pool: 'logits' },
  { routing: 'token', activation: 'relu' },
  { routing: 'uniform' },
] as const

/** Given outputs, and whether they are accumulated into. */
const OUTPUTS = [
  ['new outputs', undefined],
  ['given outputs', true],
  ['overwritten outputs', false],
] as const

describe.each(TYPES)('%s with parameters in %s', (dtype, parameters) => {
  describe.each(OUTPUTS)('%s', (_, accumulate) => {
    const given = (value: number, ...shape: number[]) =>
      accumulate === undefined ? undefined : filled(dtype, value, ...shape)
    const y = () => given(accumulate === false ? NaN : 2, tokens, dOut)
    const dx = () => given(accumulate === false ? NaN : 3, tokens, dIn)
    const options = accumulate === undefined ? {} : { accumulate }

    it.each(ROUTINGS)('Lily, $routing: the bits of the two calls', async (settings) => {
      const { weight, bias, dy, router: given, ...rest } = operands(dtype, parameters, false)
      const router = settings.routing === 'uniform' ? undefined : given
      const call = { ...rest, router }
      const forwardOptions = { ...settings, scaling: 0.5, ...options }
      const base = linearForward({ x: rest.x, weight, bias, y: y() }, options).y
      const { saved, ...expected } = lilyForward({ ...call, y: base }, { ...forwardOptions, accumulate: true })
      const baseDx = linearBackward({ dy, weight, dx: dx() }, options).dx
      const shaped = { data: baseDx.data, shape: accumulate === undefined ? rest.x.shape : baseDx.shape, dtype }
      const gradients = lilyBackward({ dy, dx: shaped }, saved)

      for (const frozen of [weight, packLinear(weight)]) {
        const all = { ...call, weight: frozen, bias }
        const { saved: own, ...results } = lilyLinearForward({ ...all, y: y() }, forwardOptions)
        expectSame(results, expected)
        expectSame({ ...lilyLinearBackward({ dy, weight: frozen, dx: dx() }, own, options) }, { ...gradients })
        const later = await lilyLinearForwardAsync({ ...all, y: y() }, forwardOptions)
        expectSame({ y: later.y }, expected)
        const promised = await lilyLinearBackwardAsync({ dy, weight: frozen, dx: dx() }, later.saved, options)
        expectSame({ ...promised }, { ...gradients })
      }
    })

    it('LoRA: the bits of the two calls', async () => {
      const { weight, bias, dy, router: _router, ...rest } = operands(dtype, parameters, true)
      const base = linearForward({ x: rest.x, weight, bias, y: y() }, options).y
      const { saved, ...expected } = loraForward({ ...rest, y: base }, { scaling: 2 })
      const baseDx = linearBackward({ dy, weight, dx: dx() }, options).dx
      const shaped = { data: baseDx.data, shape: accumulate === undefined ? rest.x.shape : baseDx.shape, dtype }
      const gradients = loraBackward({ dy, dx: shaped }, saved)

      const all = { ...rest, weight, bias }
      const { saved: own, ...results } = loraLinearForward({ ...all, y: y() }, { scaling: 2, ...options })
      expectSame(results, expected)
      expectSame({ ...loraLinearBackward({ dy, weight, dx: dx() }, own, options) }, { ...gradients })
      const later = await loraLinearForwardAsync({ ...all, y: y() }, { scaling: 2, ...options })
      expectSame({ y: later.y }, expected)
      const promised = await loraLinearBackwardAsync({ dy, weight, dx: dx() }, later.saved, options)
      expectSame({ ...promised }, { ...gradients })
    })
  })
})

it('the adapter of an Async call is that of the call, whatever runs after its frozen layer has started', async () => {
  const { weight, bias, dy, ...rest } = operands('float32', 'float32', false)
  const { y, saved } = lilyLinearForward({ ...rest, weight, bias }, { scaling: 2 })
  const pending = lilyLinearForwardAsync({ ...rest, weight, bias }, { scaling: 2 })
  const other = lilyForward(rest, { scaling: 5, routing: 'token' })
  expectSameBits('y', (await pending).y.data, y.data)
  const { dx } = lilyLinearBackward({ dy, weight }, saved, { retain: true })
  const gradients = lilyLinearBackwardAsync({ dy, weight }, saved)
  lilyBackward({ dy }, other.saved)
  expectSameBits('dx', (await gradients).dx.data, dx.data)
})

describe('backward', () => {
  const { weight, bias, dy, ...rest } = operands('float32', 'float32', false)
  const { saved } = lilyLinearForward({ ...rest, weight, bias })

  it('gives dx the shape of x, whatever that of dy', () => {
    const cube = { ...rest.x, shape: [1, tokens, dIn] }
    const { saved: ofCube } = lilyLinearForward({ ...rest, x: cube, weight })
    expect(lilyLinearBackward({ dy, weight }, ofCube).dx.shape).toEqual([1, tokens, dIn])
  })

  it('without dx does not compute the frozen layer', () => {
    const { dx, ...others } = lilyLinearBackward({ dy, weight }, saved, { needs: { dx: false }, retain: true })
    expect(dx).toBeUndefined()
    const { dx: _, ...expected } = lilyBackward({ dy }, saved, { retain: true })
    expectSame({ ...others }, { ...expected })
  })

  it('overwrites the given gradients of parameters, and not the dx of the frozen layer', () => {
    const da = filled('float32', NaN, rank, dIn)
    const dx = filled('float32', NaN, tokens, dIn)
    const results = lilyLinearBackward({ dy, weight, dx, da }, saved, { accumulate: false, retain: true })
    const expected = lilyLinearBackward({ dy, weight }, saved, { retain: true })
    expectSameBits('dx', results.dx.data, expected.dx.data)
    expectSameBits('da', results.da.data, expected.da.data)
  })

  it('refuses a saved that a backward has used, and writes nothing', async () => {
    const { saved } = lilyForward(rest)
    const { a, x } = rest
    const lora = loraForward({ x, a, b: operands('float32', 'float32', true).b }).saved
    lilyLinearBackward({ dy, weight }, saved)
    await loraLinearBackwardAsync({ dy, weight }, lora)
    const dx = filled('float32', 3, tokens, dIn)
    const given = { dy, weight, dx }
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => lilyLinearBackward(given, saved, { retain: true }))
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => lilyLinearBackwardAsync(given, saved))
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => loraLinearBackward(given, lora))
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => loraLinearBackwardAsync(given, lora))
    expect(new Set(dx.data)).toEqual(new Set([3]))
  })

  it('takes precision from forward', () => {
    const mixed = operands('bfloat16', 'float32', false)
    const { weight: of, bias: _, dy: gradient, ...adapter } = mixed
    const high = lilyLinearForward({ ...adapter, weight: of }, { precision: 'high' }).saved
    const { dx } = linearBackward({ dy: gradient, weight: of }, { precision: 'high' })
    const expected = lilyBackward({ dy: gradient, dx: { data: dx.data, shape: dx.shape, dtype: 'bfloat16' } }, high, {
      retain: true,
    }).dx
    expectSameBits('dx', lilyLinearBackward({ dy: gradient, weight: of }, high).dx.data, expected.data)
  })
})

describe('refusals', () => {
  const call = () => {
    const { dy, router, ...forward } = operands('float32', 'float32', false)
    return { dy, forward: { ...forward, router, y: filled('float32', 2, tokens, dOut) } }
  }
  const zeros = (...shape: number[]) => filled('float32', 0, ...shape)

  it.each([
    ['an a of another d_in', 'ERR_LILY_SHAPE', /^a:/, { a: zeros(rank, dIn + 1) }],
    ['a weight of another d_in', 'ERR_LILY_SHAPE', /^weight:/, { weight: zeros(dOut, dIn + 1) }],
    [
      'a weight of another d_out than b',
      'ERR_LILY_SHAPE',
      /^weight: expected \[52, 40\]/,
      { weight: zeros(51, dIn), bias: undefined },
    ],
    ['a bias of another size', 'ERR_LILY_SHAPE', /^bias:/, { bias: zeros(dOut - 1) }],
    ['a b of another rank', 'ERR_LILY_SHAPE', /^b:/, { b: zeros(experts, rank + 1, dOut) }],
  ] as const)('forward, %s: y is unchanged', async (_, code, text, changed: Record<string, TensorLike | undefined>) => {
    const { forward } = call()
    const before = forward.y.data.slice()
    for (const run of [lilyLinearForward, lilyLinearForwardAsync]) {
      const error = await expectRefused(code, '', () => run({ ...forward, ...changed }))
      expect(error.message).toMatch(text)
    }
    expect(forward.y.data).toEqual(before)
  })

  it('backward: an output over the weight, a weight of another shape', async () => {
    const { dy, forward } = call()
    const { saved } = lilyLinearForward({ ...forward, y: undefined })
    const { weight } = forward
    const over = { data: weight.data, shape: [rank, dIn], strides: [dIn, 1] }
    const before = weight.data.slice()
    await expectRefused('ERR_LILY_ARGUMENT', 'da: its memory overlaps that of weight', () =>
      lilyLinearBackward({ dy, weight, da: over }, saved),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'dx: its memory overlaps that of weight', () =>
      lilyLinearBackward({ dy, weight, dx: { data: weight.data, shape: [tokens, dIn], strides: [dIn, 1] } }, saved),
    )
    expect(weight.data).toEqual(before)
    await expectRefused('ERR_LILY_SHAPE', 'weight: expected [52, 40]', () =>
      lilyLinearBackward({ dy, weight: zeros(dOut, dIn + 1) }, saved),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => loraLinearBackward({ dy, weight }, saved as never))
  })

  it('backward: a weight of another type, with and without dx', async () => {
    const { dy, forward } = call()
    const { saved } = lilyLinearForward(forward)
    const { router: _, dy: __, ...ofLora } = operands('float32', 'float32', true)
    const lora = loraLinearForward(ofLora).saved
    const weight = filled('bfloat16', 1, dOut, dIn)
    for (const needs of [{ dx: true }, { dx: false }]) {
      const message = 'weight: expected float32, got bfloat16; convert it'
      await expectRefused('ERR_LILY_DTYPE', message, () => lilyLinearBackward({ dy, weight }, saved, { needs }))
      await expectRefused('ERR_LILY_DTYPE', message, () => loraLinearBackward({ dy, weight }, lora, { needs }))
    }
  })
})
