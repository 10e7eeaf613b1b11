/** The memory of adapters: what moves, what is copied, and how much is there at most. */
import * as tf from '@tensorflow/tfjs'
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { type AdapterLayer, LilyModel } from '../../lib/index.js'
import { adapt, adaptedLinear, frozenLinear, variableGrads } from '../../lib/tfjs/index.js'
import { expectRefused } from '../refusals/refused.js'
import { BACKENDS, gradsOf, normal } from '../support/tfjs.js'

const [TOKENS, D_IN, D_OUT, RANK, EXPERTS] = [64, 96, 80, 4, 3]
const FLOAT = Float32Array.BYTES_PER_ELEMENT
const [X_BYTES, Y_BYTES] = [TOKENS * D_IN * FLOAT, TOKENS * D_OUT * FLOAT]

function newModel() {
  const layers = [{ name: 'proj', inFeatures: D_IN, outFeatures: D_OUT }]
  return LilyModel.create({ layers, config: { r: RANK, numB: EXPERTS, initWeights: false }, seed: 1 })
}

/** The members of a backend that store numbers. */
interface Backend {
  readonly write: (this: Backend, values: ArrayLike<number> | null, shape: number[], dtype: string) => object
  readonly disposeData: (this: Backend, dataId: object, force?: boolean) => boolean
  readonly makeOutput: (this: Backend, shape: number[], dtype: string) => tf.TensorInfo
  readonly wasm: { readonly HEAPU8: Uint8Array; _malloc(bytes: number): number }
}
const backend = () => tf.backend() as unknown as Backend

/** The prototype of all typed arrays. */
interface TypedArray {
  readonly set: (this: Uint8Array, from: ArrayLike<number>, at?: number) => void
  readonly slice: (this: Uint8Array, from?: number, to?: number) => Uint8Array<ArrayBuffer>
}

let model: LilyModel
let layer: AdapterLayer
beforeEach(() => {
  model = newModel()
  layer = model.layer('proj')
})
afterEach(() => {
  vi.restoreAllMocks()
  tf.disposeVariables()
})

describe.each(BACKENDS)('on the %s backend', (name) => {
  beforeAll(async () => {
    await tf.setBackend(name)
  })

  /** Bytes that `run` copies between typed arrays, in pieces of at least a quarter of x. */
  function copiesOf(run: () => void): number[] {
    const copies: number[] = []
    const count = (bytes: number) => {
      if (bytes >= X_BYTES / 4) copies.push(bytes)
    }
    const typedArray = Object.getPrototypeOf(Uint8Array.prototype) as TypedArray
    const { set, slice } = typedArray
    vi.spyOn(typedArray, 'set').mockImplementation(function (this: Uint8Array, from: ArrayLike<number>, at?: number) {
      count(from.length * this.BYTES_PER_ELEMENT)
      set.call(this, from, at)
    })
    vi.spyOn(typedArray, 'slice').mockImplementation(function (this: Uint8Array, from?: number, to?: number) {
      const result = slice.call(this, from, to)
      count(result.byteLength)
      return result
    })
    run()
    vi.restoreAllMocks()
    return copies
  }

  /** The largest number of bytes in tensors and in saved calls at any time of `run`, above that before it. */
  function peakOf(run: () => void): number {
    const { write, disposeData } = backend()
    const alive = new Map<object, number>()
    let bytes = 0
    let peak = 0
    const add = (more: number) => {
      bytes += more
      peak = Math.max(peak, bytes)
    }
    vi.spyOn(backend(), 'write').mockImplementation(function (this: Backend, values, shape, dtype) {
      const dataId = write.call(this, values, shape, dtype)
      alive.set(dataId, tf.util.sizeFromShape(shape) * FLOAT)
      add(alive.get(dataId)!)
      return dataId
    })
    vi.spyOn(backend(), 'disposeData').mockImplementation(function (this: Backend, dataId, force) {
      const isGone = disposeData.call(this, dataId, force)
      if (isGone) add(-(alive.get(dataId) ?? 0))
      return isGone
    })
    const forward = layer.forward.bind(layer)
    vi.spyOn(layer, 'forward').mockImplementation((...args: Parameters<typeof forward>) => {
      const result = forward(...args)
      const { saved } = result as { saved?: ReturnType<typeof forward>['saved'] }
      if (saved === undefined) return result
      const kept = [saved.hidden, saved.probabilities, saved.weights].map((part) => part?.data.byteLength ?? 0)
      const sum = kept.reduce((total, one) => total + one, 0)
      add(sum)
      const dispose = saved.dispose.bind(saved)
      saved.dispose = () => {
        if (!saved.isDisposed) add(-sum)
        dispose()
      }
      return result
    })
    run()
    vi.restoreAllMocks()
    expect(bytes, 'bytes left over').toBe(0)
    return peak
  }

  /** A loss of the gradient `dy` whose own computation neither copies nor allocates more than scalars. */
  const lossOf = (y: tf.Tensor, dy: tf.Tensor) => {
    return tf.customGrad(() => ({ value: tf.scalar(1), gradFunc: () => tf.reshape(dy, dy.shape) }))(y)
  }

  it('forward copies base, and backward nothing', () => {
    const x = tf.variable(normal([TOKENS, D_IN], 1))
    const [base, factor] = [normal([TOKENS, D_OUT], 2), normal([TOKENS, D_OUT], 3)]
    expect(copiesOf(() => adapt(x, base, layer).dispose())).toEqual([Y_BYTES])
    const loss = () => lossOf(adapt(x, base, layer), factor)
    expect(copiesOf(() => variableGrads(loss, model, [x]))).toEqual([Y_BYTES])
  })

  it('a frozen layer copies a kernel once, if its memory can move, and no activations', () => {
    const x = tf.variable(normal([TOKENS, D_IN], 1))
    const [kernel, bias, factor] = [normal([D_IN, D_OUT], 2), normal([D_OUT], 3), normal([TOKENS, D_OUT], 4)]
    const loss = () => lossOf(frozenLinear(x, kernel, bias), factor)
    expect(copiesOf(() => tf.variableGrads(loss, [x]))).toEqual(name === 'wasm' ? [kernel.size * FLOAT] : [])
    expect(copiesOf(() => tf.variableGrads(loss, [x]))).toEqual([])
  })

  it('an adapted layer copies the same, and allocates y, or dx, alone', () => {
    const x = tf.variable(normal([TOKENS, D_IN], 1))
    const [kernel, bias, factor] = [normal([D_IN, D_OUT], 2), normal([D_OUT], 3), normal([TOKENS, D_OUT], 4)]
    const run = () => {
      const loss = () => lossOf(adaptedLinear(x, kernel, layer, { bias }), factor)
      const { value, grads } = variableGrads(loss, model, [x])
      tf.dispose([value, grads])
    }
    expect(copiesOf(run)).toEqual(name === 'wasm' ? [kernel.size * FLOAT] : [])
    expect(copiesOf(run)).toEqual([])
    const savedBytes = FLOAT * (TOKENS * RANK + TOKENS * EXPERTS + EXPERTS) // hidden, probabilities, weights
    const extra = peakOf(run) - X_BYTES - savedBytes
    expect(extra).toBeGreaterThanOrEqual(0)
    expect(extra).toBeLessThanOrEqual(16 * FLOAT)
  })

  it('at most y, or dx, is allocated besides what forward keeps', () => {
    const x = tf.variable(normal([TOKENS, D_IN], 1))
    const [base, dy] = [normal([TOKENS, D_OUT], 2), normal([TOKENS, D_OUT], 3)]
    const savedBytes = FLOAT * (TOKENS * RANK + TOKENS * EXPERTS + EXPERTS) // hidden, probabilities, weights
    const scalars = 16 * FLOAT
    expect(peakOf(() => adapt(x, base, layer).dispose())).toBe(Y_BYTES)

    const peak = (variables: tf.Variable[]) =>
      peakOf(() => {
        const { value, grads } = variableGrads(() => lossOf(adapt(x, base, layer), dy), model, variables)
        tf.dispose([value, grads])
      })
    // y is gone before backward allocates dx, which is larger.
    for (const [variables, bytes] of [
      [[x], X_BYTES],
      [[], Y_BYTES],
    ] as const) {
      const extra = peak([...variables]) - bytes - savedBytes
      expect(extra).toBeGreaterThanOrEqual(0)
      expect(extra).toBeLessThanOrEqual(scalars)
    }
  })

  it('a chain keeps its activations once', () => {
    const depth = 5
    const names = Array.from({ length: depth }, (_, l) => `layers.${l}.square`)
    const layers = names.map((name) => ({ name, inFeatures: D_IN, outFeatures: D_IN }))
    const square = LilyModel.create({ layers, config: { r: RANK, numB: EXPERTS, initWeights: false }, seed: 2 })
    const x = tf.variable(normal([TOKENS, D_IN], 1))
    const dy = normal([TOKENS, D_IN], 3)
    const run = () => {
      const chain = () => names.reduce((hidden: tf.Tensor, name) => adapt(hidden, hidden, square.layer(name)), x)
      const { value, grads } = variableGrads(() => lossOf(chain(), dy), square, [x])
      tf.dispose([value, grads])
    }
    // All outputs of forward; or x of all layers but the first, whose memory is the variable's, and in backward the
    // gradients by x and by base of one layer and their sum.
    const outputs = peakOf(run) / X_BYTES
    expect(outputs).toBeGreaterThanOrEqual(depth)
    expect(outputs).toBeLessThan(depth + 2.1)
  })
})

describe('the heap of the wasm backend', () => {
  beforeAll(async () => {
    await tf.setBackend('wasm')
  })

  /** Lets the heap grow, which detaches all views of it. */
  function grow(): void {
    const { wasm } = backend()
    const { buffer } = wasm.HEAPU8
    tf.tidy(() => {
      while (wasm.HEAPU8.buffer === buffer) tf.fill([2 ** 22], 1)
    })
    expect(buffer.byteLength, 'the old memory is detached').toBe(0)
  }

  const run = (inF: () => void = () => undefined) => {
    const x = tf.variable(normal([TOKENS, D_IN], 1))
    const kernel = normal([D_IN, D_OUT], 2)
    const factor = normal([TOKENS, D_OUT], 3)
    model.zeroGrad()
    const loss = () => {
      const y = adapt(x, frozenLinear(x, kernel), layer)
      inF()
      return tf.sum<tf.Scalar>(tf.mul(y, factor))
    }
    const { value, grads } = variableGrads(loss, model, [x])
    return [[...value.dataSync()], [...grads[x.name].dataSync()], ...gradsOf(model)]
  }

  it('may grow between forward and backward', () => {
    const expected = run()
    expect(run(grow)).toEqual(expected)
  })

  it('may grow in every call, when it allocates the result', () => {
    const expected = run()
    const { makeOutput } = backend()
    let calls = 0
    vi.spyOn(backend(), 'makeOutput').mockImplementation(function (this: Backend, shape, dtype) {
      if (shape.length === 2 && shape[0] === TOKENS && calls++ < 4) grow()
      return makeOutput.call(this, shape, dtype)
    })
    expect(run()).toEqual(expected)
    expect(calls).toBeGreaterThanOrEqual(4)
  })

  it('tensors of another backend are moved to it', async () => {
    await tf.setBackend('cpu')
    const x = normal([TOKENS, D_IN], 1)
    const base = normal([TOKENS, D_OUT], 2)
    const expected = adapt(x, base, layer).dataSync()
    await tf.setBackend('wasm')
    expect(adapt(x, base, layer).dataSync()).toEqual(expected)
  })

  it('a heap that cannot grow is an error', async () => {
    const [x, base] = [normal([TOKENS, D_IN], 1), normal([TOKENS, D_OUT], 2)]
    const before = tf.memory().numTensors
    vi.spyOn(backend().wasm, '_malloc').mockReturnValue(0)
    await expectRefused('ERR_LILY_OUT_OF_MEMORY', 'the heap of the wasm backend', () => adapt(x, base, layer))
    vi.restoreAllMocks()
    expect(tf.memory().numTensors).toBe(before)
  })
})
