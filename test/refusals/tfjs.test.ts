/** Every argument of the subpaths for TensorFlow.js, replaced by values of other kinds; see test/refusals/arguments.test.ts. */
import * as tf from '@tensorflow/tfjs'
import { afterAll, beforeAll } from 'vitest'
import { LilyModel } from '../../lib/index.js'
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
import { fields, type Row, testRows } from './kinds.js'
import { normal } from '../support/tfjs.js'

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

/** Options that read as absent: they have no property of their own. */
const EMPTY = ['undefined', '{}'] as const
const optional = { valid: ['undefined'] } as const
const rate = { valid: ['undefined', '5'] } as const

/** Tensors of TensorFlow.js are read as it reads them. */
const PROXIES = ['throwing proxy', 'throwing proxy of an array', 'revoked proxy', 'revoked proxy of an array'] as const

const variable = () => tf.variable(normal([2], 3))
/** An optimiser of the model and a variable, whose loss depends on both. */
const optimizerOf = (options: AdapterOptimizerOptions = {}) => {
  const model = newModel()
  const head = variable()
  return { model, head, optimizer: new AdapterOptimizer(model, { variables: [head], ...options }) }
}
const applied = (gradients: (name: string) => unknown) => {
  const { head, optimizer } = optimizerOf()
  optimizer.applyGradients(gradients(head.name) as never)
}
const dense = () => tf.layers.dense({ units: dOut, inputShape: [dIn] })
const net = (args: object) => new AdaptedDense({ dense: dense(), adapter: layer(), ...args })

const rows: Record<string, Record<string, Row>> = {
  adapt: {
    x: { argument: /\bx\b/, call: (value) => adapt(value, base(), layer()) },
    base: { argument: /base/, call: (value) => adapt(x(), value, layer()) },
    layer: { argument: /layer/, call: (value) => adapt(x(), base(), value) },
    options: { argument: /options/, valid: EMPTY, call: (options) => adapt(x(), base(), layer(), options) },
    ...fields(
      {},
      {
        routing: optional,
        pool: optional,
        activation: optional,
        precision: optional,
        mask: optional,
        sequenceOffsets: optional,
        weights: optional,
        training: optional,
      },
      (options) => adapt(x(), base(), layer(), options),
    ),
  },
  adaptedLinear: {
    x: { argument: /\bx\b/, call: (value) => adaptedLinear(value, kernel(), layer()) },
    kernel: { argument: /kernel/, call: (value) => adaptedLinear(x(), value, layer()) },
    layer: { argument: /layer/, call: (value) => adaptedLinear(x(), kernel(), value) },
    options: {
      argument: /options/,
      valid: EMPTY,
      call: (options) => adaptedLinear(x(), kernel(), layer(), options),
    },
    ...fields({}, { bias: optional, mask: optional }, (options) => adaptedLinear(x(), kernel(), layer(), options)),
  },
  frozenLinear: {
    x: { argument: /\bx\b/, call: (value) => frozenLinear(value, normal([dIn, dOut], 1)) },
    weight: { argument: /weight/, call: (value) => frozenLinear(x(), value) },
    bias: { argument: /bias/, ...optional, call: (value) => frozenLinear(x(), normal([dIn, dOut], 1), value) },
  },
  attention: {
    q: { argument: /\bq\b/, call: (value) => attention(value, x(), x(), { heads: 1 }) },
    k: { argument: /\bk\b/, call: (value) => attention(x(), value, x(), { heads: 1 }) },
    v: { argument: /\bv\b/, call: (value) => attention(x(), x(), value, { heads: 1 }) },
    options: { argument: /options|heads/, call: (options) => attention(x(), x(), x(), options) },
    ...fields(
      { heads: 1 },
      { heads: {}, causal: { valid: ['undefined', 'true'] }, scale: rate, mask: optional },
      (options) => attention(x(), x(), x(), options),
    ),
  },
  'fromTf, toTf': {
    fromTf: { argument: /source/, call: (value) => fromTf(value) },
    toTf: { argument: /source/, call: (value) => toTf(value) },
  },
  variableGrads: {
    f: { argument: /\bf\b/, call: (f) => variableGrads(f, newModel()) },
    'what f returns': {
      argument: /\bf\b/,
      call: (value) => {
        const model = newModel()
        return variableGrads(
          () => {
            lossOf(model)
            return value
          },
          model,
          [],
        )
      },
    },
    model: {
      argument: /model/,
      call: (value) => variableGrads(() => lossOf(newModel()), value),
    },
    'models[0]': { argument: /model/, call: (value) => variableGrads(() => lossOf(newModel()), [value]) },
    variables: {
      argument: /variables/,
      valid: ['undefined', '[]'],
      call: (variables) => {
        const model = newModel()
        return variableGrads(() => lossOf(model), model, variables)
      },
    },
    'variables[0]': {
      argument: /variables/,
      call: (value) => {
        const model = newModel()
        return variableGrads(() => lossOf(model), model, [value])
      },
    },
  },
  AdapterOptimizer: {
    model: {
      argument: /model/,
      valid: ['[]'],
      call: (value) => new AdapterOptimizer(value, { variables: [variable()] }),
    },
    options: { argument: /options/, valid: EMPTY, call: (options) => new AdapterOptimizer(newModel(), options) },
    ...fields(
      {},
      {
        lr: rate,
        betas: optional,
        eps: rate,
        weightDecay: rate,
        maxNorm: rate,
        groups: { valid: ['undefined', '[]'] },
        variables: { valid: ['undefined', '[]'] },
        optimizer: optional,
      },
      (options) => new AdapterOptimizer(newModel(), options),
    ),
    'variables[0]': {
      argument: /variables\[0\]/,
      call: (value) => new AdapterOptimizer(newModel(), { variables: [value] }),
    },
  },
  'AdapterOptimizer.applyGradients': {
    variableGradients: { argument: /variable/, call: (gradients) => applied(() => gradients) },
    'an entry': { argument: /variable/, call: (entry) => applied(() => [entry]) },
    'a gradient': { argument: /gradient/, call: (gradient) => applied((name) => ({ [name]: gradient })) },
    'a name': {
      argument: /variableGradients|variables/,
      call: (name) => applied(() => [{ name, tensor: normal([2], 1) }]),
    },
    'a gradient of a list': {
      argument: /gradient/,
      call: (gradient) => applied((name) => [{ name, tensor: gradient }]),
    },
    lrScale: {
      argument: /lrScale/,
      ...rate,
      call: (lrScale) => {
        const { head, optimizer } = optimizerOf()
        optimizer.lrScale = lrScale
        optimizer.applyGradients({ [head.name]: normal([2], 1) })
      },
    },
  },
  'AdapterOptimizer.computeGradients, minimize': {
    f: { argument: /\bf\b/, call: (f) => optimizerOf().optimizer.computeGradients(f) },
    'f of minimize': { argument: /\bf\b/, call: (f) => optimizerOf().optimizer.minimize(f) },
    varList: {
      argument: /variables/,
      call: (varList) => {
        const { model, optimizer } = optimizerOf()
        return optimizer.computeGradients(() => lossOf(model), varList)
      },
      without: ['undefined', '[]', ...PROXIES],
    },
    'varList of minimize': {
      argument: /variables/,
      call: (varList) => {
        const { model, optimizer } = optimizerOf()
        return optimizer.minimize(() => lossOf(model), false, varList)
      },
      without: ['undefined', '[]', ...PROXIES],
    },
  },
  AdaptedDense: {
    args: { argument: /args|dense/, call: (args) => new AdaptedDense(args) },
    dense: { argument: /dense/, call: (value) => net({ dense: value }) },
    adapter: { argument: /adapter/, call: (adapter) => net({ adapter }) },
    attach: { argument: /adapter/, call: (adapter) => net({}).attach(adapter) },
  },
  attachAdapter: {
    model: { argument: /model/, call: (value) => attachAdapter(value, newModel()) },
    adapter: {
      argument: /adapter/,
      call: (adapter) => attachAdapter(tf.sequential({ layers: [net({ inputShape: [dIn] })] }), adapter),
    },
  },
}

testRows(
  Object.fromEntries(
    Object.entries(rows).map(([group, each]) => [
      group,
      Object.fromEntries(Object.entries(each).map(([name, row]) => [name, { without: PROXIES, ...row }])),
    ]),
  ),
)
