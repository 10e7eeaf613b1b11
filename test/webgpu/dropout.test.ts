/** Dropout on WebGPU: the bits of the mask, and those of what it drops. */
import { expect, test } from 'vitest'
import { dropoutState } from '../../lib/webgpu/index.js'
import { GpuKernels } from '../../lib/webgpu/kernels.js'
import { type Case, makeCase, type Spec } from '../support/cases.js'
import { testGpu } from '../support/gpu-device.js'
import { maskOf } from '../support/philox.js'
import { type How, runOnGpu } from './run.js'

const { device, lily } = testGpu()
const kernels = new GpuKernels(device)

/** An x of ones, a that is the identity, and a b of ones: h and dx have an element for each of the mask. */
function ofMask(spec: Partial<Spec>): { c: Case; mask: Uint8Array } {
  const { dIn = 37 } = spec
  const sizes = { tokens: 70, dIn, rank: dIn, dOut: 1, experts: 1, seed: 21, dropout: 0.5 }
  const c = makeCase({ routing: 'lora', ...sizes, ...spec })
  c.a.fill(0)
  for (let j = 0; j < dIn; j++) c.a[j * dIn + j] = 1
  for (const numbers of [c.x, c.b, c.dy]) numbers.fill(1)
  return { c, mask: maskOf(c.tokens, dIn, c.dropout!) }
}

async function run(c: Case, how: How = {}) {
  const { values, damaged } = await runOnGpu(kernels, device, c, how)
  expect(damaged).toEqual([])
  return values as Required<typeof values>
}

const isKept = (numbers: Float32Array) => Uint8Array.from(numbers, (number) => (number === 0 ? 0 : 1))

test.each<[string, Partial<Spec>]>([
  ['float32', {}],
  ['float16, rows of whole words', { activations: 'float16', dIn: 38 }],
  ['bfloat16, rows that begin within words', { activations: 'bfloat16', dIn: 33 }],
  ['the least rate', { dropout: 1 / 65536, tokens: 1000, dIn: 130 }],
  ['the largest rate', { dropout: 65535 / 65536, tokens: 1000, dIn: 130 }],
  ['a shrink by rows', { routing: 'sequence', experts: 2, lengths: [30, 40] }],
])('the mask: %s', async (_, spec) => {
  const { c, mask } = ofMask(spec)
  const { hidden, dx } = await run(c)
  expect(isKept(hidden)).toEqual(mask)
  expect(isKept(dx)).toEqual(mask)
})

test.each(['float32', 'bfloat16', 'float16'] as const)(
  'what is dropped, in %s: NaNs and infinities count as zero, and old numbers of dx keep their bits',
  async (activations) => {
    for (const dIn of [36, 37]) {
      const { c, mask } = ofMask({ activations, dIn })
      const finite = await run(c)
      for (const [i, keeps] of mask.entries()) if (keeps === 0) c.x[i] = [NaN, Infinity, -Infinity][i % 3]
      // Their sum with zero would be a zero of the other sign.
      const { hidden, da, dx } = await run(c, { outputs: 'add', oldDx: new Float32Array(mask.length).fill(-0) })
      expect(hidden).toEqual(finite.hidden)
      expect(da.every(Number.isFinite)).toBe(true)
      expect(dx).toEqual(finite.dx.map((value, i) => (mask[i] === 0 ? -0 : value)))
    }
  },
)

test('calls draw from their state one after the other, also into an encoder, and backward has the draw of its forward', async () => {
  const { c } = ofMask({ dIn: 19 })
  const { tokens, dIn } = c
  const tensors = {
    x: lily.tensor(c.x, [tokens, dIn]),
    a: lily.tensor(c.a, [dIn, dIn]),
    b: lily.tensor(c.b, [1, dIn]),
  }
  const dy = lily.tensor(c.dy, [tokens, 1])
  // The next position has another high word.
  const state = dropoutState(2 ** 33 + 5, 2 ** 32 - 1)
  const dropout = { rate: 0.5, state }
  const encoder = device.createCommandEncoder()
  const calls = [
    lily.loraForward(tensors, { dropout }),
    lily.loraForward(tensors, { dropout, encoder }),
    await lily.loraForwardAsync(tensors, { dropout }),
  ]
  device.queue.submit([encoder.finish()])
  lily.submitted(encoder)
  expect(state).toEqual(dropoutState(2 ** 33 + 5, 2 ** 32 + 2))
  for (const [i, { saved }] of calls.entries()) {
    const mask = maskOf(tokens, dIn, { rate: 0.5, draw: dropoutState(2 ** 33 + 5, 2 ** 32 - 1 + i) })
    const { dx } = lily.loraBackward({ dy }, saved)
    const [hidden, gradient] = await Promise.all([saved.hidden.toHost(), dx.toHost()])
    expect(isKept(hidden.data as Float32Array)).toEqual(mask)
    expect(isKept(gradient.data as Float32Array)).toEqual(mask)
  }
})

test('a call beyond the limits of the device leaves the state', async () => {
  const operands = {
    x: lily.tensor(new Float32Array(4096), [64, 64]),
    a: lily.tensor(new Float32Array(64), [1, 64]),
    b: lily.tensor(new Float32Array(1), [1, 1]),
  }
  const state = dropoutState(5)
  const dropout = { rate: 0.5, state }
  const get = (of: GPUSupportedLimits, key: string): unknown =>
    key === 'maxStorageBufferBindingSize' ? 8192 : Reflect.get(of, key)
  const { limits } = device
  const setLimits = (value: GPUSupportedLimits) =>
    Object.defineProperty(device, 'limits', { value, configurable: true })
  setLimits(new Proxy(limits, { get }))
  try {
    expect(() => lily.loraForward(operands, { dropout })).toThrow('x: one pass binds')
    expect(() => lily.loraForward(operands, { dropout, encoder: device.createCommandEncoder() })).toThrow('x: one pass')
    await expect(lily.loraForwardAsync(operands, { dropout })).rejects.toThrow('x: one pass binds')
  } finally {
    setLimits(limits)
  }
  expect(state).toEqual(dropoutState(5))
  const pending = lily.loraForwardAsync(operands, { dropout })
  expect(state).toEqual(dropoutState(5, 1))
  await pending
})
