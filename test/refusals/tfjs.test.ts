/** What the subpaths for TensorFlow.js refuse. */
import * as tf from '@tensorflow/tfjs'
import { afterAll, beforeAll } from 'vitest'
import { LilyModel, tensor } from '../../lib/index.js'
import {
  adapt,
  adaptedLinear,
  attention,
  AdapterOptimizer,
  type AdapterOptimizerOptions,
  fromTf,
  frozenLinear,
  toTf,
  variableGrads,
} from '../../lib/tfjs/index.js'
import { AdaptedDense, attachAdapter } from '../../lib/tfjs-layers/index.js'
import { normal } from '../support/tfjs.js'
import { at, refuse } from './table.js'

beforeAll(async () => {
  await tf.setBackend('cpu')
})
afterAll(() => {
  tf.disposeVariables()
})

const [tokens, dIn, dOut] = [4, 3, 2]
const config = { r: 2, numB: 2, initWeights: false }
const newModel = () =>
  LilyModel.create({ layers: [{ name: 'proj', inFeatures: dIn, outFeatures: dOut }], config, seed: 1 })
const layer = () => newModel().layer('proj')
const x = () => normal([tokens, dIn], 1)
const base = () => normal([tokens, dOut], 2)
const kernel = () => normal([dIn, dOut], 4)
const lossOf = (model: LilyModel) => tf.sum<tf.Scalar>(adapt(x(), base(), model.layer('proj')))

const variable = () => tf.variable(normal([2], 3))
/** An optimiser of the model and a variable, whose loss depends on both. */
const optimizerOf = (options: AdapterOptimizerOptions = {}) => {
  const model = newModel()
  const head = variable()
  return { model, head, optimizer: new AdapterOptimizer(model, { variables: [head], ...options }) }
}
refuse('adapt', {
  call: () => ({ x: x(), base: base(), layer: layer(), options: {} }),
  run: ({ x, base, layer, options }) => adapt(x, base, layer, options),
  kinds: {
    required: 'x base layer',
    options: 'options',
    optional: at('options', 'routing pool activation precision mask sequenceOffsets weights training'),
  },
})
refuse('adaptedLinear', {
  call: () => ({ x: x(), kernel: kernel(), layer: layer(), options: {} }),
  run: ({ x, kernel, layer, options }) => adaptedLinear(x, kernel, layer, options),
  kinds: { required: 'x kernel layer', options: 'options', optional: at('options', 'bias mask') },
})
refuse('frozenLinear', {
  call: () => ({ x: x(), weight: kernel(), bias: undefined }),
  run: ({ x, weight, bias }) => frozenLinear(x, weight, bias),
  kinds: { required: 'x weight', optional: 'bias' },
})
refuse('attention', {
  call: () => ({ q: x(), k: x(), v: x(), options: { heads: 1 } }),
  run: ({ q, k, v, options }) => attention(q, k, v, options),
  kinds: {
    required: 'q k v options options.heads',
    flag: 'options.causal',
    numberOrNot: 'options.scale',
    optional: 'options.mask',
  },
  names: { options: /options|heads/ },
})
refuse('fromTf', { call: () => ({ source: x() }), run: ({ source }) => fromTf(source), kinds: { required: 'source' } })
refuse('toTf', {
  call: () => ({ source: tensor([1, 2], [2]) }),
  run: ({ source }) => toTf(source),
  kinds: { required: 'source' },
})

/* Gradients. */

refuse('variableGrads', {
  call: () => {
    const model = newModel()
    return { f: () => lossOf(model), model, variables: [] as tf.Variable[] }
  },
  run: ({ f, model, variables }) => variableGrads(f, model, variables),
  kinds: { required: 'f model variables.0', listOrNot: 'variables' },
  names: { model: /model|layer/ },
})
refuse('variableGrads of what f returns', {
  call: () => ({ models: [newModel()], value: null as never }),
  run: ({ models, value }) => variableGrads(() => (lossOf(models[0]), value), models, []),
  kinds: { required: 'models.0 value' },
  names: { 'models.0': /model/, value: /\bf\b/ },
  isInvalid: true,
})

refuse('AdapterOptimizer', {
  call: () => ({ model: newModel(), options: { variables: [variable()] } }),
  run: ({ model, options }) => new AdapterOptimizer(model, options),
  kinds: {
    list: 'model',
    required: 'options.variables.0',
    options: 'options',
    optional: at('options', 'betas optimizer'),
    listOrNot: at('options', 'groups variables'),
    numberOrNot: at('options', 'lr eps weightDecay maxNorm'),
  },
})
const appliedAs: Record<string, [gradientsOf: (name: string, value: unknown) => unknown, names: RegExp]> = {
  'an entry of a list': [(_, value) => [value], /variable/],
  'a gradient by its name': [(name, value) => ({ [name]: value }), /gradient|variable/],
  'a gradient of a list': [(name, value) => [{ name, tensor: value }], /gradient|variable/],
}
for (const [what, [gradientsOf, names]] of Object.entries(appliedAs)) {
  refuse(`AdapterOptimizer.applyGradients: ${what}`, {
    call: () => ({ value: null as unknown }),
    run: ({ value }) => {
      const { head, optimizer } = optimizerOf()
      optimizer.applyGradients(gradientsOf(head.name, value) as never)
    },
    kinds: { required: 'value' },
    names: { value: names },
    isInvalid: true,
  })
}
refuse('AdapterOptimizer.applyGradients', {
  call: () => {
    const { head, optimizer } = optimizerOf()
    return { optimizer, lrScale: 1, gradients: [{ name: head.name, tensor: normal([2], 1) }] }
  },
  run: ({ optimizer, lrScale, gradients }) => {
    optimizer.lrScale = lrScale
    optimizer.applyGradients(gradients)
  },
  kinds: { required: 'gradients gradients.0.name', numberOrNot: 'lrScale' },
  names: { gradients: /variable/, 'gradients.0.name': /variableGradients|variables/ },
})
const losing = () => {
  const { model, head, optimizer } = optimizerOf()
  return { optimizer, f: () => tf.add<tf.Scalar>(lossOf(model), tf.sum(head)), variables: [head] }
}
const ofLosing = { kinds: { required: 'f variables' }, without: { variables: ['undefined', '[]'] } } as const
refuse('AdapterOptimizer.computeGradients', {
  call: losing,
  run: ({ optimizer, f, variables }) => optimizer.computeGradients(f, variables),
  ...ofLosing,
})
refuse('AdapterOptimizer.minimize', {
  call: losing,
  run: ({ optimizer, f, variables }) => optimizer.minimize(f, false, variables),
  ...ofLosing,
})

/* Layers. */

const dense = () => tf.layers.dense({ units: dOut, inputShape: [dIn] })
const net = () => new AdaptedDense({ dense: dense(), adapter: layer(), inputShape: [dIn] })
refuse('AdaptedDense', {
  call: () => ({ args: { dense: dense(), adapter: layer() } }),
  run: ({ args }) => new AdaptedDense(args),
  kinds: { required: 'args args.dense args.adapter' },
  names: { args: /args|dense/ },
})
refuse('AdaptedDense.attach', {
  call: () => ({ adapter: newModel() }),
  run: ({ adapter }) => net().attach(adapter),
  kinds: { required: 'adapter' },
})
refuse('attachAdapter', {
  call: () => ({ model: tf.sequential({ layers: [net()] }), adapter: newModel() }),
  run: ({ model, adapter }) => attachAdapter(model, adapter),
  kinds: { required: 'model adapter' },
})
