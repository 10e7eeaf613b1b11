/** AdaptedDense in models of tfjs-layers. */
import * as tf from '@tensorflow/tfjs'
import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import { type LilyConfigOptions, LilyModel, LoraModel } from '../../lib/index.js'
import { adapt, AdapterOptimizer, frozenLinear } from '../../lib/tfjs/index.js'
import { AdaptedDense, attachAdapter } from '../../lib/tfjs-layers/index.js'
import { expectRefused } from '../refusals/refused.js'
import { temporaryFolder } from '../support/temporary.js'
import { BACKENDS, expectEqual, normal } from '../support/tfjs.js'

const [BATCH, LENGTH, D_IN, D_OUT] = [4, 5, 6, 3]
const folder = temporaryFolder()
const shapes = [{ name: 'encoder.q_proj', inFeatures: D_IN, outFeatures: D_OUT }]
const newLily = (modes: Pick<LilyConfigOptions, 'routing'> = {}) =>
  LilyModel.create({ layers: shapes, config: { r: 2, numB: 3, initWeights: false, ...modes }, seed: 1 })

const seeded = (seed: number) => tf.initializers.glorotNormal({ seed })

/** A dense layer with weights, as a trained model has it. */
function newDense(units = D_OUT): tf.layers.Layer {
  const dense = tf.layers.dense({ units, activation: 'tanh', inputShape: [LENGTH, D_IN] })
  tf.sequential({ layers: [dense] })
  dense.setWeights([normal([D_IN, units], 1), normal([units], 2)])
  return dense
}

function newNet(adapted: tf.layers.Layer, ...others: tf.layers.Layer[]): tf.LayersModel {
  const input = tf.input({ shape: [LENGTH, D_IN] })
  const outputs = [adapted, ...others].reduce((hidden, layer) => layer.apply(hidden) as tf.SymbolicTensor, input)
  return tf.model({ inputs: input, outputs })
}

/** Saves a model and loads it again, through JSON. */
async function reloaded(net: tf.LayersModel): Promise<tf.LayersModel> {
  let artifacts: tf.io.ModelArtifacts | undefined
  await net.save(
    tf.io.withSaveHandler((saved) => {
      artifacts = saved
      return Promise.resolve({ modelArtifactsInfo: { dateSaved: new Date(), modelTopologyType: 'JSON' } })
    }),
  )
  const { modelTopology, weightSpecs, weightData } = artifacts!
  const topology = JSON.parse(JSON.stringify(modelTopology)) as object
  return tf.loadLayersModel(
    tf.io.fromMemory({ modelTopology: topology, weightSpecs: weightSpecs!, weightData: weightData! }),
  )
}

describe.each(BACKENDS)('on the %s backend', (name) => {
  beforeAll(async () => {
    await tf.setBackend(name)
  })
  afterEach(() => {
    tf.disposeVariables()
  })

  it('computes activation(dense + adapter)', () => {
    const dense = newDense()
    const adapter = newLily({ routing: 'sequence' }).layer('encoder.q_proj')
    const net = newNet(new AdaptedDense({ dense, adapter }))
    const x = normal([BATCH, LENGTH, D_IN], 3)
    const [kernel, bias] = dense.getWeights()
    const ofBatch = newLily().layer('encoder.q_proj')
    const expected = tf.tanh(adapt(x, frozenLinear(x, kernel, bias), ofBatch, { routing: 'sequence' }))
    expectEqual('predict', net.predict(x, { batchSize: BATCH }) as tf.Tensor, expected)
    expectEqual('apply', net.apply(x) as tf.Tensor, expected)
    const plain = tf.tanh(tf.add(tf.matMul(tf.reshape(x, [-1, D_IN]), kernel as tf.Tensor2D), bias))
    expect(net.apply(x)).not.toEqual(plain)
    const fresh = LilyModel.create({ layers: shapes, config: { r: 2, numB: 3 }, seed: 1 }).layer('encoder.q_proj')
    const unchanged = newNet(new AdaptedDense({ dense, adapter: fresh })).apply(x) as tf.Tensor
    expectEqual('an untrained adapter', tf.reshape(unchanged, plain.shape), plain)
  })

  it('uses the mask of an embedding', () => {
    const dense = newDense()
    const adapter = newLily().layer('encoder.q_proj')
    const embedding = tf.layers.embedding({ inputDim: 7, outputDim: D_IN, maskZero: true, inputShape: [LENGTH] })
    const input = tf.input({ shape: [LENGTH] })
    const adapted = new AdaptedDense({ dense, adapter })
    const net = tf.model({ inputs: input, outputs: adapted.apply(embedding.apply(input)) as tf.SymbolicTensor })
    const ids = tf.tensor2d([1, 2, 3, 0, 0, 4, 5, 6, 1, 0], [2, LENGTH], 'int32')
    const x = embedding.apply(ids) as tf.Tensor
    const [kernel, bias] = dense.getWeights()
    const mask = tf.notEqual(ids, 0)
    const of = (options: object) => tf.tanh(adapt(x, frozenLinear(x, kernel, bias), adapter, options))
    expectEqual('with the mask', net.predict(ids) as tf.Tensor, of({ mask }))
    expect([...of({}).dataSync()], 'the mask matters').not.toEqual([...of({ mask }).dataSync()])
    const frozen = newLily()
    frozen.freeze('uniform')
    for (const [routing, model] of [
      ['token', newLily({ routing: 'token' })],
      ['uniform', newLily({ routing: 'uniform' })],
      ['uniform', frozen],
    ] as const) {
      const other = new AdaptedDense({ dense, adapter: model.layer('encoder.q_proj') })
      const output = other.apply(embedding.apply(input)) as tf.SymbolicTensor
      expectEqual(routing, tf.model({ inputs: input, outputs: output }).predict(ids) as tf.Tensor, of({ routing }))
    }
  })

  it.each([
    ['lily', true],
    ['lora', false],
  ])('trains with fit, is saved and loaded: %s, the dense layer has weights: %s', async (kind, isBuilt) => {
    const model = kind === 'lily' ? newLily() : LoraModel.create({ layers: shapes, config: { r: 2 }, seed: 1 })
    const adapter = model.layer('encoder.q_proj')
    const dense = isBuilt
      ? newDense()
      : tf.layers.dense({ units: D_OUT, activation: 'tanh', kernelInitializer: seeded(5) })
    const head = tf.layers.dense({ units: 1, kernelInitializer: seeded(6) })
    const net = newNet(new AdaptedDense({ dense, adapter }), tf.layers.flatten(), head)
    expect(net.trainableWeights.map(({ originalName }) => originalName)).toEqual(
      head.weights.map((w) => w.originalName),
    )
    const frozen = dense.getWeights().map((weight) => [...weight.dataSync()])
    const before = Array.from(model.parameters().values(), ({ value }) => [...value.data])
    const headBefore = [...head.getWeights()[0].dataSync()]

    const optimizer = new AdapterOptimizer(model, { lr: 0.05, optimizer: tf.train.adam(0.05) })
    net.compile({ optimizer, loss: 'meanSquaredError' })
    const [x, y] = [normal([BATCH, LENGTH, D_IN], 3), normal([BATCH, 1], 4)]
    await net.fit(x, y, { epochs: 1 })
    const tensors = tf.memory().numTensors
    const { history } = await net.fit(x, y, { epochs: 15, batchSize: BATCH })
    expect(tf.memory().numTensors).toBe(tensors)
    expect(Number(history.loss[14])).toBeLessThan(0.5 * Number(history.loss[0]))
    expect(dense.getWeights().map((weight) => [...weight.dataSync()])).toEqual(frozen)
    for (const [i, { value, name }] of [...model.parameters().values()].entries()) {
      expect([...value.data], name).not.toEqual(before[i])
    }
    expect([...head.getWeights()[0].dataSync()]).not.toEqual(headBefore)

    const expected = net.predict(x) as tf.Tensor
    await model.savePretrained(`${folder}/${name}-${kind}`)
    const loaded = await reloaded(net)
    await expectRefused('ERR_LILY_ARGUMENT', "was loaded without its adapter 'encoder.q_proj'", () => loaded.predict(x))
    const Model = kind === 'lily' ? LilyModel : LoraModel
    attachAdapter(loaded, await Model.fromPretrained(`${folder}/${name}-${kind}`))
    expect([...(loaded.predict(x) as tf.Tensor).dataSync()]).toEqual([...expected.dataSync()])
  })

  it('trains the adapter alone', async () => {
    const model = newLily()
    const net = newNet(new AdaptedDense({ dense: newDense(), adapter: model.layer('encoder.q_proj') }))
    net.compile({ optimizer: new AdapterOptimizer(model, { lr: 0.05 }), loss: 'meanSquaredError' })
    const [x, y] = [normal([BATCH, LENGTH, D_IN], 3), tf.zeros([BATCH, LENGTH, D_OUT])]
    const { history } = await net.fit(x, y, { epochs: 5, batchSize: BATCH })
    expect(Number(history.loss[4])).toBeLessThan(Number(history.loss[0]))
  })

  it('another optimiser is refused instead of training nothing', async () => {
    const net = newNet(
      new AdaptedDense({ dense: newDense(), adapter: newLily().layer('encoder.q_proj') }),
      tf.layers.flatten(),
      tf.layers.dense({ units: 1 }),
    )
    net.compile({ optimizer: 'sgd', loss: 'meanSquaredError' })
    const fit = () => net.fit(tf.zeros([BATCH, LENGTH, D_IN]), tf.zeros([BATCH, 1]), {})
    await expectRefused('ERR_LILY_ARGUMENT', 'AdapterOptimizer', fit)
  })

  it('refuses what it cannot wrap', async () => {
    const adapter = newLily().layer('encoder.q_proj')
    const make = (args: object) => () => new AdaptedDense({ dense: newDense(), adapter, ...args })
    await expectRefused('ERR_LILY_ARGUMENT', 'dense: expected a tf.layers.dense', make({ dense: tf.layers.flatten() }))
    await expectRefused('ERR_LILY_ARGUMENT', 'dense', make({ dense: undefined }))
    await expectRefused('ERR_LILY_ARGUMENT', 'adapter: expected model.layer(name)', make({ adapter: undefined }))
    await expectRefused('ERR_LILY_SHAPE', 'adapter: expected 6 to 4 features', make({ dense: newDense(4) }))
    await expectRefused('ERR_LILY_ARGUMENT', 'model: expected a model with AdaptedDense', () =>
      attachAdapter(newNet(newDense()), newLily()),
    )
    const others = LilyModel.create({ layers: [{ ...shapes[0], name: 'decoder' }], config: { r: 2 } })
    await expectRefused('ERR_LILY_ARGUMENT', 'name', () => attachAdapter(newNet(make({})()), others))
    for (const none of [undefined, null, 5, {}]) {
      await expectRefused('ERR_LILY_ARGUMENT', 'model: expected a LayersModel', () =>
        attachAdapter(none as never, others),
      )
      await expectRefused('ERR_LILY_ARGUMENT', 'adapter: expected a LilyModel or a LoraModel', () =>
        attachAdapter(newNet(make({})()), none as never),
      )
    }
    await expectRefused('ERR_LILY_ARGUMENT', 'adaptor: is not a property of args', make({ adaptor: adapter }))
    await expectRefused('ERR_LILY_ARGUMENT', 'routing: is not a property of args', make({ routing: 'token' }))
    for (const none of [undefined, null, 5, newDense()]) {
      const message = 'args: expected { dense, adapter: model.layer(name) }, got'
      await expectRefused('ERR_LILY_ARGUMENT', message, () => new AdaptedDense(none as never))
    }
  })

  it('has the arguments of every layer, also when it is loaded', async () => {
    const adapter = newLily().layer('encoder.q_proj')
    const dense = newDense()
    const layer = new AdaptedDense({
      ...{ dense, adapter, name: 'adapted', trainable: false, dtype: 'float32', weights: dense.getWeights() },
      ...{ inputShape: [1], batchInputShape: [2, LENGTH, D_IN], batchSize: 1, inputDType: 'float32' },
    })
    const net = tf.sequential({ layers: [layer] })
    const config = net.layers[0].getConfig()
    expect(config).toMatchObject({ name: 'adapted', trainable: false, batchInputShape: [2, LENGTH, D_IN] })
    expect((await reloaded(net)).layers[0].getConfig()).toEqual(config)
  })

  it('of a model in a model are connected with their adapters, all or none', async () => {
    const names = ['encoder.q_proj', 'encoder.v_proj']
    const layers = names.map((name) => ({ name, inFeatures: 4, outFeatures: 4 }))
    const model = LoraModel.create({ layers, config: { r: 2, initLoraWeights: false }, seed: 1 })
    const dense = () => tf.layers.dense({ units: 4, kernelInitializer: seeded(7) })
    const adapted = names.map((name) => new AdaptedDense({ dense: dense(), adapter: model.layer(name) }))
    const inner = tf.sequential({ layers: [tf.layers.dense({ units: 4, inputShape: [4] }), adapted[0]] })
    const net = tf.sequential({ layers: [inner, adapted[1]] })
    const x = normal([3, 4], 3)
    const expected = [...(net.predict(x) as tf.Tensor).dataSync()]

    const loaded = await reloaded(net)
    const first = LoraModel.create({ layers: layers.slice(0, 1), config: { r: 2 } })
    await expectRefused('ERR_LILY_ARGUMENT', 'encoder.v_proj', () => attachAdapter(loaded, first))
    await expectRefused('ERR_LILY_ARGUMENT', "its adapter 'encoder.q_proj'", () => loaded.predict(x))
    attachAdapter(loaded, model)
    expect([...(loaded.predict(x) as tf.Tensor).dataSync()]).toEqual(expected)
  })
})
