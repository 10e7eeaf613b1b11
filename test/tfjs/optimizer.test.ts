/** AdapterOptimizer beside AdamW and the optimisers of TensorFlow.js. */
import * as tf from '@tensorflow/tfjs'
import { afterEach, beforeAll, describe, expect, expectTypeOf, it } from 'vitest'
import {
  AdamW,
  type Distributed,
  type HostData,
  LilyModel,
  LoraModel,
  type ModelRouting,
  tensor,
  type Tensor,
} from '../../lib/index.js'
import { adapt, AdapterOptimizer, variableGrads } from '../../lib/tfjs/index.js'
import { expectRefused } from '../refusals/refused.js'
import { BACKENDS, gradsOf, normal } from '../support/tfjs.js'

const [TOKENS, D_IN, D_OUT] = [10, 6, 5]
const newModel = (routing: ModelRouting = 'batch') =>
  LilyModel.create({
    layers: [{ name: 'proj', inFeatures: D_IN, outFeatures: D_OUT }],
    config: { r: 3, numB: 2, initWeights: false, routing },
    seed: 1,
  })
const double = (data: HostData) => data.set(data.map((value) => 2 * value))
const valuesOf = (model: LilyModel) => Array.from(model.parameters().values(), ({ value }) => [...value.data])

describe.each(BACKENDS)('on the %s backend', (name) => {
  beforeAll(async () => {
    await tf.setBackend(name)
  })
  afterEach(() => {
    tf.disposeVariables()
  })

  /** A classifier of two variables, one of them a scalar, on an adapted layer. */
  function problem(routing?: ModelRouting) {
    const model = newModel(routing)
    const [x, base] = [normal([TOKENS, D_IN], 1), normal([TOKENS, D_OUT], 2)]
    const head = tf.variable(normal([D_OUT, 2], 3) as tf.Tensor2D, true, `head${tf.memory().numTensors}`)
    const bias = tf.variable(tf.scalar(0.5), true, `bias${tf.memory().numTensors}`)
    const loss = () => {
      const hidden = adapt(x, base, model.layer('proj')) as tf.Tensor2D
      return tf.mean<tf.Scalar>(tf.square(tf.add(tf.matMul(hidden, head), bias)))
    }
    return { model, variables: [head, bias], head, bias, loss }
  }
  type Problem = ReturnType<typeof problem>

  /** The same steps with AdamW and copies of variables. */
  function expectedOf({ model, variables, loss }: Problem, options: object, withVariables: boolean, steps: number) {
    const own = withVariables ? variables : []
    const copies = own.map((variable) => {
      const shape = variable.rank === 0 ? [1] : variable.shape
      return {
        value: tensor(Float32Array.from(variable.dataSync()), shape),
        grad: tensor(new Float32Array(variable.size), shape),
      }
    })
    const parameters = new Map<string, { value: Tensor; grad: Tensor }>(model.parameters())
    for (const [i, { name }] of own.entries()) parameters.set(name, copies[i])
    const adamw = new AdamW(parameters, options)
    const sgd = withVariables ? null : tf.train.sgd(0.1)
    for (let step = 0; step < steps; step++) {
      const { grads } = variableGrads(loss, model, variables)
      for (const [i, { name }] of own.entries()) (copies[i].grad.data as Float32Array).set(grads[name].dataSync())
      adamw.step()
      model.zeroGrad()
      sgd?.applyGradients(grads)
      for (const [i, variable] of own.entries()) {
        variable.assign(tf.tensor(copies[i].value.data.slice(), variable.shape) as never)
      }
    }
    return [...valuesOf(model), ...variables.map((variable) => [...variable.dataSync()])]
  }

  it.each<[string, object, boolean, ModelRouting]>([
    [
      'AdamW for all, with groups and one norm',
      { lr: 0.05, maxNorm: 0.1, weightDecay: 0.1, groups: [{ match: /^bias/, lr: 0.2 }] },
      true,
      'batch',
    ],
    ['AdamW and tf.train.sgd', { lr: 0.05, maxNorm: 0.1 }, false, 'batch'],
    ['AdamW for all, and learned mixtures', { lr: 0.05 }, true, 'learned'],
  ])('%s', (_, options, withVariables, routing) => {
    const steps = 4
    const first = problem(routing)
    const before = valuesOf(first.model)
    const expected = expectedOf(first, options, withVariables, steps)
    for (const [i, values] of valuesOf(first.model).entries()) expect(values, 'trained').not.toEqual(before[i])

    const second = problem(routing)
    const { model, variables, loss } = second
    const others = withVariables ? { variables } : { optimizer: tf.train.sgd(0.1) }
    const optimizer = new AdapterOptimizer(model, { ...options, ...others })
    const tensors = tf.memory().numTensors
    const losses: number[] = []
    for (let step = 0; step < steps; step++) {
      // Of the type that a function of TensorFlow.js has where nothing names it.
      const value = optimizer.minimize((): tf.Tensor => loss(), true, withVariables ? undefined : variables)
      losses.push(value.dataSync()[0])
      value.dispose()
    }
    expect(tf.memory().numTensors).toBe(tensors)
    expect([...valuesOf(model), ...variables.map((variable) => [...variable.dataSync()])]).toEqual(expected)
    expect(
      gradsOf(model)
        .flat()
        .every((value) => value === 0),
    ).toBe(true)
    expect(losses[steps - 1]).toBeLessThan(losses[0])
    expect(optimizer.iterations).toBe(steps)
    expect(optimizer.adamw.stepCount).toBe(steps)
    optimizer.dispose()
    expect(() => optimizer.adamw.state()).toThrow(/disposed/)
  })

  it('a step does not write to tensors that share memory with a variable', () => {
    const { model, head, variables, loss } = problem()
    const optimizer = new AdapterOptimizer(model, { variables })
    optimizer.minimize(loss)
    // Also not to memory that an earlier step has given to the variable.
    const snapshot = tf.reshape(head, [-1])
    const before = [...snapshot.dataSync()]
    optimizer.minimize(loss)
    expect([...snapshot.dataSync()]).toEqual(before)
    expect([...head.dataSync()]).not.toEqual(before)
  })

  it('updates variables without an adapter', () => {
    const [start, gradient] = [normal([D_OUT, 2], 3), normal([D_OUT, 2], 4)]
    const [value, grad] = [start, gradient].map((given) => tensor(Float32Array.from(given.dataSync()), [D_OUT, 2]))
    new AdamW(new Map([['alone', { value, grad }]]), { lr: 0.1 }).step()
    const variable = tf.variable(start, true, 'alone')
    new AdapterOptimizer([], { variables: [variable], lr: 0.1 }).applyGradients({ alone: gradient })
    expect([...variable.dataSync()]).toEqual([...value.data])
  })

  it('a schedule, and micro-batches', () => {
    const { model, variables, loss } = problem()
    const optimizer = new AdapterOptimizer(model, { variables })
    optimizer.lrScale = 0
    const before = valuesOf(model)
    optimizer.minimize(loss)
    expect(valuesOf(model)).toEqual(before)
    optimizer.lrScale = 1
    const parts = [optimizer.computeGradients(loss), optimizer.computeGradients(loss)].map(({ grads }) => grads)
    const sums = Object.fromEntries(variables.map(({ name }) => [name, tf.add(parts[0][name], parts[1][name])]))
    optimizer.applyGradients(sums)
    expect(valuesOf(model)).not.toEqual(before)
    expect(() => ((optimizer as { lr?: number }).lr = 0.1)).toThrow('lr: cannot be set; set lrScale')
  })

  it('several models', () => {
    const { model, loss } = problem()
    const lora = LoraModel.create({
      layers: [{ name: 'out', inFeatures: D_OUT, outFeatures: D_OUT }],
      config: { r: 2 },
      seed: 2,
    })
    const x = normal([TOKENS, D_OUT], 4)
    const both = () => tf.add<tf.Scalar>(loss(), tf.mean(adapt(x, x, lora.layer('out'))))
    const optimizer = new AdapterOptimizer([model, lora], { optimizer: tf.train.sgd(0.1) })
    expect(Object.keys(optimizer.adamw.state().parameters)).toEqual([
      ...Array.from(model.parameters().keys(), (name) => `0.${name}`),
      ...Array.from(lora.parameters().keys(), (name) => `1.${name}`),
    ])
    const before = [...(lora.layer('out').b.value.data as Float32Array)]
    optimizer.minimize(both)
    expect([...(lora.layer('out').b.value.data as Float32Array)]).not.toEqual(before)
  })

  it('updates nothing from a loss that is not finite', async () => {
    const { model, variables, loss } = problem()
    const overflowing = () => tf.mul<tf.Scalar>(loss(), tf.scalar(Infinity))
    const before = valuesOf(model)
    const values = () => variables.map((variable) => [...variable.dataSync()])
    const start = values()
    const strict = new AdapterOptimizer(model, { variables })
    await expectRefused('ERR_LILY_ARGUMENT', 'proj.lily_A.weight.grad: expected finite numbers', () =>
      strict.minimize(overflowing),
    )
    model.zeroGrad()
    const lenient = new AdapterOptimizer(model, { variables, onNonFinite: 'skip' })
    lenient.minimize(overflowing)
    expect([lenient.adamw.stepCount, lenient.adamw.skippedSteps]).toEqual([0, 1])
    expect([valuesOf(model), values()]).toEqual([before, start])
    lenient.minimize(loss)
    expect(lenient.adamw.stepCount).toBe(1)
    expect(values()).not.toEqual(start)
  })

  it('with an engine, averages the gradients of variables and of the adapter before a step', async () => {
    const first = problem()
    const second = problem()
    // As if another rank had gradients three times as large.
    const expected = new AdapterOptimizer(first.model, { lr: 0.05, maxNorm: 1, variables: first.variables })
    for (let step = 0; step < 2; step++) {
      const { grads } = expected.computeGradients(first.loss)
      for (const { grad } of first.model.parameters().values()) double(grad.data)
      expected.applyGradients(Object.fromEntries(Object.entries(grads).map(([name, grad]) => [name, tf.mul(grad, 2)])))
    }

    const weights: unknown[] = []
    let during: () => void = () => undefined
    const engine: Distributed = {
      averageGradients: async (parameters, { weight } = {}) => {
        weights.push(weight)
        await new Promise((resolve) => setImmediate(resolve))
        during()
        for (const { grad } of parameters.values()) double((grad as Tensor).data)
      },
    }
    const { model, variables, loss } = second
    const options = { lr: 0.05, maxNorm: 1, variables, distributed: engine }
    const optimizer = new AdapterOptimizer(model, options)
    const tensors = tf.memory().numTensors
    for (let step = 0; step < 2; step++) {
      optimizer.weight = step === 0 ? 7 : undefined
      const values = () => variables.map((variable) => [...variable.dataSync()])
      const before = values()
      during = () => expect(values()).toEqual(before)
      // What the step uses is neither of this tidy nor of these gradients.
      let waiting: Promise<void> | undefined
      tf.tidy(() => {
        waiting = optimizer.applyGradients(optimizer.computeGradients(loss).grads)
      })
      expectTypeOf(() => optimizer.applyGradients({})).returns.toEqualTypeOf<Promise<void>>()
      await expectRefused('ERR_LILY_ARGUMENT', 'applyGradients(): expected no step that waits for other ranks', () =>
        optimizer.applyGradients({}),
      )
      await waiting
    }
    expect(weights).toEqual([7, 1])
    expect(tf.memory().numTensors).toBe(tensors)
    const numbersOf = (of: Problem) => [
      ...valuesOf(of.model),
      ...of.variables.map((variable) => [...variable.dataSync()]),
    ]
    expect(numbersOf(second)).toEqual(numbersOf(first))
    expect(
      gradsOf(model)
        .flat()
        .every((value) => value === 0),
    ).toBe(true)
    expect(optimizer.iterations).toBe(2)

    const failing = new AdapterOptimizer(model, {
      variables,
      distributed: { averageGradients: () => Promise.reject(new Error('lost')) },
    })
    const { grads } = failing.computeGradients(loss)
    const before = numbersOf(second)
    await expect(failing.applyGradients(grads)).rejects.toThrow('lost')
    expect(numbersOf(second)).toEqual(before)
    await expectRefused('ERR_LILY_ARGUMENT', 'minimize(): does not wait for other ranks; call computeGradients', () =>
      optimizer.minimize(loss),
    )
    await expectRefused(
      'ERR_LILY_ARGUMENT',
      'optimizer: expected none with distributed',
      () => new AdapterOptimizer(model, { distributed: engine, optimizer: tf.train.sgd(0.1) }),
    )
    const alone = new AdapterOptimizer(model, { variables })
    alone.weight = 2
    await expectRefused('ERR_LILY_ARGUMENT', 'weight: expected none without other ranks', () =>
      alone.applyGradients(grads),
    )
  })

  it('refuses what it would not update', async () => {
    const { model, variables, head, bias, loss } = problem()
    const before = valuesOf(model)
    const optimizer = new AdapterOptimizer(model, { variables: [head] })
    expect(Object.keys(optimizer.computeGradients(loss).grads)).toEqual([head.name])
    model.zeroGrad()
    const grads = () => optimizer.computeGradients(loss, variables).grads
    await expectRefused('ERR_LILY_ARGUMENT', 'is none of the variables', () => optimizer.applyGradients(grads()))
    await expectRefused('ERR_LILY_ARGUMENT', 'got none of', () => optimizer.applyGradients({}))
    await expectRefused('ERR_LILY_SHAPE', `gradient of '${head.name}'`, () =>
      optimizer.applyGradients({ [head.name]: tf.ones([2]) }),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'includeOptimizer', () => optimizer.getConfig())
    const make = (options: object) => () => new AdapterOptimizer(model, options)
    await expectRefused('ERR_LILY_ARGUMENT', 'optimizer: expected', make({ optimizer: 'sgd' }))
    await expectRefused('ERR_LILY_ARGUMENT', 'variables: expected an array', make({ variables: head }))
    await expectRefused(
      'ERR_LILY_ARGUMENT',
      'variables[0]: expected a tf.Variable',
      make({ variables: [tf.ones([2])] }),
    )
    await expectRefused(
      'ERR_LILY_ARGUMENT',
      'weightDecay, maxNorm, onNonFinite, groups, distributed, variables, optimizer',
      make({ rate: 1 }),
    )
    for (const options of [null, 'adam', []]) {
      await expectRefused('ERR_LILY_ARGUMENT', 'options: expected a plain object', make(options as object))
    }
    await expectRefused('ERR_LILY_ARGUMENT', 'model', () => new AdapterOptimizer(7 as never))
    const clash = tf.variable(tf.ones([2]), true, model.parameters().keys().next().value)
    await expectRefused('ERR_LILY_ARGUMENT', 'is the name of a parameter', make({ variables: [clash] }))
    expect(valuesOf(model)).toEqual(before)
    expect(bias.dataSync()).toEqual(Float32Array.of(0.5))
  })
})
