/**
 * The published file: its shaders are shortened, and the files `x.webgpu.ts` take the place of others. It gives the same bits
 * as lib/, and the same errors.
 */
import { readFileSync } from 'node:fs'
import { afterAll, describe, expect, it } from 'vitest'
import type { LilyForwardOptions, Tensor } from '../../lib/index.js'
import * as lib from '../../lib/webgpu/index.js'
import { expectSameBits } from '../support/compare.js'
import { testGpu } from '../support/gpu-device.js'
import { expectRefused } from '../support/refused.js'
import { type HostTensor, smallLoraB, smallOperands } from '../support/small.js'

const url = new URL('../../dist/webgpu.js', import.meta.url)
const { createLily } = (await import(url.href)) as typeof lib

const { gpu, device, lily } = testGpu()
// A device of its own: the binding of a device is that of the copy of the package that met it first.
const other = await (await gpu.requestAdapter())!.requestDevice()
const published = createLily(other)
afterAll(() => {
  other.destroy()
})

const ARGUMENT = 'ERR_LILY_ARGUMENT'

function operandsOn(of: lib.Lily) {
  const { x, a, router, b, dy } = smallOperands()
  const move = ({ data, shape }: HostTensor) => of.tensor(data, shape)
  return { x: move(x), a: move(a), router: move(router), b: move(b), dy: move(dy), loraB: move(smallLoraB()) }
}

type Results = Record<string, Tensor | undefined>

/** Every tensor that the calls give, on either copy. */
async function expectSame(run: (of: lib.Lily, operands: ReturnType<typeof operandsOn>) => Results | Promise<Results>) {
  const [expected, found] = [await run(lily, operandsOn(lily)), await run(published, operandsOn(published))]
  expect(Object.keys(found)).toEqual(Object.keys(expected))
  for (const [name, tensor] of Object.entries(expected)) {
    if (tensor === undefined) expect(found[name]).toBeUndefined()
    else expectSameBits(name, (await found[name]!.toHost()).data, (await tensor.toHost()).data)
  }
}

describe('the same bits', () => {
  const settings: [string, LilyForwardOptions][] = [
    ['batch', { mask: [1, 0, 1, 1, 0, 1], activation: 'relu' }],
    ['sequence', { routing: 'sequence', sequenceOffsets: [0, 2, 6], pool: 'logits' }],
    ['token', { routing: 'token', scaling: 2 }],
    ['fixed', { routing: 'fixed', weights: [0.25, 0.75] }],
  ]
  it.each(settings)('%s', async (_, options) => {
    await expectSame((of, { x, a, router, b, dy }) => {
      const routed = options.routing === 'fixed' ? {} : { router }
      const { y, saved } = of.lilyForward({ x, a, b, ...routed }, { ...options, save: true })
      return { y, hidden: saved.hidden, ...of.lilyBackward({ dy }, saved) }
    })
  })

  it('a fold, and LoRA', async () => {
    await expectSame((of, { x, a, router, b, dy, loraB }) => {
      const { saved } = of.lilyForward({ x, a, router, b })
      const { dRouter } = of.lilyBackward({ dy }, saved, { deferB: true })
      const lora = of.loraForward({ x, a, b: loraB })
      return { dRouter, folded: of.foldB(saved), y: lora.y, ...of.loraBackward({ dy }, lora.saved) }
    })
  })

  it('off the main thread, and in an encoder', async () => {
    await expectSame(async (of, { x, a, router, b, dy }) => {
      const { y, saved } = await of.lilyForwardAsync({ x, a, router, b })
      const { da } = await of.lilyBackwardAsync({ dy }, saved)
      const { queue } = of === lily ? device : other
      const encoder = (of === lily ? device : other).createCommandEncoder()
      const encoded = of.tensor(new Float32Array(24).fill(3), [6, 4])
      of.lilyForward({ x, a, router, b, y: encoded }, { encoder, save: false })
      const before = await encoded.toHost()
      expect([...before.data]).toEqual(new Array(24).fill(3))
      queue.submit([encoder.finish()])
      of.submitted(encoder)
      return { y, da, encoded }
    })
  })
})

describe('the same errors', () => {
  const host = smallOperands().x
  const cuda = { ptr: 4096n, shape: [6, 5], dtype: 'float32', device: { type: 'cuda', id: 0 } }
  it.each<[string, string, string, object, object?]>([
    ['an operand on the host', 'ERR_LILY_DEVICE', 'x: expected webgpu:', { x: host }],
    [
      'a tensor of TensorFlow.js',
      ARGUMENT,
      'x: expected',
      { x: { dataSync: () => host.data, dataId: {}, shape: [6, 5] } },
    ],
    [
      'a GPU tensor of ONNX Runtime',
      ARGUMENT,
      'gpuBuffer',
      { x: { location: 'gpu-buffer', dims: [6, 5], gpuBuffer: {} } },
    ],
    ['memory of CUDA', 'ERR_LILY_DEVICE', 'x', { x: cuda }],
    ['a promise', ARGUMENT, '; await it', { x: Promise.resolve() }],
    ['a shape', 'ERR_LILY_SHAPE', 'a: expected [r, 5] (x has d_in 5)', { a: 'x4' }],
    ['a stream', ARGUMENT, 'stream: expected none, since', {}, { stream: 1 }],
    ['an encoder that is none', ARGUMENT, 'encoder: expected a GPUCommandEncoder', {}, { encoder: {} }],
    ['y that is x', ARGUMENT, 'y: its memory overlaps that of x', { y: 'x4' }],
  ])('%s', async (_, code, message, change, options) => {
    for (const of of [lily, published]) {
      const { x, a, router, b } = operandsOn(of)
      const x4 = { buffer: x.buffer, shape: [6, 4], dtype: 'float32' }
      const changed = Object.entries(change).map(([name, value]: [string, unknown]) => [
        name,
        value === 'x4' ? x4 : value,
      ])
      const operands = { x, a, router, b, ...Object.fromEntries(changed) } as lib.LilyForwardOperands
      await expectRefused(code, message, () => of.lilyForward(operands, options))
    }
  })

  it('a device without native code', async () => {
    await expectRefused(
      'ERR_LILY_BACKEND_UNAVAILABLE',
      'cuda:0 is not available: lily-kernels/webgpu has no native code',
      () => published.tensor([1], [1]).to({ type: 'cuda', id: 0 }),
    )
  })
})

it('shaders have neither comments nor indentation', () => {
  const text = readFileSync(url, 'utf8')
  expect(text.includes('@compute')).toBe(true)
  expect(/\n +|\n\/\//.exec(text)).toBeNull()
})
