/** Tensors that tf.cast has made: on the cpu backend they share the numbers of int32 or bool. */
import * as tf from '@tensorflow/tfjs'
import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import { LilyModel } from '../../lib/index.js'
import {
  accelerate,
  adapt,
  adaptedLinear,
  AdapterOptimizer,
  attention,
  frozenLinear,
  fromTf,
} from '../../lib/tfjs/index.js'
import { BACKENDS, normal } from '../support/tfjs.js'

const restores: (() => void)[] = []
afterEach(() => {
  for (const restore of restores.splice(0)) restore()
  tf.disposeVariables()
})

describe.each(BACKENDS)('on the %s backend', (name) => {
  beforeAll(async () => {
    await tf.setBackend(name)
  })

  it.each(['int32', 'bool'] as const)('%s', (dtype) => {
    const numbers = Array.from({ length: 16 }, (_, i) => (i % 3 === 0 ? 1 : dtype === 'bool' ? 0 : -i))
    const config = { r: 2, numB: 2, initWeights: false }
    const model = LilyModel.create({ layers: [{ name: 'proj', inFeatures: 4, outFeatures: 4 }], config, seed: 1 })
    const layer = model.layer('proj')
    const [matrix, vector] = [normal([4, 4], 1), normal([4], 2)]
    const cube = (t: tf.Tensor) => tf.reshape(t, [1, 4, 4])
    const fixed = (t: tf.Tensor) => ({
      routing: 'fixed' as const,
      weights: tf.reshape(tf.slice(t, [0, 0], [1, 2]), [2]),
    })
    const results = (t: tf.Tensor) => [
      tf.matMul(t, matrix),
      tf.layers.dense({ units: 2, kernelInitializer: 'ones' }).apply(t) as tf.Tensor,
      adapt(t, matrix, layer),
      adapt(matrix, t, layer),
      adapt(matrix, matrix, layer, fixed(t)),
      adaptedLinear(t, matrix, layer, { bias: vector }),
      frozenLinear(matrix, t),
      attention(cube(t), cube(t), cube(t), { heads: 1 }),
      tf.tensor(fromTf(t).data, [4, 4]),
      step(t),
    ]
    const step = (t: tf.Tensor) => {
      const variable = tf.variable(t)
      new AdapterOptimizer([], { variables: [variable], lr: 0.1 }).applyGradients({ [variable.name]: t })
      return variable
    }
    const expected = results(tf.tensor(numbers, [4, 4])).map((tensor) => tensor.arraySync())
    restores.push(accelerate())
    const cast = tf.cast(tf.tensor(numbers, [4, 4], dtype), 'float32')
    const found = results(cast)
    for (const [i, tensor] of found.entries()) {
      if (i < 2) tf.test_util.expectArraysClose(tensor.arraySync(), expected[i])
      else expect(tensor.arraySync(), `result ${i}`).toEqual(expected[i])
    }
    expect(fromTf(cast).dtype).toBe('float32')
    expect(fromTf(tf.cast(tf.tensor([1, 0], [2], dtype), 'int32')).dtype).toBe('int32')
  })

  it('products of an int32 tensor', () => {
    const [ints, matrix] = [tf.tensor2d([1, 2, -3, 4], [2, 2], 'int32'), tf.tensor2d([0.5, 2, 1, -1], [2, 2])]
    restores.push(accelerate())
    expect(tf.matMul(ints, matrix).arraySync()).toEqual([
      [2.5, 0],
      [2.5, -10],
    ])
    expect(tf.dot(tf.tensor1d([1, 2], 'int32'), tf.tensor1d([1.5, 2])).arraySync()).toBe(5.5)
  })
})
