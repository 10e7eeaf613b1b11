/** Backward with an x whose memory has moved since forward: views of a WebAssembly.Memory are detached when it grows. */
import { describe, expect, it } from 'vitest'
import {
  foldB,
  LilyAdapters,
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  LilyModel,
  LoraModel,
  loraBackward,
  loraBackwardAsync,
  loraForward,
  type Tensor,
} from '../../lib/index.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'
import { sizes, smallLoraB, smallOperands } from '../support/small.js'

const { tokens, dIn, dOut } = sizes
const { x, a, router, b, dy } = smallOperands()
const lora = { a, b: smallLoraB() }
const AT = 64

/** The part of the WebAssembly interface that the test needs; the types of Node.js 20 lack it. */
interface WasmMemory {
  readonly buffer: ArrayBuffer
  grow(pages: number): number
}
type NewMemory = new (sizes: { initial: number; maximum: number }) => WasmMemory
const { WebAssembly } = globalThis as unknown as { WebAssembly: { Memory: NewMemory } }

/** x in the heap of a WebAssembly module. */
function heap() {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 4 })
  const view = () => ({ data: new Float32Array(memory.buffer, AT, x.data.length), shape: x.shape })
  view().data.set(x.data)
  return { view, grow: () => memory.grow(1) }
}

/** Runs forward, lets the memory grow, and runs backward with x from its new place. */
function moved<Saved, Result>(forward: (x: object) => Saved, backward: (saved: Saved, x: object) => Result): Result {
  const { view, grow } = heap()
  const before = view()
  const saved = forward(before)
  grow()
  expect(before.data.length, 'the first view is detached').toBe(0)
  return backward(saved, view())
}

const forwardLily = (x: object) => lilyForward({ x: x as never, a, router, b }).saved
const forwardLora = (x: object) => loraForward({ x: x as never, ...lora }).saved
const numbers = (gradients: object) =>
  Object.entries(gradients).map(([name, gradient]) => [name, (gradient as Tensor).data] as const)
const again = (x: object) => ({ dy, x: x as never })

describe('x is accepted again', () => {
  const lily = lilyBackward({ dy }, forwardLily(x))
  const expected = numbers(lily)
  it('by lilyBackward', () => {
    expect(numbers(moved(forwardLily, (saved, x) => lilyBackward(again(x), saved)))).toEqual(expected)
  })
  it('by lilyBackwardAsync', async () => {
    expect(numbers(await moved(forwardLily, (saved, x) => lilyBackwardAsync(again(x), saved)))).toEqual(expected)
  })
  it('by lilyBackward with deferB, and foldB needs no x', () => {
    const saved = moved(forwardLily, (saved, x) => (lilyBackward(again(x), saved, { deferB: true }), saved))
    expect(foldB(saved).data).toEqual(lily.db.data)
  })
  it('by loraBackward and loraBackwardAsync', async () => {
    const expected = numbers(loraBackward({ dy }, forwardLora(x)))
    expect(numbers(moved(forwardLora, (saved, x) => loraBackward(again(x), saved)))).toEqual(expected)
    expect(numbers(await moved(forwardLora, (saved, x) => loraBackwardAsync(again(x), saved)))).toEqual(expected)
  })
  it('by a layer of a model, and of several adapters', () => {
    const layers = [{ name: 'layers.0.q', inFeatures: dIn, outFeatures: dOut }]
    const create = () => LilyModel.create({ layers, config: { r: 2, initWeights: false }, seed: 1 })
    const layer = create().layer('layers.0.q')
    const expected = layer.backward({ dy, saved: layer.forward({ x }).saved })
    const forward = (x: object) => layer.forward({ x: x as never }).saved
    expect(moved(forward, (saved, x) => layer.backward({ dy, saved, x: x as never })).data).toEqual(expected.data)

    const config = { r: 2, initLoraWeights: false }
    const ofLora = LoraModel.create({ layers, config, seed: 1 }).layer('layers.0.q')
    const { data } = ofLora.backward({ dy, saved: ofLora.forward({ x }).saved })
    const forwardLora = (x: object) => ofLora.forward({ x: x as never }).saved
    expect(moved(forwardLora, (saved, x) => ofLora.backward({ dy, saved, x: x as never })).data).toEqual(data)

    const adapters = new LilyAdapters().addAdapter('one', create()).layer('layers.0.q')
    const [y, dx] = [
      { data: new Float32Array(tokens * dOut), shape: [tokens, dOut] },
      { data: new Float32Array(tokens * dIn), shape: [tokens, dIn] },
    ]
    const forwardAll = (x: object) => adapters.forward({ x: x as never, y }).saved
    moved(forwardAll, (saved, x) => adapters.backward({ dy, saved, dx, x: x as never }))
    expect(dx.data).toEqual(expected.data)
  })
  it('where it has not moved, with rows of another pitch', () => {
    const pitched = {
      data: new Float32Array(tokens * (dIn + 2)).fill(NaN),
      shape: [tokens, dIn],
      strides: [dIn + 2, 1],
    }
    for (let t = 0; t < tokens; t++) pitched.data.set(x.data.subarray(t * dIn, (t + 1) * dIn), t * (dIn + 2))
    expect(numbers(lilyBackward({ dy, x: pitched }, forwardLily(x)))).toEqual(expected)
  })
})

describe('the Async forms read the x that is given again', () => {
  /** Runs both operations with x in memory that is overwritten or gone once x is elsewhere. */
  const stale = async (rows: number, spoil: (old: Float32Array) => void) => {
    const many = { data: gaussian(randomFrom(3), rows * dIn), shape: [rows, dIn] }
    const dy = { data: gaussian(randomFrom(4), rows * dOut), shape: [rows, dOut] }
    const [ofLily, ofLora] = [
      numbers(lilyBackward({ dy }, forwardLily(many))),
      numbers(loraBackward({ dy }, forwardLora(many))),
    ]
    const old = { data: many.data.slice(), shape: many.shape }
    const [savedLily, savedLora] = [forwardLily(old), forwardLora(old)]
    spoil(old.data)
    expect(numbers(await lilyBackwardAsync({ dy, x: many }, savedLily))).toEqual(ofLily)
    expect(numbers(await loraBackwardAsync({ dy, x: many }, savedLora))).toEqual(ofLora)
  }
  it('and not the old memory, which still exists', () => stale(tokens, (old) => old.fill(7)))
  it('and not the old memory, which is gone, where x is used in place', async () => {
    const rows = 4000
    expect(rows * dIn * Float32Array.BYTES_PER_ELEMENT).toBeGreaterThan(64 * 1024)
    await stale(rows, (old) => structuredClone(old.buffer, { transfer: [old.buffer as ArrayBuffer] }))
  })
  it('and refuse it where it can shrink', async () => {
    const bytes = x.data.byteLength
    const Resizable = ArrayBuffer as unknown as new (bytes: number, options: object) => ArrayBuffer
    const data = new Float32Array(new Resizable(bytes, { maxByteLength: 2 * bytes }))
    data.set(x.data)
    const given = { dy, x: { data, shape: x.shape } }
    const refused = 'x: expected memory that cannot shrink'
    await expectRefused('ERR_LILY_ARGUMENT', refused, () => lilyBackwardAsync(given, forwardLily(x)))
    await expectRefused('ERR_LILY_ARGUMENT', refused, () => loraBackwardAsync(given, forwardLora(x)))
  })
})

it('without x again, backward is refused', async () => {
  await expectRefused('ERR_LILY_ARGUMENT', 'x', () => moved(forwardLily, (saved) => lilyBackward({ dy }, saved)))
})
