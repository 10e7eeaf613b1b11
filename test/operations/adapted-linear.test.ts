/**
 * An adapter with the weight of its frozen layer: the bits of two calls, and checks of both before anything is written.
 *
 * @project cpu amx
 */
import { describe, expect, it } from 'vitest'
import {
  AdamW,
  foldB,
  type HostTensorLike,
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  lilyForwardAsync,
  type LilyErrorCode,
  linearBackward,
  linearForward,
  loraBackward,
  loraBackwardAsync,
  loraForward,
  loraForwardAsync,
  type PackedLinear,
  packLinear,
  tensor,
  type TensorLike,
} from '../../lib/index.js'
import * as reference from '../support/reference.js'
import { expectClose, expectSameBits, relativeError } from '../support/compare.js'
import { type Float, pack } from '../support/dtypes.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'

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

function operands(dtype: Float, parameters: Float, isLora: boolean, frozen = parameters): Operands {
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
    weight: made(frozen, dOut, dIn),
    bias: made(frozen, dOut),
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
  ['float32', 'float32', 'float32'],
  ['float32', 'float32', 'bfloat16'],
  ['bfloat16', 'bfloat16', 'bfloat16'],
  ['float16', 'float32', 'float32'],
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

describe.each(TYPES)('%s with parameters in %s and a weight in %s', (dtype, parameters, frozen) => {
  describe.each(OUTPUTS)('%s', (_, accumulate) => {
    const given = (value: number, ...shape: number[]) =>
      accumulate === undefined ? undefined : filled(dtype, value, ...shape)
    const y = () => given(accumulate === false ? NaN : 2, tokens, dOut)
    const dx = () => given(accumulate === false ? NaN : 3, tokens, dIn)
    const options = accumulate === undefined ? {} : { accumulate }

    it.each(ROUTINGS)('Lily, $routing: the bits of the two calls', async (settings) => {
      const { weight, bias, dy, router: given, ...rest } = operands(dtype, parameters, false, frozen)
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
        const { saved: own, ...results } = lilyForward({ ...all, y: y() }, forwardOptions)
        expectSame(results, expected)
        expectSame({ ...lilyBackward({ dy, dx: dx() }, own, options) }, { ...gradients })
        const later = await lilyForwardAsync({ ...all, y: y() }, forwardOptions)
        expectSame({ y: later.y }, expected)
        const promised = await lilyBackwardAsync({ dy, dx: dx() }, later.saved, options)
        expectSame({ ...promised }, { ...gradients })
      }
    })

    it('LoRA: the bits of the two calls', async () => {
      const { weight, bias, dy, router: _router, ...rest } = operands(dtype, parameters, true, frozen)
      const base = linearForward({ x: rest.x, weight, bias, y: y() }, options).y
      const { saved, ...expected } = loraForward({ ...rest, y: base }, { scaling: 2 })
      const baseDx = linearBackward({ dy, weight, dx: dx() }, options).dx
      const shaped = { data: baseDx.data, shape: accumulate === undefined ? rest.x.shape : baseDx.shape, dtype }
      const gradients = loraBackward({ dy, dx: shaped }, saved)

      const all = { ...rest, weight, bias }
      const { saved: own, ...results } = loraForward({ ...all, y: y() }, { scaling: 2, ...options })
      expectSame(results, expected)
      expectSame({ ...loraBackward({ dy, dx: dx() }, own, options) }, { ...gradients })
      const later = await loraForwardAsync({ ...all, y: y() }, { scaling: 2, ...options })
      expectSame({ y: later.y }, expected)
      const promised = await loraBackwardAsync({ dy, dx: dx() }, later.saved, options)
      expectSame({ ...promised }, { ...gradients })
    })
  })
})

it('the adapter of an Async call is that of the call, whatever runs after its frozen layer has started', async () => {
  const { weight, bias, dy, ...rest } = operands('float32', 'float32', false)
  const { y, saved } = lilyForward({ ...rest, weight, bias }, { scaling: 2 })
  const pending = lilyForwardAsync({ ...rest, weight, bias }, { scaling: 2 })
  const other = lilyForward(rest, { scaling: 5, routing: 'token' })
  expectSameBits('y', (await pending).y.data, y.data)
  const { dx } = lilyBackward({ dy }, saved, { retain: true })
  const gradients = lilyBackwardAsync({ dy }, saved)
  lilyBackward({ dy }, other.saved)
  expectSameBits('dx', (await gradients).dx.data, dx.data)
})

describe('backward', () => {
  const { weight, bias, dy, ...rest } = operands('float32', 'float32', false)
  const { saved } = lilyForward({ ...rest, weight, bias })

  it('gives dx the shape of x, whatever that of dy', () => {
    const cube = { ...rest.x, shape: [1, tokens, dIn] }
    const { saved: ofCube } = lilyForward({ ...rest, x: cube, weight })
    expect(lilyBackward({ dy }, ofCube).dx.shape).toEqual([1, tokens, dIn])
  })

  it('without dx computes the gradients of the parameters alone', () => {
    const { dx, ...others } = lilyBackward({ dy }, saved, { needs: { dx: false }, retain: true })
    expect(dx).toBeUndefined()
    const { dx: _, ...expected } = lilyBackward({ dy }, saved, { retain: true })
    expectSame({ ...others }, { ...expected })
  })

  it('adds to dx again with retain, and defers the gradient of b', () => {
    const twice = { data: new Float32Array(tokens * dIn), shape: rest.x.shape }
    const { saved: deferring } = lilyForward({ ...rest, weight, bias })
    for (const retain of [true, false]) lilyBackward({ dy, dx: twice }, deferring, { retain, deferB: true })
    const expected = filled('float32', 0, ...rest.x.shape)
    for (let i = 0; i < 2; i++) {
      linearBackward({ dy, weight, dx: expected })
      lilyBackward({ dy, dx: expected }, lilyForward(rest).saved)
    }
    expectSameBits('dx', twice.data, expected.data)
    const db = lilyBackward({ dy }, saved, { retain: true }).db.data as Float32Array
    expect(
      relativeError(
        foldB(deferring).data as Float32Array,
        db.map((value) => 2 * value),
      ),
    ).toBeLessThan(1e-6)
  })

  it('takes x again, whose memory has moved', () => {
    const { x, ...others } = rest
    const moved = new Float32Array(x.data as Float32Array)
    const { saved: ofMoved } = lilyForward({ ...others, x: { data: moved, shape: x.shape }, weight })
    structuredClone(moved.buffer, { transfer: [moved.buffer] })
    expectSame({ ...lilyBackward({ dy, x }, ofMoved) }, { ...lilyBackward({ dy }, saved, { retain: true }) })
  })

  it('overwrites the given gradients of parameters, and not the dx of the frozen layer', () => {
    const da = filled('float32', NaN, rank, dIn)
    const dx = filled('float32', NaN, tokens, dIn)
    const results = lilyBackward({ dy, dx, da }, saved, { accumulate: false, retain: true })
    const expected = lilyBackward({ dy }, saved, { retain: true })
    expectSameBits('dx', results.dx.data, expected.dx.data)
    expectSameBits('da', results.da.data, expected.da.data)
  })

  it('refuses a saved that a backward has used, and writes nothing', async () => {
    const { saved } = lilyForward({ ...rest, weight })
    const { a, x } = rest
    const lora = loraForward({ x, a, weight, b: operands('float32', 'float32', true).b }).saved
    lilyBackward({ dy }, saved)
    await loraBackwardAsync({ dy }, lora)
    const dx = filled('float32', 3, tokens, dIn)
    const given = { dy, dx }
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => lilyBackward(given, saved, { retain: true }))
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => lilyBackwardAsync(given, saved))
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => loraBackward(given, lora))
    await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => loraBackwardAsync(given, lora))
    expect(new Set(dx.data)).toEqual(new Set([3]))
  })

  it('takes precision from forward', () => {
    const mixed = operands('bfloat16', 'float32', false)
    const { weight: of, bias: _, dy: gradient, ...adapter } = mixed
    const high = lilyForward({ ...adapter, weight: of }, { precision: 'high' }).saved
    const { dx } = linearBackward({ dy: gradient, weight: of }, { precision: 'high' })
    const { saved: alone } = lilyForward(adapter, { precision: 'high' })
    const { dx: expected } = lilyBackward({ dy: gradient, dx }, alone)
    expectSameBits('dx', lilyBackward({ dy: gradient }, high).dx.data, expected.data)
  })
})

describe('refusals', () => {
  const call = () => {
    const { dy, router, ...forward } = operands('float32', 'float32', false)
    return { dy, forward: { ...forward, router, y: filled('float32', 2, tokens, dOut) } }
  }

  it('backward: a weight that is gone or has changed since forward', async () => {
    const { dy, forward } = call()
    const refused = async (
      code: LilyErrorCode,
      text: string,
      weight: TensorLike | PackedLinear,
      remove: () => void,
    ) => {
      const { saved } = lilyForward({ ...forward, weight })
      const { router: _, ...ofLora } = { ...forward, b: operands('float32', 'float32', true).b }
      const { saved: lora } = loraForward({ ...ofLora, weight })
      remove()
      const dx = filled('float32', 3, tokens, dIn)
      for (const needs of [{ dx: true }, { dx: false }]) {
        const given = { dy, dx: needs.dx ? dx : undefined }
        await expectRefused(code, text, () => lilyBackward(given, saved, { needs }))
        await expectRefused(code, text, () => lilyBackwardAsync(given, saved, { needs }))
        await expectRefused(code, text, () => loraBackward(given, lora, { needs }))
      }
      expect(new Set(dx.data)).toEqual(new Set([3]))
    }
    const copy = () => new Float32Array(forward.weight.data as Float32Array)
    const own = tensor(copy(), [dOut, dIn])
    const text = 'weight: this tensor is disposed of'
    await refused('ERR_LILY_DISPOSED', text, own, () => {
      own.dispose()
    })
    const packed = packLinear(forward.weight)
    await refused('ERR_LILY_DISPOSED', 'weight: this packed weight is disposed of', packed, () => {
      packed.dispose()
    })
    const data = copy()
    await refused('ERR_LILY_ARGUMENT', 'weight: its ArrayBuffer is detached', { data, shape: [dOut, dIn] }, () => {
      structuredClone(data.buffer, { transfer: [data.buffer] })
    })
    const trained = tensor(copy(), [dOut, dIn])
    const grad = tensor(copy(), [dOut, dIn])
    await refused('ERR_LILY_ARGUMENT', 'weight: expected the values of forward', trained, () => {
      new AdamW(new Map([['weight', { value: trained, grad }]])).step()
    })
  })
})

describe('the reference in float64', () => {
  const numbersOf = ({ data }: { readonly data: ArrayBufferView }) => data as Float32Array
  it.each(['batch', 'token', 'lora'] as const)('%s: y = x W^T + bias + adapter, and dx includes dy W', (routing) => {
    const isLora = routing === 'lora'
    const { dy, router, ...call } = operands('float32', 'float32', isLora)
    const problem = { tokens, dIn, dOut, rank, experts: isLora ? 1 : experts, routing, activations: 'float32' } as const
    const numbers = Object.fromEntries(
      Object.entries({ ...call, router, dy }).map(([name, value]) => [name, numbersOf(value)]),
    ) as Record<keyof Operands, Float32Array>
    const adapter = { ...problem, ...numbers, scaling: 0.5 }
    const ofAdapter = reference.forward(adapter)
    const ofLayer = reference.linear({ ...problem, ...numbers })
    const expected = {
      y: ofLayer.y.plus(ofAdapter.y),
      ...reference.backward(adapter, ofAdapter, numbers.dy),
    }
    expected.dx = ofLayer.dx.plus(expected.dx)

    const results: Results = {}
    if (isLora) {
      const { y, saved } = loraForward(call, { scaling: 0.5 })
      Object.assign(results, { y, ...loraBackward({ dy }, saved) })
    } else {
      const { y, saved } = lilyForward({ ...call, router }, { scaling: 0.5, routing })
      Object.assign(results, { y, ...lilyBackward({ dy }, saved) })
    }
    for (const [name, value] of Object.entries(results)) {
      if (value !== undefined) expectClose(name, numbersOf(value), expected[name as keyof typeof expected])
    }
  })
})
