/**
 * Matrix products of TensorFlow.js with the kernels of this package, compared with its own.
 *
 * @project cpu wasm
 */
import * as tf from '@tensorflow/tfjs'
import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import * as products from '../../lib/operations/matmul.js'
import { accelerate } from '../../lib/tfjs/index.js'
import { expectSameBits } from '../support/compare.js'
import { BACKENDS, expectEqual, normal } from '../support/tfjs.js'

type Activation = 'linear' | 'relu' | 'relu6' | 'sigmoid' | 'elu' | 'leakyrelu' | 'prelu'

/** Functions of elements, and gradients, stay with TensorFlow.js there. */
const isWebAssembly = process.env.LILY_CPU_ISA === 'wasm'
const KERNELS = ['BatchMatMul', '_FusedMatMul', ...(isWebAssembly ? [] : ['Multiply', 'Sum', 'GatherV2'])]
const registered = (backend: string) => KERNELS.map((name) => tf.getKernel(name, backend))
const gradients = () => ['Sum', 'Mean'].map((name) => tf.getGradient(name))
const TRANSPOSES = [
  [false, false],
  [true, false],
  [false, true],
  [true, true],
] as const

interface Fused {
  activation: Activation
  preluActivationWeights?: tf.Tensor | undefined
  leakyreluAlpha?: number | undefined
}
function activated(x: tf.Tensor, { activation, preluActivationWeights, leakyreluAlpha }: Fused): tf.Tensor {
  if (activation === 'linear') return x
  if (activation === 'prelu') return tf.prelu(x, preluActivationWeights as tf.Tensor)
  return activation === 'leakyrelu' ? tf.leakyRelu(x, leakyreluAlpha) : tf[activation](x)
}

let restore: (() => void) | undefined
afterEach(() => {
  restore?.()
  restore = undefined
  vi.restoreAllMocks()
})

/** What `run` computes with the kernels of TensorFlow.js, and with ours, which multiply `count` times. */
function both<T extends tf.TensorContainer>(run: () => T, count: number): [old: T, ours: T] {
  const counted = () => {
    const { numTensors, numDataBuffers } = tf.memory()
    const result = tf.tidy(run)
    const after = tf.memory()
    return { result, made: [after.numTensors - numTensors, after.numDataBuffers - numDataBuffers] }
  }
  const old = counted()
  restore = accelerate()
  const spy = vi.spyOn(products, 'matMul').mockClear()
  const ours = counted()
  expect(ours.made, 'tensors and buffers').toEqual(old.made)
  if (!isWebAssembly) expect(spy).toHaveBeenCalledTimes(count)
  return [old.result, ours.result]
}

describe.each(BACKENDS)('on the %s backend', (name) => {
  beforeAll(async () => {
    await tf.setBackend(name)
  })

  const shapesOf = (m: number, k: number, n: number, [transposeA, transposeB]: readonly [boolean, boolean]) =>
    [transposeA ? [k, m] : [m, k], transposeB ? [n, k] : [k, n]] as const

  test.each(TRANSPOSES)('tf.matMul and its gradients, transposed: %o %o', (...transposes) => {
    for (const [batch, m, k, n] of [
      [[], 17, 33, 9],
      [[3], 5, 8, 7],
      [[2, 3], 16, 4, 16],
      [[1], 1, 6, 2],
    ] as const) {
      const [a, b] = shapesOf(m, k, n, transposes).map((shape, i) => normal([...batch, ...shape], i))
      const dy = normal([...batch, m, n], 2)
      const run = () => {
        const { grads, value } = tf.valueAndGrads((a: tf.Tensor, b: tf.Tensor) => tf.matMul(a, b, ...transposes))(
          [a, b],
          dy,
        )
        return [value, ...grads]
      }
      const [old, ours] = both(run, 3)
      old.forEach((tensor, i) => {
        expectEqual(`result ${i}`, ours[i], tensor)
      })
      restore?.()
    }
  })

  test('batches that broadcast', () => {
    for (const [ofA, ofB] of [
      [[2, 3], [3]],
      [[4], [1]],
      [[1], [4]],
      [[2, 3], []],
      [
        [2, 1],
        [1, 3],
      ], // TensorFlow.js misplaces these two
      [
        [2, 3],
        [2, 1],
      ],
    ]) {
      const [a, b] = [normal([...ofA, 4, 5], 1), normal([...ofB, 5, 6], 2)]
      const exact = tf.tidy(() => tf.sum(tf.mul(tf.expandDims(a, -1), tf.expandDims(b, -3)), -2))
      restore = accelerate()
      expectEqual(`${ofA.join()} x ${ofB.join()}`, tf.matMul(a, b), exact)
      restore()
    }
  })

  test.each<Activation>(['linear', 'relu', 'relu6', 'sigmoid', 'elu', 'leakyrelu', 'prelu'])(
    'tf.fused.matMul with %s, and its gradients',
    (activation) => {
      for (const [i, [transposeA, transposeB]] of TRANSPOSES.entries()) {
        const [a, b] = shapesOf(11, 6, 10, [transposeA, transposeB]).map((shape, j) => normal(shape, j))
        const bias = i % 2 === 0 ? normal([10], 3) : undefined
        const preluActivationWeights = activation === 'prelu' ? normal([1, 10], 4) : undefined
        const leakyreluAlpha = activation === 'leakyrelu' ? 0.3 : undefined
        const rest = { transposeA, transposeB, activation, preluActivationWeights, leakyreluAlpha }
        const compose = (a: tf.Tensor, b: tf.Tensor) => {
          const product = tf.matMul(a, b, transposeA, transposeB)
          return activated(bias === undefined ? product : tf.add(product, bias), rest)
        }
        const fuse = (a: tf.Tensor, b: tf.Tensor) => tf.fused.matMul({ a, b, bias, ...rest })
        const composed = compose(a, b)
        const gradsOf = (f: typeof fuse) => tf.grads((a, b) => tf.sum(tf.square(f(a, b))))([a, b])
        const composedGrads = gradsOf(compose)
        const [old, ours] = both(() => fuse(a, b), 1)
        expectEqual('y', ours, composed)
        // The wasm backend of TensorFlow.js adds the bias to some rows only if a matrix is transposed.
        if (name === 'cpu' || bias === undefined || i === 0) expectEqual('y', ours, old)
        restore?.()
        if (activation !== 'relu' && activation !== 'linear') continue
        both(() => gradsOf(fuse), 3)[1].forEach((grad, j) => {
          expectEqual(`gradient ${j}`, grad, composedGrads[j])
        })
        restore?.()
      }
    },
  )

  test('layers, models and their training', () => {
    const run = () => {
      const model = tf.sequential({
        layers: [
          tf.layers.dense({ units: 6, activation: 'relu', inputShape: [5], kernelInitializer: tf.initializers.ones() }),
          tf.layers.dense({
            units: 2,
            activation: 'softmax',
            kernelInitializer: tf.initializers.glorotNormal({ seed: 1 }),
          }),
        ],
      })
      const y = model.predict(normal([9, 5], 5)) as tf.Tensor
      return [y, ...tf.grads((x) => tf.sum(tf.square(model.apply(x) as tf.Tensor)))([normal([9, 5], 5)])]
    }
    const old = run()
    restore = accelerate()
    run().forEach((tensor, i) => {
      expectEqual(`result ${i}`, tensor, old[i])
    })
  })

  test('clones and casts to the same type share numbers, which live as long as one of them does', () => {
    restore = accelerate()
    const { numTensors, numDataBuffers } = tf.memory()
    const x = normal([4, 5], 1)
    const expected = x.arraySync()
    const shared = [tf.clone(x), tf.cast(x, 'float32')]
    expect(tf.memory().numDataBuffers).toBe(numDataBuffers + 1)
    x.dispose()
    for (const tensor of shared) expect(tensor.arraySync()).toEqual(expected)
    const ints = tf.cast(shared[0], 'int32')
    expect([ints.dtype, ...ints.dataSync()]).toEqual(['int32', ...Int32Array.from(shared[1].dataSync())])
    const texts = tf.tensor1d(['a', 'b'])
    const clone = tf.clone(texts)
    expect(clone.arraySync()).toEqual(['a', 'b'])
    tf.dispose([...shared, ints, texts, clone])
    expect(tf.memory()).toMatchObject({ numTensors, numDataBuffers })
  })

  test('a clone of a reshaped vector is a bias of fused convolutions', () => {
    const x = normal([1, 4, 4, 2], 1) as tf.Tensor4D
    const given = (size: number, channels: number) => ({
      x,
      filter: normal([1, 1, 2, size], 2) as tf.Tensor4D,
      strides: 1,
      pad: 'same' as const,
      bias: tf.clone(tf.reshape(normal([1, channels], 3), [channels])),
    })
    const [old, ours] = both(() => [tf.fused.conv2d(given(3, 3)), tf.fused.depthwiseConv2d(given(1, 2))], 0)
    old.forEach((tensor, i) => {
      expectEqual(`result ${i}`, ours[i], tensor)
    })
  })

  test('other types, empty products, and errors are those of the kernels before', () => {
    restore = accelerate()
    const spy = vi.spyOn(products, 'matMul')
    if (name === 'cpu') {
      const ints = tf.matMul(tf.tensor2d([[1, 2]], [1, 2], 'int32'), tf.tensor2d([[3], [4]], [2, 1], 'int32'))
      expect([ints.dtype, ...ints.dataSync()]).toEqual(['int32', 11])
    }
    expect(tf.matMul(tf.zeros([0, 3]), tf.zeros([3, 2])).shape).toEqual([0, 2])
    expect(() => tf.matMul(tf.zeros([2, 3]), tf.zeros([2, 3]))).toThrow('inner shapes')
    expect(() => tf.matMul(tf.zeros([2, 2, 3]), tf.zeros([3, 3, 3]))).toThrow()
    expect(spy).not.toHaveBeenCalled()
  })

  test('functions of elements, with every way of repeating an operand', () => {
    const shapes = [
      [
        [64, 257],
        [64, 257],
      ],
      [[64, 257], []],
      [[], [64, 257]],
      [
        [1, 1, 1],
        [3, 64, 90],
      ],
      [[3, 64, 90], [90]],
      [
        [3, 64, 90],
        [1, 64, 90],
      ],
      [
        [3, 64, 1],
        [3, 64, 90],
      ],
      [
        [3, 1, 1],
        [3, 64, 90],
      ],
      [
        [64, 1],
        [1, 300],
      ],
      // Of the kernel before: operands that repeat in other ways, and few numbers.
      [
        [3, 1, 90],
        [3, 64, 90],
      ],
      [
        [3, 64, 1],
        [1, 64, 90],
      ],
      [
        [1, 64, 1],
        [3, 64, 90],
      ],
      [[5], [5]],
    ]
    for (const [ofA, ofB] of shapes) {
      const [a, b] = [normal(ofA, 1), normal(ofB, 2)]
      const [old, ours] = both(() => [tf.add(a, b), tf.sub(a, b), tf.mul(a, b), tf.div(a, b)], 0)
      old.forEach((tensor, i) => {
        expect(ours[i].shape).toEqual(tensor.shape)
        const [values, expected] = [ours[i].dataSync<'float32'>(), tensor.dataSync<'float32'>()]
        expectSameBits(`${String(ofA)} with ${String(ofB)}`, values, expected)
      })
      restore?.()
    }
    expect(() => tf.add(normal([64, 257], 1), normal([64, 256], 2))).toThrow()
    const ints = () => tf.mul(tf.fill([64, 257], 3, 'int32'), tf.scalar(2, 'int32'))
    const [old, ours] = both(ints, 0)
    expect([ours.dtype, ours.dataSync()]).toEqual(['int32', old.dataSync()])
  })

  test('sigmoid, squares, sums, means and gathers, and the gradients of a norm', () => {
    const [x, table, dy] = [normal([4, 65, 96], 1), normal([70, 33], 2), normal([4, 65, 96], 3)]
    const indices = tf.tensor2d([0, 69, 5, 5], [2, 2], 'int32')
    const norm = (x: tf.Tensor) => {
      const { mean, variance } = tf.moments(x, -1, true)
      return tf.sigmoid(tf.div(tf.sub(x, mean), tf.sqrt(tf.add(variance, 1e-5))))
    }
    const run = () => [
      tf.sigmoid(tf.mul(x, 40)),
      tf.square(x),
      tf.sum(x, -1),
      tf.mean(x, 2, true),
      // Of the kernel before.
      tf.sum(x, 1),
      tf.mean(x),
      tf.gather(table, indices),
      tf.gather(table, tf.tensor1d([3], 'int32'), 1),
      norm(x),
      tf.grad(norm)(x, dy),
      tf.grad((x) => tf.sum(x, -1, true))(x, tf.mean(dy, -1, true)),
      tf.grad((x) => tf.mean(x, [2]))(x, tf.mean(dy, -1)),
      // Gradients of gradients, and those of few numbers or of another dimension, are those of TensorFlow.js.
      tf.grad((x) => tf.sum(tf.grad((x) => tf.mean(tf.square(x), -1))(x)))(x),
      tf.grad((x) => tf.sum(x, 1))(x),
    ]
    const [old, ours] = both(run, 0)
    old.forEach((tensor, i) => {
      expectEqual(`result ${i}`, ours[i], tensor)
    })
    if (name === 'cpu') return
    restore = accelerate()
    expect(() => tf.gather(table, tf.tensor1d([70], 'int32'))).toThrow('70')
  })

  test('restoring registers the kernels before, whose setup and disposal ours have', () => {
    const before = registered(name)
    const gradientsBefore = gradients()
    restore = accelerate()
    gradients().forEach((gradient, i) => {
      expect(gradient === gradientsBefore[i]).toBe(isWebAssembly)
    })
    const registeredNow = registered(name)
    registeredNow.forEach((kernel, i) => {
      const { setupFunc, disposeFunc, kernelFunc } = before[i]
      expect([kernel.setupFunc, kernel.disposeFunc]).toEqual([setupFunc, disposeFunc])
      expect(kernel.kernelFunc).not.toBe(kernelFunc)
    })
    const again = accelerate()
    expect(registered(name)).toEqual(registeredNow)
    again()
    registered(name).forEach((kernel, i) => {
      expect(kernel).toBe(before[i])
    })
    gradients().forEach((gradient, i) => {
      expect(gradient).toBe(gradientsBefore[i])
    })
    restore()

    // A kernel that another library has registered meanwhile stays.
    restore = accelerate()
    const ours = tf.getKernel('BatchMatMul', name)
    const other = { ...tf.getKernel('BatchMatMul', name) }
    tf.unregisterKernel('BatchMatMul', name)
    tf.registerKernel(other)
    restore()
    expect(tf.getKernel('BatchMatMul', name)).toBe(other)
    // When the other one is gone, ours is not replaced by ours, and can be restored.
    tf.unregisterKernel('BatchMatMul', name)
    tf.registerKernel(ours)
    accelerate()
    expect(tf.getKernel('BatchMatMul', name)).toBe(ours)
    restore()
    expect(tf.getKernel('BatchMatMul', name)).toBe(before[0])
  })

  test('an activation that fails leaves no product behind', () => {
    const [a, b] = [normal([3, 4], 1), normal([4, 5], 2)]
    restore = accelerate()
    const relu = tf.getKernel('Relu', name)
    tf.unregisterKernel('Relu', name)
    const kernelFunc = () => {
      throw new Error('no')
    }
    tf.registerKernel({ ...relu, kernelFunc })
    const before = tf.engine().backend.numDataIds()
    expect(() => tf.fused.matMul({ a, b, activation: 'relu' })).toThrow('no')
    expect(tf.engine().backend.numDataIds()).toBe(before)
    tf.unregisterKernel('Relu', name)
    tf.registerKernel(relu)
  })
})
