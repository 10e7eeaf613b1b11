/** lily-kernels/tfjs on TensorFlow.js' webgpu backend, beside the same formulas and the same steps on its cpu backend. */
import * as tf from '@tensorflow/tfjs'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { type Gpu, openGpu } from '../../bench/harness/gpu.js'
import { type AdapterModel, LilyModel, LoraModel, packLinear, type Parameter, tensor } from '../../lib/index.js'
import {
  adapt,
  adaptedLinear,
  AdapterOptimizer,
  type AdaptOptions,
  attention,
  frozenLinear,
  fromTf,
  toTf,
  variableGrads,
} from '../../lib/tfjs/index.js'
import { AdaptedDense } from '../../lib/tfjs-layers/index.js'
import { relativeError } from '../support/compare.js'
import { testGpu } from '../support/gpu-device.js'
import { expectRefused } from '../refusals/refused.js'
import { type Case, lilyOf, loraOf, maskOfDraw, normal, TOLERANCE, valueOf } from '../support/tfjs.js'

const [BATCH, LENGTH, D_IN, D_OUT, RANK, EXPERTS] = [3, 5, 9, 7, 4, 3]
const TOKENS = BATCH * LENGTH
const SCALING = 1.5
const FLAGS = Array.from({ length: TOKENS }, (_, i) => (i % LENGTH < 3 + (i % 2) ? 1 : 0))

let gpu: Gpu
beforeAll(async () => {
  gpu = await openGpu()
})
afterAll(() => {
  gpu.close()
})
beforeEach(async () => {
  await tf.setBackend('webgpu')
})
afterEach(() => {
  tf.disposeVariables()
})

const layers = [0, 1].map((l) => ({ name: `layers.${l}.proj`, inFeatures: D_IN, outFeatures: D_OUT }))
function newLily({ routing = 'batch', pool, activation }: Partial<Case> = {}, dropout = 0) {
  const config = { r: RANK, numB: EXPERTS, scaling: SCALING, targetModules: ['proj'], initWeights: false, dropout }
  const modes = { routing: routing === 'fixed' ? undefined : routing, pool, activation }
  const model = LilyModel.create({ layers, config: { ...config, ...modes }, seed: 3 })
  if (routing === 'fixed') model.freeze('uniform')
  return model
}
const newLora = () => LoraModel.create({ layers, config: { r: RANK, loraAlpha: 6, initLoraWeights: false }, seed: 4 })

/** The numbers of tensors, while the backend that has them is the current one. */
const read = (tensors: readonly tf.Tensor[]) => Promise.all(tensors.map((tensor) => tensor.data()))

const gradsOf = (model: AdapterModel) =>
  Promise.all(Array.from(model.parameters().values(), async ({ grad }) => (await grad.toHost()).data as Float32Array))

function expectClose(name: string, actual: ArrayLike<number>, expected: ArrayLike<number>, factor = 1): void {
  expect(relativeError(actual, expected), name).toBeLessThanOrEqual(factor * TOLERANCE)
}

/** Runs a computation on the cpu backend. */
async function onCpu<T>(compute: () => Promise<T>): Promise<T> {
  await tf.setBackend('cpu')
  try {
    return await compute()
  } finally {
    await tf.setBackend('webgpu')
  }
}

describe('gradients', () => {
  const rows: {
    name: string
    settings: Omit<Case, 'scaling'>
    options: () => AdaptOptions
    shape?: number[]
    dropout?: number
  }[] = [
    {
      name: 'batch, a float32 mask',
      settings: { routing: 'batch', mask: FLAGS, offsets: [0, TOKENS] },
      options: () => ({ mask: tf.tensor(FLAGS) }),
    },
    {
      name: 'batch, a mask of ones, logits, relu',
      settings: { routing: 'batch', pool: 'logits', activation: 'relu', offsets: [0, TOKENS] },
      options: () => ({ mask: tf.ones([TOKENS], 'bool') }),
    },
    {
      name: 'sequence of given offsets, an int32 mask',
      settings: { routing: 'sequence', mask: FLAGS, offsets: [0, 1, 8, 15] },
      options: () => ({
        mask: tf.tensor(FLAGS, [TOKENS], 'int32'),
        sequenceOffsets: tf.tensor1d([0, 1, 8, 15], 'int32'),
      }),
    },
    {
      name: 'sequence, the rows of x, a bool mask',
      shape: [BATCH, LENGTH],
      settings: { routing: 'sequence', mask: FLAGS, offsets: [0, 5, 10, 15] },
      options: () => ({ mask: tf.tensor(FLAGS, [BATCH, LENGTH], 'bool') }),
    },
    {
      name: 'token',
      settings: { routing: 'token', offsets: [0, TOKENS] },
      options: () => ({}),
    },
    {
      name: 'learned',
      settings: { routing: 'learned', offsets: [0, TOKENS] },
      options: () => ({}),
    },
    {
      name: 'batch, dropout',
      settings: { routing: 'batch', offsets: [0, TOKENS] },
      options: () => ({}),
      dropout: 0.4,
    },
    {
      name: 'fixed, weights of ragged sequences',
      settings: { routing: 'fixed', offsets: [0, 1, 8, 15] },
      options: () => ({
        weights: tf.randomUniform([3, EXPERTS], 0, 1, 'float32', 8),
        sequenceOffsets: [0, 1, 8, 15],
      }),
    },
  ]
  it.each(rows)('Lily, $name', async ({ settings, options, shape = [TOKENS], dropout = 0 }) => {
    const model = newLily(settings, dropout)
    const layer = model.layer('layers.0.proj')
    const expected = await onCpu(async () => {
      const factor = normal([...shape, D_OUT], 3)
      const { value, grads } = tf.valueAndGrads((...[x, base, a, router, b]: tf.Tensor[]) => {
        const ofCase = { ...settings, scaling: SCALING, weights: options().weights as tf.Tensor }
        const nothing = tf.mul(tf.sum(router), 0) // TensorFlow.js refuses what the result does not depend on
        const mask = tf.reshape(maskOfDraw(model, 0, dropout, [TOKENS, D_IN]), x.shape)
        const y = tf.add(tf.add(base, lilyOf(tf.mul(x, mask), a, router, b, ofCase)), nothing)
        return tf.sum<tf.Scalar>(tf.mul(y, factor))
      })([
        normal([...shape, D_IN], 1),
        normal([...shape, D_OUT], 2),
        valueOf(layer.a),
        valueOf(layer.router),
        valueOf(layer.b, [EXPERTS, RANK, D_OUT]),
      ])
      return read([value, ...grads])
    })

    model.to(gpu.lily.device)
    const x = tf.variable(normal([...shape, D_IN], 1))
    const base = tf.variable(normal([...shape, D_OUT], 2))
    const factor = normal([...shape, D_OUT], 3)
    const given = options()
    const { value, grads } = variableGrads(
      () => tf.sum<tf.Scalar>(tf.mul(adapt(x, base, layer, given), factor)),
      model,
      [x, base],
    )
    expect(grads[x.name].shape).toEqual(x.shape)
    const found = [
      ...(await read([value, grads[x.name], grads[base.name]])),
      ...(await Promise.all([layer.a, layer.router, layer.b].map(({ grad }) => grad.toHost()))).map(
        ({ data }) => data as Float32Array,
      ),
    ]
    for (const [i, name] of ['loss', 'dx', 'dBase', 'da', 'dRouter', 'db'].entries()) {
      expectClose(name, found[i], expected[i])
    }
  })

  it('LoRA, on a tensor that commands of TensorFlow.js compute, and that is reshaped', async () => {
    const model = newLora()
    const layer = model.layer('layers.0.proj')
    const inputs = () => {
      const x = tf.mul(normal([TOKENS, D_IN], 1), normal([TOKENS, D_IN], 2))
      return { x: tf.reshape(x, [BATCH, LENGTH, D_IN]), base: tf.tanh(normal([BATCH, LENGTH, D_OUT], 3)) }
    }
    const expected = await onCpu(async () => {
      const { x, base } = inputs()
      const { value, grads } = tf.valueAndGrads((...[a, b]: tf.Tensor[]) =>
        tf.sum<tf.Scalar>(tf.square(tf.add(base, loraOf(x, a, b, SCALING)))),
      )([valueOf(layer.a), valueOf(layer.b)])
      return read([value, ...grads])
    })
    model.to(gpu.lily.device)
    const { x, base } = inputs()
    const before = await base.clone().data()
    const { value } = variableGrads(() => tf.sum<tf.Scalar>(tf.square(adapt(x, base, layer))), model, [])
    const found = [await value.data(), ...(await gradsOf(model)).slice(0, 2)]
    for (const [i, name] of ['loss', 'da', 'db'].entries()) expectClose(name, found[i], expected[i])
    expect(await base.data()).toEqual(before)
  })
})

describe('frozen layers', () => {
  const shape = [BATCH, LENGTH]
  const inputs = () => ({
    x: tf.variable(normal([...shape, D_IN], 1)),
    kernel: normal([D_IN, D_OUT], 2),
    bias: normal([D_OUT], 3),
    factor: normal([...shape, D_OUT], 4),
  })
  const linearOf = (x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) =>
    tf.add(tf.reshape(tf.matMul(tf.reshape(x, [-1, D_IN]), kernel), [...shape, D_OUT]), bias)

  it('frozenLinear, of a kernel that commands of TensorFlow.js compute', async () => {
    const results = (layer: (x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) => tf.Tensor) => {
      const { x, kernel, bias, factor } = inputs()
      const doubled = tf.mul(kernel, 2)
      const loss = () => tf.sum<tf.Scalar>(tf.mul(layer(x, doubled, bias), factor))
      const { value, grads } = tf.variableGrads(loss, [x])
      return read([value, grads[x.name], layer(x, doubled, bias)])
    }
    const expected = await onCpu(() => results(linearOf))
    const found = await results(frozenLinear)
    for (const [i, name] of ['loss', 'dx', 'y'].entries()) expectClose(name, found[i], expected[i])
    const { x, kernel } = inputs()
    const plain = await onCpu(() => read([linearOf(inputs().x, inputs().kernel, tf.zeros([D_OUT]))]))
    expectClose('y without a bias', await frozenLinear(x, kernel).data(), plain[0])
  })

  it('frozenLinear, of a kernel that is gone before backward, and nothing is kept', async () => {
    const { x, kernel } = inputs()
    const grad = (layer: (x: tf.Tensor, kernel: tf.Tensor) => tf.Tensor) =>
      tf.grad((x) => tf.sum(tf.square(tf.tidy(() => layer(x, tf.mul(kernel, 2))))))(x)
    const expected = await grad(tf.matMul).data()
    const before = tf.memory().numTensors
    const dx = grad(frozenLinear)
    expectClose('dx', await dx.data(), expected)
    frozenLinear(x, kernel).dispose()
    expect(tf.memory().numTensors).toBe(before + 1)
  })

  it.each(['int32', 'bool'] as const)('of tensors that tf.cast has made of %s', async (dtype) => {
    const numbers = Array.from({ length: 16 }, (_, i) => (i % 3 === 0 ? 1 : dtype === 'bool' ? 0 : -i))
    const model = LilyModel.create({
      layers: [{ name: 'layers.0.proj', inFeatures: 4, outFeatures: 4 }],
      config: { r: 2, numB: 2, targetModules: ['proj'], initWeights: false },
      seed: 1,
    })
    const layer = model.to(gpu.lily.device).layer('layers.0.proj')
    const [matrix, vector] = [normal([4, 4], 1), normal([4], 2)]
    const results = async (t: tf.Tensor) => {
      const variable = tf.variable(t)
      new AdapterOptimizer([], { variables: [variable], lr: 0.1 }).applyGradients({ [variable.name]: t })
      const input = tf.variable(matrix)
      const loss = () => tf.sum<tf.Scalar>(tf.square(adaptedLinear(adapt(t, input, layer), t, layer)))
      const { value, grads } = variableGrads(loss, model, [input])
      const numbers = [...(await gradsOf(model)), (await fromTf(t).toHost()).data as Float32Array]
      model.zeroGrad()
      const tensors = [
        value,
        grads[input.name],
        variable,
        adapt(matrix, t, layer),
        adapt(matrix, matrix, layer, { routing: 'fixed', weights: tf.reshape(tf.slice(t, [0, 0], [1, 2]), [2]) }),
        adaptedLinear(t, matrix, layer, { bias: vector }),
        frozenLinear(matrix, t),
      ]
      return [...numbers, ...(await read(tensors))]
    }
    const expected = await results(tf.tensor(numbers, [4, 4]))
    const found = await results(tf.cast(tf.tensor(numbers, [4, 4], dtype), 'float32'))
    for (const [i, array] of found.entries()) expect(array, `result ${i}`).toEqual(expected[i])
  })

  it.each(['Lily', 'LoRA'] as const)(
    'adaptedLinear, %s: the gradients, also of a kernel that is gone',
    async (kind) => {
      const model: AdapterModel = kind === 'Lily' ? newLily() : newLora()
      const layer = model.layer('layers.0.proj')
      const parameters = [layer.a, ...('router' in layer ? [layer.router as Parameter] : []), layer.b]
      const expected = await onCpu(async () => {
        const { x, kernel, bias, factor } = inputs()
        const { value, grads } = tf.valueAndGrads((...[x, a, ...rest]: tf.Tensor[]) => {
          const ofLily = () => {
            const b = tf.reshape(rest[1], [EXPERTS, RANK, D_OUT])
            return lilyOf(x, a, rest[0], b, { routing: 'batch', scaling: SCALING, offsets: [0, TOKENS] })
          }
          const adapter = kind === 'Lily' ? ofLily() : loraOf(x, a, rest[0], SCALING)
          return tf.sum<tf.Scalar>(tf.mul(tf.add(linearOf(x, kernel, bias), adapter), factor))
        })([x, ...parameters.map((parameter) => valueOf(parameter))])
        return read([value, ...grads])
      })
      model.to(gpu.lily.device)
      const { x, kernel, bias, factor } = inputs()
      const { value, grads } = variableGrads(
        () => {
          const y = tf.tidy(() => adaptedLinear(x, tf.mul(kernel, 1), layer, { bias }))
          // Another kernel gets the buffer of that one, unless the call keeps it.
          frozenLinear(x, tf.mul(kernel, 0))
          return tf.sum<tf.Scalar>(tf.mul(y, factor))
        },
        model,
        [x],
      )
      const found = [
        ...(await read([value, grads[x.name]])),
        ...(await Promise.all(parameters.map(async ({ grad }) => (await grad.toHost()).data as Float32Array))),
      ]
      for (const [i, numbers] of found.entries()) expectClose(`result ${i}`, numbers, expected[i])
    },
  )

  it('run no commands of TensorFlow.js', () => {
    const layer = newLily().to(gpu.lily.device).layer('layers.0.proj')
    const { x, kernel, bias } = inputs()
    const backend = tf.backend() as unknown as { runWebGPUProgram: (...args: unknown[]) => unknown }
    const programs = vi.spyOn(backend, 'runWebGPUProgram')
    try {
      adaptedLinear(x, kernel, layer, { bias, training: false })
      frozenLinear(x, kernel, bias)
      expect(programs).not.toHaveBeenCalled()
      tf.sum(x)
      expect(programs).toHaveBeenCalled()
    } finally {
      programs.mockRestore()
    }
  })
})

/** Two frozen layers with adapters, and a head that is trained. */
function problem(model: LilyModel) {
  const kernels = [normal([D_IN, D_OUT], 1), normal([D_OUT, D_OUT], 2)]
  const biases = [normal([D_OUT], 3), undefined]
  const head = tf.variable(normal([D_OUT, 1], 4), true, 'head')
  const bias = tf.variable(tf.scalar(0.5), true, 'bias')
  const x = normal([BATCH, LENGTH, D_IN], 5)
  const mask = tf.tensor(FLAGS, [BATCH, LENGTH], 'bool')
  const labels = tf.tensor([0, 1, 1], [BATCH, 1])
  const loss = () => {
    let hidden: tf.Tensor = x
    for (const [l, name] of ['layers.0.proj', 'layers.1.proj'].entries()) {
      hidden = tf.tanh(adaptedLinear(hidden, kernels[l], model.layer(name), { mask, bias: biases[l] }))
    }
    const scores = tf.add(tf.matMul(tf.mean<tf.Tensor2D>(hidden, 1), head as tf.Tensor2D), bias)
    return tf.losses.sigmoidCrossEntropy<tf.Tensor, tf.Scalar>(labels, scores)
  }
  return { head, bias, loss }
}
function newDeep() {
  const deep = [D_IN, D_OUT].map((inFeatures, l) => ({ name: `layers.${l}.proj`, inFeatures, outFeatures: D_OUT }))
  const config = { r: RANK, numB: EXPERTS, targetModules: ['proj'], initWeights: false, routing: 'sequence' } as const
  return LilyModel.create({ layers: deep, config, seed: 6 })
}

describe.each([
  [
    'AdamW for all, with one norm',
    ({ head, bias }: ReturnType<typeof problem>) => ({ variables: [head, bias], maxNorm: 0.5 }),
  ],
  ['AdamW and tf.train.adam', () => ({ optimizer: tf.train.adam(0.05) })],
])('%s', (_, others) => {
  async function train(model: LilyModel, steps: number) {
    const given = problem(model)
    const optimizer = new AdapterOptimizer(model, { lr: 0.05, ...others(given) })
    const losses: number[] = []
    for (let step = 0; step < steps; step++) {
      const value = optimizer.minimize(given.loss, true)
      losses.push((await value.data())[0])
      value.dispose()
    }
    const variables = await read([given.head, given.bias])
    await model.toHost()
    const parameters = Array.from(model.parameters().values(), ({ value }) => value.data as Float32Array)
    optimizer.dispose()
    return { losses, numbers: [...variables, ...parameters] }
  }

  it('trains as on the cpu backend', async () => {
    const expected = await onCpu(() => train(newDeep(), 4))
    tf.disposeVariables()
    const { losses, numbers } = await train(newDeep().to(gpu.lily.device), 4)
    expectClose('losses', losses, expected.losses)
    expect(losses[3]).toBeLessThan(losses[0])
    // AdamW divides by the root of the second moment, which enlarges the rounding of small gradients.
    for (const [i, array] of numbers.entries()) expectClose(`numbers ${i}`, array, expected.numbers[i], 64)
  })

  it('reads nothing back between the input and the next step, and keeps no memory', async () => {
    const model = newDeep().to(gpu.lily.device)
    const given = problem(model)
    const optimizer = new AdapterOptimizer(model, { lr: 0.05, ...others(given) })
    const step = () => tf.tidy(() => optimizer.minimize(given.loss, true))
    /** Reading submits what TensorFlow.js has collected, which holds memory of disposed tensors. */
    const finish = async (loss: tf.Scalar) => {
      await loss.data()
      loss.dispose()
    }
    step().dispose()
    await finish(step())
    const memory = () => {
      const { numTensors, numBytesInGPU } = tf.memory() as tf.MemoryInfo & { numBytesInGPU: number }
      return { numTensors, numBytesInGPU, bytesInUse: gpu.lily.memoryStats().bytesInUse }
    }
    const before = memory()
    const reads = countReads()
    try {
      step().dispose()
      const loss = step()
      expect(reads.count).toBe(0)
      await finish(loss)
      expect(reads.count).toBe(2) // a copy and a mapping
    } finally {
      reads.stop()
    }
    expect(memory()).toEqual(before)
  })
})

/** Counts mappings for reading, copies into memory that can be read, and synchronous reads of TensorFlow.js. */
function countReads() {
  const { GPUBuffer, GPUCommandEncoder } = globalThis as unknown as Record<string, { prototype: object }>
  const originals: (() => void)[] = []
  const counter = { count: 0, stop: () => originals.forEach((restore) => restore()) }
  const patch = (object: object, name: string, reads: (...args: unknown[]) => boolean) => {
    const own = object as Record<string, (...args: unknown[]) => unknown>
    const original = own[name]
    originals.push(() => (own[name] = original))
    own[name] = function (this: unknown, ...args) {
      if (reads(...args)) counter.count++
      return original.apply(this, args)
    }
  }
  const isReadable = (buffer: unknown) => ((buffer as GPUBuffer).usage & GPUBufferUsage.MAP_READ) !== 0
  patch(GPUBuffer.prototype, 'mapAsync', (mode) => mode === GPUMapMode.READ)
  patch(GPUCommandEncoder.prototype, 'copyBufferToBuffer', (_, second, third) =>
    isReadable(typeof second === 'object' ? second : third),
  )
  patch(GPUCommandEncoder.prototype, 'copyBufferToTexture', () => true)
  return counter
}

it('x and base of no tokens, and a mask as an array', async () => {
  const layer = newLily().to(gpu.lily.device).layer('layers.0.proj')
  const empty = adapt(tf.zeros([0, D_IN]), tf.zeros([0, D_OUT]), layer)
  expect(empty.shape).toEqual([0, D_OUT])
  expect([...(await empty.data())]).toEqual([])
  const [x, base] = [normal([TOKENS, D_IN], 1), normal([TOKENS, D_OUT], 2)]
  const given = await adapt(x, base, layer, { mask: FLAGS }).data()
  expect(await adapt(x, base, layer, { mask: tf.tensor(FLAGS) }).data()).toEqual(given)
  expect(await adapt(x, base, layer).data()).not.toEqual(given)
})

it('fromTf and toTf copy on the device', async () => {
  const { device } = gpu.lily
  const x = tf.mul(normal([4, 3], 1), 2)
  const numbers = await tf.clone(x).data()
  const copy = fromTf(x)
  x.dispose()
  expect([copy.device, copy.shape, (await copy.toHost()).data]).toEqual([device, [4, 3], numbers])
  const back = toTf(copy)
  copy.dispose()
  expect([back.shape, await back.data()]).toEqual([[4, 3], numbers])
  const { lily, device: other } = testGpu()
  await expectRefused('ERR_LILY_DEVICE', 'await its toHost()', () => toTf(lily.tensor([1, 2], [2])))
  expect(other).not.toBe(gpu.device)
  await expectRefused('ERR_LILY_DTYPE', 'expected float32', () => toTf(gpu.lily.tensor(Int32Array.of(1), [1])))
  await onCpu(() => expectRefused('ERR_LILY_DEVICE', 'await its toHost()', () => toTf(gpu.lily.tensor([1], [1]))))
})

it('updates variables without an adapter', async () => {
  const step = () => {
    const variable = tf.variable(tf.tensor1d([1, -2, 3]), true, `alone on ${tf.getBackend()}`)
    const gradient = tf.tensor1d([0.5, 0.25, -4])
    const optimizer = new AdapterOptimizer([], { variables: [variable], lr: 0.1 })
    optimizer.applyGradients({ [variable.name]: gradient })
    return read([variable])
  }
  const [expected] = await onCpu(step)
  const [values] = await step()
  expectClose('the variable', values, expected)
})

it('a step does not write to tensors that share memory with a variable', async () => {
  const model = newDeep().to(gpu.lily.device)
  const { head, bias, loss } = problem(model)
  const optimizer = new AdapterOptimizer(model, { variables: [head, bias] })
  optimizer.minimize(loss)
  const snapshot = tf.reshape(head, [-1])
  const before = Float32Array.from(await snapshot.data())
  optimizer.minimize(loss)
  expect(await snapshot.data()).toEqual(before)
  expect(await head.data()).not.toEqual(before)
})

it('a layers model with AdaptedDense trains as on the cpu backend', async () => {
  const fit = async (model: LilyModel) => {
    const dense = tf.layers.dense({ units: D_OUT, activation: 'tanh', inputShape: [LENGTH, D_IN] })
    tf.sequential({ layers: [dense] })
    dense.setWeights([normal([D_IN, D_OUT], 1), normal([D_OUT], 2)])
    const inputs = tf.input({ shape: [LENGTH, D_IN] })
    const adapter = model.layer('layers.0.proj')
    const adapted = new AdaptedDense({ dense, adapter })
    const net = tf.model({ inputs, outputs: adapted.apply(inputs) as tf.SymbolicTensor })
    net.compile({ optimizer: new AdapterOptimizer(model, { lr: 0.05 }), loss: 'meanSquaredError' })
    const data = [normal([BATCH, LENGTH, D_IN], 3), tf.zeros([BATCH, LENGTH, D_OUT])]
    const { history } = await net.fit(data[0], data[1], { epochs: 3, shuffle: false, yieldEvery: 'never' })
    return history.loss as number[]
  }
  const expected = await onCpu(() => fit(newLily({ routing: 'sequence' })))
  const losses = await fit(newLily({ routing: 'sequence' }).to(gpu.lily.device))
  expectClose('losses', losses, expected)
  expect(losses[2]).toBeLessThan(losses[0])
})

it('refuses a model that is not where TensorFlow.js computes, and a gradient of a frozen weight', async () => {
  const tensors = () => [normal([TOKENS, D_IN], 1), normal([TOKENS, D_OUT], 2)] as const
  const call = (model: LilyModel) => () => adapt(...tensors(), model.layer('layers.0.proj'))
  const refused = (model: LilyModel, message: string) => expectRefused('ERR_LILY_DEVICE', message, call(model))
  await refused(newLily(), 'call model.to(createLily(tf.backend().device).device)')
  await refused(newLily().to(testGpu().lily.device), 'is not the GPUDevice of TensorFlow.js')
  const variable = tf.variable(tf.ones([2]))
  await expectRefused(
    'ERR_LILY_DEVICE',
    'model: expected a model on the GPUDevice',
    () => new AdapterOptimizer(newLily(), { variables: [variable] }),
  )
  await onCpu(() => refused(newLily().to(gpu.lily.device), "await tf.setBackend('webgpu'), or await model.toHost()"))

  const [x] = tensors()
  const packed = packLinear(tensor(new Float32Array(D_OUT * D_IN), [D_OUT, D_IN]))
  await expectRefused('ERR_LILY_DEVICE', 'pass the weight as a tensor', () => frozenLinear(x, packed))
  await expectRefused('ERR_LILY_DEVICE', 'use tf.matMul and tf.softmax', () => attention(x, x, x, { heads: 1 }))
  const kernel = tf.variable(normal([D_IN, D_OUT], 2))
  await expectRefused('ERR_LILY_ARGUMENT', 'weight: a gradient was asked for', () =>
    tf.variableGrads(() => tf.sum(frozenLinear(x, kernel)), [kernel]),
  )
})
