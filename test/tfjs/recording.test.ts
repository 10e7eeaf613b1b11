/** What is recorded, kept and released; what would be lost without an error; copies and memory. */
import * as tf from '@tensorflow/tfjs'
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { type AdapterLayer, LilyAdapters, LilyModel, LoraModel, packLinear, tensor } from '../../lib/index.js'
import {
  AdapterOptimizer,
  adapt,
  adaptedLinear,
  attention,
  frozenLinear,
  fromTf,
  toTf,
  variableGrads,
} from '../../lib/tfjs/index.js'
import { expectRefused } from '../refusals/refused.js'
import { BACKENDS, expectEqual, gradsOf, normal } from '../support/tfjs.js'

const [TOKENS, D_IN, D_OUT, RANK, EXPERTS] = [12, 8, 6, 4, 3]
const names = ['layers.0.proj', 'layers.1.proj', 'layers.2.proj']
const layers = names.map((name) => ({ name, inFeatures: D_IN, outFeatures: D_OUT }))
const newModel = () =>
  LilyModel.create({ layers, config: { r: RANK, numB: EXPERTS, initWeights: false, targetModules: ['proj'] }, seed: 1 })

const lossOf = (y: tf.Tensor) => tf.sum<tf.Scalar>(tf.square(y))
const isZero = (model: LilyModel) =>
  gradsOf(model)
    .flat()
    .every((value) => value === 0)

describe.each(BACKENDS)('on the %s backend', (name) => {
  let model: LilyModel
  let layer: AdapterLayer
  let x: tf.Tensor
  let base: tf.Tensor
  beforeAll(async () => {
    await tf.setBackend(name)
  })
  beforeEach(() => {
    model = newModel()
    layer = model.layer(names[0])
    x = normal([TOKENS, D_IN], 1)
    base = normal([TOKENS, D_OUT], 2)
  })
  afterEach(() => {
    vi.restoreAllMocks()
    tf.dispose([x, base])
    tf.disposeVariables()
  })

  it('refuses a base that does not fit, by its name', async () => {
    const other = tf.zeros([TOKENS, D_OUT + 1])
    await expectRefused('ERR_LILY_SHAPE', `base: expected ${TOKENS} rows of ${D_OUT}`, () => adapt(x, other, layer))
    await expectRefused('ERR_LILY_SHAPE', `base: expected ${TOKENS} rows of ${D_OUT}`, () =>
      adapt(x, tf.scalar(1), layer),
    )
    await expectRefused('ERR_LILY_SHAPE', `x: expected ${TOKENS} rows of ${D_IN}`, () => adapt(other, base, layer))
    other.dispose()
  })

  describe('no gradient is lost', () => {
    let sgd: tf.Optimizer
    beforeAll(() => {
      sgd = tf.train.sgd(0.1)
    })
    it('without a variable before the adapter', () => {
      const head = tf.variable(normal([D_OUT, 1], 3) as tf.Tensor2D)
      const loss = () => lossOf(tf.matMul(adapt(x, base, layer), head))
      const { grads } = variableGrads(loss, model, [head])
      const withHead = gradsOf(model)
      expect(Object.keys(grads)).toEqual([head.name])
      for (const { name, layers, grad } of model.parameters().values()) {
        const isUsed = layers.includes(layer.name)
        expect(
          (grad.data as Float32Array).some((value) => value !== 0),
          name,
        ).toBe(isUsed)
      }
      model.zeroGrad()
      variableGrads(loss, model, [])
      expect(gradsOf(model), 'without any variable').toEqual(withHead)
    })

    it.each([
      ['tf.variableGrads', () => tf.variableGrads(() => lossOf(adapt(x, base, layer)))],
      ['tf.grad', () => tf.grad((x) => lossOf(adapt(x, base, layer)))(x)],
      ['tf.grads', () => tf.grads((x, base) => lossOf(adapt(x, base, layer)))([x, base])],
      ['a tf.train optimiser', () => sgd.minimize(() => lossOf(adapt(x, base, layer)))],
    ])('%s is refused', async (_, run) => {
      const other = tf.variable(tf.scalar(1))
      const before = tf.memory().numTensors
      await expectRefused('ERR_LILY_ARGUMENT', 'training: TensorFlow.js records a gradient by itself', run)
      expect(tf.memory().numTensors).toBe(before)
      expect(isZero(model)).toBe(true)
      other.dispose()
    })

    it('training: true outside of variableGrads is refused', async () => {
      await expectRefused('ERR_LILY_ARGUMENT', 'training: true is for', () => adapt(x, base, layer, { training: true }))
    })

    it('training: false has no gradient of x, and that of base', async () => {
      const options = { training: false }
      const dBase = tf.grad((base) => lossOf(adapt(x, base, layer, options)))(base)
      expectEqual('dBase', dBase, tf.mul(2, adapt(x, base, layer)))
      const run = () => tf.grad((x) => lossOf(adapt(x, base, layer, options)))(x)
      await expectRefused('ERR_LILY_ARGUMENT', "the call of layer 'layers.0.proj' kept nothing", run)
    })

    it('a call that the loss does not depend on is refused', async () => {
      const before = tf.memory().numTensors
      const loss = (training?: boolean) => () => {
        const used = adapt(x, base, layer)
        adapt(x, base, model.layer(names[1]), { training })
        return lossOf(used)
      }
      const error = await expectRefused('ERR_LILY_ARGUMENT', 'f: the loss does not depend', () =>
        variableGrads(loss(), model, []),
      )
      expect(error.message).toContain(names[1])
      expect(tf.memory().numTensors).toBe(before)
      tf.dispose(variableGrads(loss(false), model, []).value)
    })

    it.each([
      ['on a variable only', true],
      ['on nothing', false],
    ])('a loss that depends %s is refused', async (_, hasHead) => {
      const head = tf.variable(normal([D_OUT], 3))
      const before = tf.memory().numTensors
      const loss = () => {
        adapt(x, base, layer)
        return lossOf(hasHead ? head : base)
      }
      const message = "f: the loss does not depend on a call of layer 'layers.0.proj'"
      await expectRefused('ERR_LILY_ARGUMENT', message, () => variableGrads(loss, model, hasHead ? [head] : []))
      const optimizer = new AdapterOptimizer(model, { variables: [head] })
      await expectRefused('ERR_LILY_ARGUMENT', message, () => optimizer.minimize(loss))
      optimizer.dispose()
      expect(tf.memory().numTensors).toBe(before)
    })

    it('the gradient of a gradient is refused', async () => {
      const head = tf.variable(tf.scalar(1))
      const inner = () => {
        const { grads } = tf.variableGrads(() => lossOf(tf.mul(frozenLinear(tf.mul(x, head), base0), head)), [head])
        return grads[head.name] as tf.Scalar
      }
      const base0 = normal([D_IN, D_OUT], 4)
      const nested = 'a gradient of a gradient'
      await expectRefused('ERR_LILY_ARGUMENT', nested, () => tf.variableGrads(inner, [head]))
      await expectRefused('ERR_LILY_ARGUMENT', 'do not nest them', () =>
        tf.variableGrads(() => variableGrads(() => lossOf(adapt(x, base, layer)), model, [head]).value, [head]),
      )
      const within = () => tf.sum<tf.Scalar>(tf.grad((x) => lossOf(adapt(x, base, layer)))(x))
      await expectRefused('ERR_LILY_ARGUMENT', nested, () => variableGrads(within, model, [head]))
      expect(isZero(model)).toBe(true)
    })

    it('a trained weight or bias of a frozen layer is refused', async () => {
      const kernel = tf.variable(normal([D_IN, D_OUT], 3))
      const bias = tf.variable(normal([D_OUT], 4))
      const loss = () => lossOf(frozenLinear(x, kernel, bias))
      await expectRefused('ERR_LILY_ARGUMENT', 'weight: a gradient', () => tf.variableGrads(loss, [kernel]))
      await expectRefused('ERR_LILY_ARGUMENT', 'bias: a gradient', () => tf.variableGrads(loss, [bias]))
      const adapted = () => lossOf(adaptedLinear(x, kernel, layer, { bias }))
      await expectRefused('ERR_LILY_ARGUMENT', 'kernel: a gradient', () => variableGrads(adapted, model, [kernel]))
      await expectRefused('ERR_LILY_ARGUMENT', 'bias: a gradient', () => variableGrads(adapted, model, [bias]))
    })

    it('a frozen layer reads the current weight', () => {
      const kernel = tf.variable(normal([D_IN, D_OUT], 3))
      const product = () => tf.matMul(x, kernel)
      expectEqual('before', frozenLinear(x, kernel), product())
      kernel.assign(normal([D_IN, D_OUT], 5))
      expectEqual('after assign', frozenLinear(x, kernel), product())
      const turned = tf.reshape(kernel, [D_OUT, D_IN])
      // A copy: the matMul of the wasm backend does not notice another shape of the same memory.
      const y = tf.matMul(base, tf.mul(turned, 1))
      expectEqual('the same numbers in another shape', frozenLinear(base, turned), y)
    })
  })

  describe('nothing is kept', () => {
    const spied = () => ({ forward: vi.spyOn(layer, 'forward'), backward: vi.spyOn(layer, 'backward') })
    const savedOf = ({ forward }: ReturnType<typeof spied>) =>
      forward.mock.results.map(({ value }) => (value as ReturnType<AdapterLayer['forward']>).saved)

    it('by an evaluation', () => {
      const spies = spied()
      const before = tf.memory().numTensors
      adapt(x, base, layer).dispose()
      adapt(x, base, layer, { training: false }).dispose()
      expect(savedOf(spies)).toEqual([undefined, undefined])
      expect(tf.memory().numTensors).toBe(before)
    })

    it('after variableGrads', () => {
      const spies = spied()
      const head = tf.variable(normal([D_OUT, 1], 3) as tf.Tensor2D)
      const before = tf.memory()
      const run = () => variableGrads(() => lossOf(tf.matMul(adapt(x, base, layer), head)), model, [head])
      tf.dispose(run())
      const { value, grads } = tf.tidy(run)
      expect(tf.memory().numTensors).toBe(before.numTensors + 2)
      tf.dispose([value, grads])
      expect(tf.memory().numTensors).toBe(before.numTensors)
      expect(tf.memory().numBytes).toBe(before.numBytes)
      expect(savedOf(spies).map((saved) => saved?.isDisposed)).toEqual([true, true])
      expect(spies.backward).toHaveBeenCalledTimes(2)
      expect(Object.keys(tf.engine().registeredVariables)).toEqual([head.name])
    })

    it('of an adapted layer', () => {
      const spies = spied()
      const kernel = normal([D_IN, D_OUT], 3)
      const input = tf.variable(x)
      const before = tf.memory()
      adaptedLinear(x, kernel, layer).dispose()
      expect(savedOf(spies)).toEqual([undefined])
      for (const variables of [[], [input]]) {
        tf.dispose(Object.values(variableGrads(() => lossOf(adaptedLinear(input, kernel, layer)), model, variables)))
      }
      expect(savedOf(spies).map((saved) => saved?.isDisposed)).toEqual([undefined, true, true])
      expect(spies.backward.mock.calls.map(([{ dx }]) => dx !== undefined)).toEqual([false, true])
      expect(tf.memory()).toEqual(before)
    })

    it('after an error in f, before or after the adapter', async () => {
      const spies = spied()
      const before = tf.memory().numTensors
      const fails = () => {
        adapt(x, base, layer)
        throw new Error('of f')
      }
      expect(() => variableGrads(fails, model, [])).toThrow('of f')
      expect(savedOf(spies).map((saved) => saved?.isDisposed)).toEqual([true])
      expect(tf.memory().numTensors).toBe(before)
      expect(isZero(model)).toBe(true)
      await expectRefused('ERR_LILY_ARGUMENT', 'f: it calls adaptedLinear or adapt with no layer', () =>
        variableGrads(() => lossOf(x), model, []),
      )
      const input = tf.variable(tf.reshape(x, [1, TOKENS, D_IN]))
      const kept = tf.memory()
      const failing = (isLate: boolean) => () => {
        const fails = (): never => {
          throw new Error('of f')
        }
        const late = tf.customGrad(() => ({ value: tf.scalar(1), gradFunc: fails }))
        const y = adapt(tf.reshape(attention(input, input, tf.square(input), { heads: 2 }), x.shape), base, layer)
        return isLate ? tf.mul<tf.Scalar>(late(lossOf(y)), 1) : fails()
      }
      for (const isLate of [false, true]) {
        expect(() => variableGrads(failing(isLate), model, [input])).toThrow('of f')
        expect(tf.memory()).toEqual(kept)
      }
      // Nothing is left over: the functions of TensorFlow.js do not find a recording.
      await expectRefused('ERR_LILY_ARGUMENT', 'by itself', () => tf.grad((x) => lossOf(adapt(x, base, layer)))(x))
    })

    it('dx is computed only if a variable reaches x', () => {
      const { backward } = spied()
      const input = tf.variable(x)
      variableGrads(() => lossOf(adapt(x, base, layer)), model, [input])
      variableGrads(() => lossOf(adapt(input, base, layer)), model, [input])
      expect(backward.mock.calls.map(([{ dx }]) => dx !== undefined)).toEqual([false, true])
    })
  })

  describe('bad input is refused before anything is written', () => {
    const of = (...args: unknown[]) => (adapt as (...args: unknown[]) => unknown)(...args)
    it.each<[string, string, string, () => unknown]>([
      ['no tensor', 'ERR_LILY_ARGUMENT', 'x: expected a tensor of TensorFlow.js', () => of([1], base, layer)],
      ['int32', 'ERR_LILY_DTYPE', 'x: expected float32, got int32', () => of(tf.cast(x, 'int32'), base, layer)],
      ['an int32 base', 'ERR_LILY_DTYPE', 'base: expected float32', () => of(x, tf.cast(base, 'int32'), layer)],
      ['another d_in', 'ERR_LILY_SHAPE', 'x: expected', () => of(base, base, layer)],
      ['another d_out', 'ERR_LILY_SHAPE', 'base: expected', () => of(x, x, layer)],
      ['no layer', 'ERR_LILY_ARGUMENT', 'layer: expected model.layer(name)', () => of(x, base, model)],
      [
        'a layer of several models',
        'ERR_LILY_ARGUMENT',
        'layer: expected model.layer(name) of a LilyModel or a LoraModel, got an object of type AdaptersLayer',
        () => of(x, base, new LilyAdapters().addAdapter('a', model).layer(names[0])),
      ],
      [
        'parameters of 16 bits',
        'ERR_LILY_DTYPE',
        'layer: expected float32 parameters, since TensorFlow.js has no 16-bit types, got bfloat16',
        () => of(x, base, LoraModel.create({ layers, config: {}, dtype: 'bfloat16' }).layer(names[0])),
      ],
      ['an unknown option', 'ERR_LILY_ARGUMENT', 'rooting', () => of(x, base, layer, { rooting: 'token' })],
      [
        'training 1',
        'ERR_LILY_ARGUMENT',
        'training: expected true or false',
        () => of(x, base, layer, { training: 1 }),
      ],
      ['a mask of another length', 'ERR_LILY_SHAPE', 'mask', () => of(x, base, layer, { mask: tf.ones([3]) })],
      ['a mask of halves', 'ERR_LILY_ARGUMENT', 'mask', () => of(x, base, layer, { mask: tf.fill([TOKENS], 0.5) })],
      [
        'a mask of strings',
        'ERR_LILY_DTYPE',
        'mask: expected',
        () => of(x, base, layer, { mask: tf.tensor1d(new Array<string>(TOKENS).fill('a')) }),
      ],
      [
        'sequences of rank 2',
        'ERR_LILY_ARGUMENT',
        'sequenceOffsets',
        () => of(x, base, layer, { routing: 'sequence' }),
      ],
      [
        'a disposed tensor',
        'ERR_LILY_DISPOSED',
        'x: this tensor is disposed of',
        () => {
          const gone = tf.clone(x)
          gone.dispose()
          of(gone, base, layer)
        },
      ],
      ['a kernel of rank 1', 'ERR_LILY_SHAPE', 'weight: expected [d_in, d_out]', () => frozenLinear(x, tf.ones([8]))],
      [
        'a kernel that the adapter does not fit',
        'ERR_LILY_SHAPE',
        `kernel: expected [${D_IN}, ${D_OUT}], the sizes of layer 'layers.0.proj', got [${D_IN}, 2]`,
        () => adaptedLinear(x, tf.ones([D_IN, 2]), layer),
      ],
      [
        'an x that the kernel does not fit',
        'ERR_LILY_SHAPE',
        `x: expected [..., ${D_IN}] (kernel has d_in ${D_IN})`,
        () => adaptedLinear(base, tf.ones([D_IN, D_OUT]), layer),
      ],
      [
        'another bias of an adapted layer',
        'ERR_LILY_SHAPE',
        `bias: expected [${D_OUT}]`,
        () => adaptedLinear(x, tf.ones([D_IN, D_OUT]), layer, { bias: tf.ones([D_IN]) }),
      ],
      ['another kernel', 'ERR_LILY_SHAPE', 'x: expected [..., 6]', () => frozenLinear(x, tf.ones([D_OUT, D_IN]))],
      [
        'a bias of rank 2',
        'ERR_LILY_SHAPE',
        'bias: expected [',
        () => frozenLinear(x, tf.ones([D_IN, D_OUT]), tf.ones([D_OUT, 1])),
      ],
      [
        'an int32 kernel',
        'ERR_LILY_DTYPE',
        'weight: expected float32',
        () => frozenLinear(x, tf.ones([D_IN, D_OUT], 'int32')),
      ],
      [
        'another bias',
        'ERR_LILY_SHAPE',
        'bias: expected [6]',
        () => frozenLinear(x, tf.ones([D_IN, D_OUT]), tf.ones([D_IN])),
      ],
      ['no function', 'ERR_LILY_ARGUMENT', 'f: expected a function', () => variableGrads(1 as never, model)],
      [
        'a function that is async',
        'ERR_LILY_ARGUMENT',
        'f: expected it to return the loss, a scalar, got an object of type Promise; f cannot be async',
        () => variableGrads((async () => Promise.resolve(lossOf(adapt(x, base, layer)))) as never, model, []),
      ],
      ['no model', 'ERR_LILY_ARGUMENT', 'model: expected a LilyModel', () => variableGrads(() => x, 1 as never)],
      [
        'no list of variables',
        'ERR_LILY_ARGUMENT',
        'variables: expected an array',
        () => variableGrads(() => x, model, 1 as never),
      ],
      [
        'another routing than that of the model, in a call that is recorded',
        'ERR_LILY_ARGUMENT',
        "routing: expected 'batch', the routing of the layer",
        () => variableGrads(() => lossOf(adapt(x, base, layer, { routing: 'token' })), model, []),
      ],
      [
        'a layer of another model',
        'ERR_LILY_ARGUMENT',
        'layer: expected a layer of a model that variableGrads was given',
        () => variableGrads(() => lossOf(adapt(x, base, newModel().layer(names[0]))), model, []),
      ],
    ])('%s', async (_, code, message, call) => {
      const before = base.dataSync().slice()
      await expectRefused(code, message, call)
      expect(base.dataSync()).toEqual(before)
      expect(isZero(model)).toBe(true)
    })

    it('a packed weight that is disposed of', async () => {
      const packed = packLinear(tensor(new Float32Array(D_OUT * D_IN), [D_OUT, D_IN]))
      packed.dispose()
      const message = (name: string) => `${name}: this packed weight is disposed of; use it before`
      await expectRefused('ERR_LILY_DISPOSED', message('weight'), () => frozenLinear(x, packed))
      await expectRefused('ERR_LILY_DISPOSED', message('kernel'), () => adaptedLinear(x, packed, layer))
    })

    it('routing of LoRA', async () => {
      const lora = LoraModel.create({ layers, config: { r: 2, targetModules: ['proj'] } })
      const call = () => adapt(x, base, lora.layer(names[0]), { routing: 'token' })
      const message = "routing: is no option for layer 'layers.0.proj', which is LoRA and has the options "
      await expectRefused('ERR_LILY_ARGUMENT', `${message}precision, training; leave`, call)
      const adapted = () => adaptedLinear(x, normal([D_IN, D_OUT], 3), lora.layer(names[0]), { mask: [1] })
      await expectRefused('ERR_LILY_ARGUMENT', 'has the options precision, training, bias; leave', adapted)
    })
  })

  it('fromTf and toTf copy', async () => {
    const copy = fromTf(x)
    expect({ shape: copy.shape, dtype: copy.dtype }).toEqual({ shape: [TOKENS, D_IN], dtype: 'float32' })
    ;(copy.data as Float32Array).fill(7)
    expect(x.dataSync()).not.toContain(7)
    const back = toTf(copy)
    ;(copy.data as Float32Array).fill(8)
    expect([...back.dataSync()]).toEqual(new Array(TOKENS * D_IN).fill(7))

    expect(fromTf(tf.tensor1d([true, false], 'bool')).data).toEqual(Uint8Array.of(1, 0))
    expect(fromTf(tf.tensor1d([1, -2], 'int32')).data).toEqual(Int32Array.of(1, -2))
    await expectRefused('ERR_LILY_DTYPE', 'source: expected float32 or int32 or bool, got string', () =>
      fromTf(tf.tensor1d(['a'])),
    )
    await expectRefused('ERR_LILY_SHAPE', 'source: expected one dimension or more, got a scalar; reshape it', () =>
      fromTf(tf.scalar(3)),
    )
    const halves = toTf({ data: Uint16Array.of(0x3f80, 0xc000), shape: [2], dtype: 'bfloat16' })
    expect([halves.dtype, ...halves.dataSync()]).toEqual(['float32', 1, -2])
    const flags = toTf(tensor(Uint8Array.of(1, 0), [2]))
    expect([flags.dtype, ...flags.dataSync()]).toEqual(['bool', 1, 0])
    const offsets = toTf(tensor(Int32Array.of(0, -5), [2]))
    expect([offsets.dtype, ...offsets.dataSync()]).toEqual(['int32', 0, -5])
    await expectRefused('ERR_LILY_SHAPE', 'source', () => toTf({ data: new Float32Array(1), shape: [2] }))
    const columns = toTf({ data: Float32Array.of(1, 2, 3, 4, 5, 6), shape: [2, 2], strides: [3, 1] })
    expect(columns.arraySync()).toEqual([
      [1, 2],
      [4, 5],
    ])
  })
})
