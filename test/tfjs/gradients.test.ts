/** Gradients of adapters and frozen layers beside those of the same formulas in operations of TensorFlow.js. */
import * as tf from '@tensorflow/tfjs'
import { beforeAll, describe, expect, it } from 'vitest'
import { type AdapterLayer, cast, LilyModel, LoraModel, packLinear, tensor } from '../../lib/index.js'
import { adapt, adaptedLinear, type AdaptOptions, frozenLinear, fromTf, variableGrads } from '../../lib/tfjs/index.js'
import { BACKENDS, type Case, expectEqual, gradOf, gradsOf, lilyOf, loraOf, normal, valueOf } from '../support/tfjs.js'

const [BATCH, LENGTH, D_IN, D_OUT, RANK, EXPERTS] = [3, 5, 9, 7, 4, 3]
const TOKENS = BATCH * LENGTH
const SCALING = 1.5
const FLAGS = Array.from({ length: TOKENS }, (_, i) => (i % LENGTH < 3 + (i % 2) ? 1 : 0))
const ROWS = [0, 5, 10, 15]
const RAGGED = [0, 1, 8, 15]

function newLily({ routing = 'batch', pool, activation }: Partial<Case> = {}) {
  const layers = [0, 1].map((l) => ({ name: `layers.${l}.proj`, inFeatures: D_IN, outFeatures: D_OUT }))
  const config = { r: RANK, numB: EXPERTS, strideA: 2, scaling: SCALING, targetModules: ['proj'], initWeights: false }
  const modes = { routing: routing === 'fixed' ? undefined : routing, pool, activation }
  const model = LilyModel.create({ layers, config: { ...config, ...modes }, seed: 3 })
  // Each call has other weights.
  if (routing === 'fixed') model.freeze('uniform')
  return { model, layer: model.layer('layers.0.proj') }
}

function newLora() {
  const layers = [{ name: 'proj', inFeatures: D_IN, outFeatures: D_OUT }]
  const model = LoraModel.create({ layers, config: { r: RANK, loraAlpha: 6, initLoraWeights: false }, seed: 4 })
  return { model, layer: model.layer('proj') }
}

interface Row {
  name: string
  settings: Omit<Case, 'scaling'>
  options: (tokenShape: number[]) => AdaptOptions
}
const whole = { offsets: [0, TOKENS] }
const masked = (dtype: 'bool' | 'int32' | 'float32') => (shape: number[]) => tf.tensor(FLAGS, shape, dtype)
const fixedWeights = (groups: number) => tf.randomUniform([groups, EXPERTS], 0, 1, 'float32', 8)

const ROUTINGS: Row[] = [
  { name: 'the default routing', settings: { routing: 'batch', ...whole }, options: () => ({}) },
  {
    name: 'batch, a float32 mask',
    settings: { routing: 'batch', mask: FLAGS, ...whole },
    options: (shape) => ({ mask: masked('float32')(shape) }),
  },
  {
    name: 'batch, logits, a mask as an array',
    settings: { routing: 'batch', pool: 'logits', mask: FLAGS, ...whole },
    options: () => ({ mask: FLAGS }),
  },
  {
    name: 'sequence of given offsets, an int32 mask',
    settings: { routing: 'sequence', mask: FLAGS, offsets: RAGGED },
    options: (shape) => ({ mask: masked('int32')(shape), sequenceOffsets: tf.tensor1d(RAGGED, 'int32') }),
  },
  { name: 'token', settings: { routing: 'token', ...whole }, options: () => ({}) },
  {
    name: 'token, relu',
    settings: { routing: 'token', activation: 'relu', ...whole },
    options: () => ({}),
  },
  { name: 'uniform', settings: { routing: 'uniform', ...whole }, options: () => ({}) },
  { name: 'learned', settings: { routing: 'learned', ...whole }, options: () => ({}) },
  {
    name: 'fixed, one set of weights',
    settings: { routing: 'fixed', ...whole },
    options: () => ({ weights: fixedWeights(1), routing: 'fixed' }),
  },
  {
    name: 'fixed, weights of ragged sequences',
    settings: { routing: 'fixed', offsets: RAGGED },
    options: () => ({ weights: fixedWeights(3), sequenceOffsets: RAGGED }),
  },
]
const ROWS_OF_X: Row[] = [
  {
    name: 'sequence, the rows of x, a bool mask',
    settings: { routing: 'sequence', mask: FLAGS, offsets: ROWS },
    options: (shape) => ({ mask: masked('bool')(shape) }),
  },
  {
    name: 'sequence, logits, relu',
    settings: { routing: 'sequence', pool: 'logits', activation: 'relu', offsets: ROWS },
    options: () => ({}),
  },
]

describe.each(BACKENDS)('on the %s backend', (name) => {
  beforeAll(async () => {
    await tf.setBackend(name)
  })

  describe.each([
    { rank: 2, shape: [TOKENS], rows: ROUTINGS },
    { rank: 3, shape: [BATCH, LENGTH], rows: [...ROUTINGS, ...ROWS_OF_X] },
  ])('Lily, x of rank $rank', ({ shape, rows }) => {
    it.each(rows)('$name', ({ settings, options }) => {
      const { model, layer } = newLily(settings)
      const x = tf.variable(normal([...shape, D_IN], 1))
      const base = tf.variable(normal([...shape, D_OUT], 2))
      const factor = normal([...shape, D_OUT], 3)
      const given = options(shape)
      const loss = (y: tf.Tensor) => tf.sum<tf.Scalar>(tf.mul(y, factor))

      const { value, grads } = variableGrads(() => loss(adapt(x, base, layer, given)), model, [x, base])
      const expected = tf.valueAndGrads((...operands: tf.Tensor[]) => {
        const [x, base, a, router, b] = operands
        const ofCase = { ...settings, scaling: SCALING, weights: given.weights as tf.Tensor }
        // Zero times the router: TensorFlow.js refuses an operand that the result does not depend on.
        const nothing = tf.mul(tf.sum(router), 0)
        return loss(tf.add(tf.add(base, lilyOf(x, a, router, b, ofCase)), nothing))
      })([x, base, valueOf(layer.a), valueOf(layer.router), valueOf(layer.b, [EXPERTS, RANK, D_OUT])])

      expectEqual('loss', value, expected.value)
      const [dx, dBase, da, dRouter, db] = expected.grads
      expectEqual('dx', grads[x.name], dx)
      expectEqual('dBase', grads[base.name], dBase)
      expectEqual('da', gradOf(layer.a), da)
      expectEqual('dRouter', gradOf(layer.router), dRouter)
      expectEqual('db', gradOf(layer.b), db)
    })
  })

  it('LoRA', () => {
    const { model, layer } = newLora()
    const x = tf.variable(normal([BATCH, LENGTH, D_IN], 1))
    const base = tf.variable(normal([BATCH, LENGTH, D_OUT], 2))
    const factor = normal(base.shape, 3)
    const loss = (y: tf.Tensor) => tf.sum<tf.Scalar>(tf.mul(y, factor))
    const { value, grads } = variableGrads(() => loss(adapt(x, base, layer)), model, [x, base])
    const expected = tf.valueAndGrads((...[x, base, a, b]: tf.Tensor[]) => {
      return loss(tf.add(base, loraOf(x, a, b, 1.5)))
    })([x, base, valueOf(layer.a), valueOf(layer.b)])
    expectEqual('loss', value, expected.value)
    expectEqual('dx', grads[x.name], expected.grads[0])
    expectEqual('dBase', grads[base.name], expected.grads[1])
    expectEqual('da', gradOf(layer.a), expected.grads[2])
    expectEqual('db', gradOf(layer.b), expected.grads[3])
  })

  const mask = () => tf.tensor2d(FLAGS, [BATCH, LENGTH], 'bool')
  it.each<[string, (x: tf.Tensor, layer: AdapterLayer) => tf.Tensor]>([
    ['adapt', (x, layer) => adapt(x, normal([BATCH, LENGTH, D_OUT], 2), layer, { mask: mask() })],
    [
      'adaptedLinear',
      (x, layer) => adaptedLinear(x, normal([D_IN, D_OUT], 2), layer, { mask: mask(), bias: normal([D_OUT], 4) }),
    ],
  ])('finite differences of all parameters: %s', (_, output) => {
    const { model, layer } = newLily({ routing: 'sequence' })
    const x = normal([BATCH, LENGTH, D_IN], 1)
    const factor = fromTf(normal([BATCH, LENGTH, D_OUT], 3)).data
    variableGrads(() => tf.sum(tf.mul(output(x, layer), tf.tensor(factor, [BATCH, LENGTH, D_OUT]))), model, [])
    /** In float64, so that only the operation is rounded to float32. */
    const loss = () => {
      const y = output(x, layer).dataSync<'float32'>()
      return y.reduce((sum, value, i) => sum + value * factor[i], 0)
    }
    for (const { name, value, grad } of [layer.a, layer.router, layer.b]) {
      const numbers = value.data as Float32Array
      const gradient = grad.data as Float32Array
      const largest = Math.max(...gradient.map(Math.abs))
      for (let i = 0; i < numbers.length; i++) {
        const original = numbers[i]
        const step = 2 ** -6
        numbers[i] = original + step
        const above = loss()
        numbers[i] = original - step
        const below = loss()
        numbers[i] = original
        // The error of the difference quotient is of the order of step^2, and rounding adds 2^-24 / step.
        expect(Math.abs((above - below) / (2 * step) - gradient[i]), `${name}[${i}]`).toBeLessThan(2e-3 * largest)
      }
    }
  })

  it('gradients add up over layers that share parameters, and over calls, until zeroGrad', () => {
    const { model, layer } = newLily()
    const second = model.layer('layers.1.proj')
    expect(second.a).toBe(layer.a)
    const [x, base] = [normal([TOKENS, D_IN], 1), normal([TOKENS, D_OUT], 2)]
    const of = (...layers: (typeof layer)[]) => {
      model.zeroGrad()
      const loss = () => tf.addN<tf.Scalar>(layers.map((one) => tf.sum<tf.Scalar>(tf.square(adapt(x, base, one)))))
      variableGrads(loss, model, [])
      return gradsOf(model)
    }
    const [first, other, both] = [of(layer), of(second), of(layer, second)]
    for (const [i, sum] of both.entries()) {
      expectEqual(`parameter ${i}`, sum, tf.add(tf.tensor1d(first[i]), tf.tensor1d(other[i])))
    }
    variableGrads(() => tf.sum(tf.square(adapt(x, base, layer))), model, [])
    variableGrads(() => tf.sum(tf.square(adapt(x, base, layer))), model, [])
    for (const [i, sum] of gradsOf(model).entries()) {
      expectEqual(`parameter ${i}`, sum, tf.add(tf.tensor1d(both[i]), tf.mul(2, tf.tensor1d(first[i]))))
    }
    model.zeroGrad()
    expect(
      gradsOf(model)
        .flat()
        .every((value) => value === 0),
    ).toBe(true)
  })

  it('a tensor that is x of one layer and base of another', () => {
    const { model, layer } = newLily()
    const square = LilyModel.create({
      layers: [{ name: 'square', inFeatures: D_OUT, outFeatures: D_OUT }],
      config: { r: 2, initWeights: false, routing: 'token' },
      seed: 5,
    })
    const inner = square.layer('square')
    const x = tf.variable(normal([TOKENS, D_IN], 1))
    const kernel = normal([D_IN, D_OUT], 2)
    const bias = normal([D_OUT], 3)
    const { value, grads } = variableGrads(
      () => {
        const hidden = adapt(x, frozenLinear(x, kernel, bias), layer)
        return tf.sum(tf.square(adapt(hidden, hidden, inner)))
      },
      [model, square],
      [x],
    )
    const batch: Case = { routing: 'batch', scaling: SCALING, ...whole }
    const token: Case = { routing: 'token', scaling: inner.scaling, ...whole }
    const experts = inner.router.value.shape[0]
    const expected = tf.valueAndGrads((...[x, a, router, b, a2, router2, b2]: tf.Tensor[]) => {
      const frozen = tf.add(tf.matMul(x as tf.Tensor2D, kernel as tf.Tensor2D), bias)
      const hidden = tf.add(frozen, lilyOf(x, a, router, b, batch))
      return tf.sum(tf.square(tf.add(hidden, lilyOf(hidden, a2, router2, b2, token))))
    })([
      x,
      valueOf(layer.a),
      valueOf(layer.router),
      valueOf(layer.b, [EXPERTS, RANK, D_OUT]),
      valueOf(inner.a),
      valueOf(inner.router),
      valueOf(inner.b, [experts, 2, D_OUT]),
    ])
    expectEqual('loss', value, expected.value)
    const [dx, ...others] = expected.grads
    expectEqual('dx', grads[x.name], dx)
    const parameters = [layer.a, layer.router, layer.b, inner.a, inner.router, inner.b]
    for (const [i, parameter] of parameters.entries()) expectEqual(parameter.name, gradOf(parameter), others[i])
  })

  describe.each([[[TOKENS]], [[BATCH, LENGTH]]])('adaptedLinear, leading dimensions %j', (shape) => {
    const lily = { kind: 'Lily', of: newLily, options: { mask: FLAGS } }
    it.each([
      { ...lily, hasBias: true },
      { ...lily, hasBias: false },
      { kind: 'LoRA', of: newLora, options: {}, hasBias: true },
    ])('$kind, bias: $hasBias', ({ of, options, hasBias }) => {
      const { model, layer } = of()
      const x = tf.variable(normal([...shape, D_IN], 1))
      const kernel = normal([D_IN, D_OUT], 2) as tf.Tensor2D
      const bias = hasBias ? normal([D_OUT], 3) : undefined
      const factor = normal([...shape, D_OUT], 4)
      const results = (linear: () => tf.Tensor) => {
        model.zeroGrad()
        const { value, grads } = variableGrads(() => tf.sum(tf.mul(tf.square(linear()), factor)), model, [x])
        return [linear(), value, grads[x.name], ...gradsOf(model).map((numbers) => tf.tensor1d(numbers))]
      }
      // The product and the bias in operations of TensorFlow.js.
      const expected = results(() => {
        const product = tf.reshape(tf.matMul(tf.reshape(x, [-1, D_IN]), kernel), factor.shape)
        return adapt(x, bias === undefined ? product : tf.add(product, bias), layer, options)
      })
      const rows = packLinear(tensor(fromTf(tf.transpose(kernel)).data, [D_OUT, D_IN]))
      const columns = packLinear(fromTf(kernel), { transposed: true })
      // A weight of 16 bits has the bits of the same one in float32.
      const half = cast(fromTf(kernel), 'bfloat16')
      const [narrow, wide] = [half, cast(half, 'float32')].map((kernel) =>
        results(() => adaptedLinear(x, packLinear(kernel, { transposed: true }), layer, { ...options, bias })),
      )
      for (const [i, tensor] of narrow.entries()) expect(tensor.dataSync()).toEqual(wide[i].dataSync())
      for (const weight of [kernel, rows, columns]) {
        const actual = results(() => adaptedLinear(x, weight, layer, { ...options, bias }))
        for (const [i, tensor] of actual.entries()) expectEqual(`result ${i}`, tensor, expected[i])
        const apart = results(() => adapt(x, frozenLinear(x, weight, bias), layer, options))
        for (const [i, tensor] of actual.entries()) expectEqual(`result ${i} of two calls`, tensor, apart[i])
      }
    })
  })

  describe.each([[[TOKENS]], [[BATCH, LENGTH]], [[]]])('frozenLinear, leading dimensions %j', (shape) => {
    it.each([true, false])('bias: %s', (hasBias) => {
      const x = tf.variable(normal([...shape, D_IN], 1))
      const kernel = normal([D_IN, D_OUT], 2)
      const bias = hasBias ? normal([D_OUT], 3) : undefined
      const factor = normal([...shape, D_OUT], 4)
      const loss = (y: tf.Tensor) => tf.sum<tf.Scalar>(tf.mul(tf.square(y), factor))
      const expected = tf.variableGrads(() => {
        const y = tf.reshape(tf.matMul(tf.reshape(x, [-1, D_IN]), kernel as tf.Tensor2D), factor.shape)
        return loss(bias === undefined ? y : tf.add(y, bias))
      }, [x])
      const rows = fromTf(tf.transpose(kernel))
      const packed = packLinear(tensor(rows.data, [D_OUT, D_IN]))
      for (const weight of [kernel, packed]) {
        // It has no parameters, so that the functions of TensorFlow.js differentiate it as well.
        const { value, grads } = tf.variableGrads(() => loss(frozenLinear(x, weight, bias)), [x])
        expectEqual('loss', value, expected.value)
        expectEqual('dx', grads[x.name], expected.grads[x.name])
      }
      const half = cast(rows, 'bfloat16')
      const [narrow, wide] = [half, cast(half, 'float32')].map((weight) =>
        tf.variableGrads(() => loss(frozenLinear(x, packLinear(weight), bias)), [x]),
      )
      expect(narrow.value.dataSync()).toEqual(wide.value.dataSync())
      expect(narrow.grads[x.name].dataSync()).toEqual(wide.grads[x.name].dataSync())
    })
  })
})
