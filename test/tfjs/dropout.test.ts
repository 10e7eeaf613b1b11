/** Dropout of models in TensorFlow.js: which calls draw, and that a gradient has the mask of its own forward. */
import * as tf from '@tensorflow/tfjs'
import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import { type AdapterModel, LilyModel, LoraModel, type ModelRouting } from '../../lib/index.js'
import { adapt, adaptedLinear, AdapterOptimizer, variableGrads } from '../../lib/tfjs/index.js'
import { AdaptedDense } from '../../lib/tfjs-layers/index.js'
import { LilyLayer } from '../../lib/model/lily-layer.js'
import { BACKENDS, expectEqual, gradOf, gradsOf, lilyOf, loraOf, maskOfDraw, normal, valueOf } from '../support/tfjs.js'

const [TOKENS, D_IN, D_OUT, RANK, EXPERTS, RATE] = [11, 9, 7, 4, 3, 0.4]
const layers = [{ name: 'proj', inFeatures: D_IN, outFeatures: D_OUT }]

type Kind = ModelRouting | 'lora'

function newModel(kind: Kind, rate = RATE): AdapterModel {
  if (kind === 'lora') {
    const config = { r: RANK, loraAlpha: RANK, loraDropout: rate, initLoraWeights: false } as const
    return LoraModel.create({ layers, config, seed: 6 })
  }
  const config = { r: RANK, numB: EXPERTS, routing: kind, dropout: rate, initWeights: false }
  return LilyModel.create({ layers, config, seed: 6 })
}

const stateOf = (model: AdapterModel) => [...model.dropoutState.data]

/** How many draws a model has made. */
const drawsOf = (model: AdapterModel) => stateOf(model)[2]

/** The adapter alone, in operations of TensorFlow.js. Those of its operands that it does not use are multiplied with zero. */
function adapterOf(kind: Kind, x: tf.Tensor, a: tf.Tensor, b: tf.Tensor, router: tf.Tensor): tf.Tensor {
  const nothing = tf.mul(tf.sum(router), 0)
  const settings = { routing: kind as ModelRouting, scaling: 1, offsets: [0, TOKENS] }
  return tf.add(kind === 'lora' ? loraOf(x, a, b, 1) : lilyOf(x, a, router, b, settings), nothing)
}

const lossOf = (y: tf.Tensor, seed: number) => tf.sum<tf.Scalar>(tf.mul(y, normal(y.shape, seed)))

describe.each(BACKENDS)('on the %s backend', (name) => {
  beforeAll(async () => {
    await tf.setBackend(name)
  })
  afterEach(() => {
    tf.disposeVariables()
  })

  it.each<Kind>(['batch', 'token', 'learned', 'lora'])(
    'each call has a mask of its own, as its gradient: %s',
    (kind) => {
      const model = newModel(kind)
      const layer = model.layer('proj')
      const x = tf.variable(normal([TOKENS, D_IN], 1))
      const base = normal([TOKENS, D_OUT], 2)
      const [kernel, bias] = [normal([D_IN, D_OUT], 3), normal([D_OUT], 4)]
      // The first call is the last of backward. One that keeps nothing lies between them, and one comes after them.
      const { value, grads } = variableGrads(
        () => {
          const first = adapt(x, base, layer)
          adapt(x, base, layer, { training: false })
          const second = adaptedLinear(x, kernel, layer, { bias })
          return tf.add(lossOf(first, 7), lossOf(second, 8))
        },
        model,
        [x],
      )
      expect(drawsOf(model)).toBe(2)

      const router = layer instanceof LilyLayer ? layer.router : null
      const expected = tf.valueAndGrads((...[x, a, b, router]: tf.Tensor[]) => {
        const adapter = (draw: number) =>
          adapterOf(kind, tf.mul(x, maskOfDraw(model, draw, RATE, [TOKENS, D_IN])), a, b, router)
        const linear = tf.add(tf.matMul(x, kernel), bias)
        return tf.add(lossOf(tf.add(base, adapter(0)), 7), lossOf(tf.add(linear, adapter(1)), 8))
      })([
        x,
        valueOf(layer.a),
        kind === 'lora' ? valueOf(layer.b) : valueOf(layer.b, [EXPERTS, RANK, D_OUT]),
        router === null ? tf.zeros([1]) : valueOf(router),
      ])
      expectEqual('loss', value, expected.value)
      expectEqual('dx', grads[x.name], expected.grads[0])
      expectEqual('da', gradOf(layer.a), expected.grads[1])
      expectEqual('db', gradOf(layer.b), expected.grads[2])
      if (router !== null) expectEqual('dRouter', gradOf(router), expected.grads[3])
    },
  )

  it.each<Kind>(['sequence', 'lora'])('an evaluation drops nothing and draws nothing: %s', (kind) => {
    const [model, without] = [newModel(kind), newModel(kind, 0)]
    const before = stateOf(model)
    const x = normal([1, TOKENS, D_IN], 1)
    const base = normal([1, TOKENS, D_OUT], 2)
    const of = (one: AdapterModel, options?: object) => [...adapt(x, base, one.layer('proj'), options).dataSync()]
    expect(of(model)).toEqual(of(without))
    expect(of(model, { training: false })).toEqual(of(without))
    const gradients = (one: AdapterModel) => {
      one.zeroGrad()
      const { value } = variableGrads(() => lossOf(adapt(x, base, one.layer('proj')), 3), one, [])
      return [[...value.dataSync()], gradsOf(one)]
    }
    model.eval()
    expect(gradients(model), 'after eval()').toEqual(gradients(without))
    expect(stateOf(model)).toEqual(before)
    model.train()
    expect(gradients(model), 'after train()').not.toEqual(gradients(without))
    expect(drawsOf(model)).toBe(1)
  })

  it('a step with the same state has the same bits, and the next one another mask', () => {
    const losses = (model: AdapterModel, steps: number) => {
      const optimizer = new AdapterOptimizer(model, { lr: 0 })
      const x = normal([TOKENS, D_IN], 1)
      const loss = () => lossOf(adapt(x, normal([TOKENS, D_OUT], 2), model.layer('proj')), 3)
      return Array.from({ length: steps }, () => optimizer.minimize(loss, true).dataSync()[0])
    }
    const first = losses(newModel('learned'), 3)
    expect(losses(newModel('learned'), 3)).toEqual(first)
    // The parameters stay as they are.
    expect(new Set(first).size).toBe(3)
  })

  it('AdaptedDense drops in fit, as its model says, and not in predict and evaluate', async () => {
    const model = newModel('batch')
    const dense = tf.layers.dense({ units: D_OUT, activation: 'tanh' })
    const input = tf.input({ shape: [D_IN] })
    const adapted = new AdaptedDense({ dense, adapter: model.layer('proj') }).apply(input) as tf.SymbolicTensor
    const net = tf.model({ inputs: input, outputs: adapted })
    net.compile({ optimizer: new AdapterOptimizer(model, { lr: 1e-3 }), loss: 'meanSquaredError' })
    const [x, y] = [normal([TOKENS, D_IN], 1), normal([TOKENS, D_OUT], 2)]
    const predict = () => [...(net.predict(x, { batchSize: TOKENS }) as tf.Tensor).dataSync()]
    const before = predict()
    expect(predict()).toEqual(before)
    net.evaluate(x, y)
    expect(drawsOf(model)).toBe(0)
    const fit = () => net.fit(x, y, { epochs: 2, batchSize: 4, validationData: [x, y] })
    await fit()
    expect(drawsOf(model), 'two epochs of three batches').toBe(6)
    model.eval()
    await fit()
    expect(drawsOf(model)).toBe(6)
  })
})
