/** Attention beside the same formulas in operations of TensorFlow.js: values, gradients, memory. */
import * as tf from '@tensorflow/tfjs'
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { attention, type AttentionOptions } from '../../lib/tfjs/index.js'
import { relativeError } from '../support/compare.js'
import { expectRefused } from '../refusals/refused.js'
import { BACKENDS, normal, TOLERANCE } from '../support/tfjs.js'

const [BATCH, TOKENS, KEYS, HEADS, D] = [2, 5, 7, 3, 12]
const FLAGS = [1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 0]

/** Float32 in other orders, and one more factor in the gradients, whose terms cancel. */
const expectEqual = (name: string, actual: tf.Tensor, expected: tf.Tensor) => {
  expect(actual.shape, name).toEqual(expected.shape)
  expect(relativeError(actual.dataSync(), expected.dataSync()), name).toBeLessThanOrEqual(TOLERANCE)
}

/** Every query sees a key. */
function composed(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, { causal, scale, mask }: AttentionOptions): tf.Tensor {
  const [tokens, keys, d] = [q.shape[1]!, k.shape[1]!, q.shape[2]!]
  const split = (t: tf.Tensor) =>
    tf.transpose<tf.Tensor4D>(tf.reshape(t, [BATCH, t.shape[1]!, HEADS, d / HEADS]), [0, 2, 1, 3])
  const scores = tf.mul(tf.matMul(split(q), split(k), false, true), scale ?? 1 / Math.sqrt(d / HEADS))
  const hidden = Array.from({ length: BATCH * tokens * keys }, (_, i) => {
    const [item, query, key] = [Math.floor(i / (tokens * keys)), Math.floor(i / keys) % tokens, i % keys]
    const isSeen =
      (mask === undefined || FLAGS[item * keys + key] === 1) && !(causal === true && key > query + keys - tokens)
    return isSeen ? 0 : -1e9
  })
  const p = tf.softmax(tf.add(scores, tf.tensor(hidden, [BATCH, 1, tokens, keys])))
  return tf.reshape(tf.transpose(tf.matMul(p, split(v)), [0, 2, 1, 3]), q.shape)
}

afterEach(() => {
  vi.restoreAllMocks()
  tf.disposeVariables()
})

describe.each(BACKENDS)('on the %s backend', (name) => {
  beforeAll(async () => {
    await tf.setBackend(name)
  })
  const made = () => [normal([BATCH, TOKENS, D], 1), normal([BATCH, KEYS, D], 2), normal([BATCH, KEYS, D], 3)] as const

  it.each<[string, () => Omit<AttentionOptions, 'heads'>]>([
    ['no options', () => ({})],
    ['causal', () => ({ causal: true })],
    ['a scale', () => ({ scale: 0.7 })],
    ['a mask of bool', () => ({ mask: tf.tensor(FLAGS, [BATCH, KEYS], 'bool') })],
    ['a mask of float32, causal', () => ({ mask: tf.tensor(FLAGS, [BATCH, KEYS]), causal: true })],
  ])('values and gradients with %s', (_, options) => {
    const inputs = made()
    const dy = normal([BATCH, TOKENS, D], 4)
    const given = { heads: HEADS, ...options() }
    expectEqual('y', attention(...inputs, given), composed(...inputs, given))
    const grads = (of: typeof attention) =>
      tf.grads((q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) => of(q, k, v, given))([...inputs], dy)
    const [actual, expected] = [grads(attention), grads(composed)]
    for (const [i, gradient] of actual.entries()) expectEqual(['dq', 'dk', 'dv'][i], gradient, expected[i])
  })

  it('differentiates in some of its inputs, and in one that is all three', () => {
    const [q, k, v] = made()
    const options = { heads: HEADS, causal: true }
    const ofK = (of: typeof attention) => tf.grad((x: tf.Tensor) => tf.sum(tf.square(of(q, tf.tanh(x), v, options))))(k)
    expectEqual('dk', ofK(attention), ofK(composed))
    const ofAll = (of: typeof attention) => tf.grad((x: tf.Tensor) => tf.sum(tf.square(of(x, x, x, options))))(k)
    expectEqual('dx', ofAll(attention), ofAll(composed))
  })

  it('leaves no tensors behind, whether backward reaches it or not, and copies none', () => {
    const [q, k, v] = made().map((tensor) => tf.variable(tensor))
    const options = { heads: HEADS }
    const { numTensors, numBytes } = tf.memory()
    attention(q, k, v, options).dispose()
    tf.tidy(() => {
      const loss = () => tf.sum<tf.Scalar>(attention(tf.tanh(q), k, v, options))
      expect(Object.keys(tf.variableGrads(loss, [q]).grads)).toEqual([q.name])
      // Neither the loss nor a variable that is trained depends on these.
      tf.variableGrads(() => (attention(q, k, v, options), tf.sum<tf.Scalar>(q)), [q])
      tf.variableGrads(() => tf.add(tf.sum<tf.Scalar>(attention(q, k, k, options)), tf.sum(v)), [v])
    })
    expect(tf.memory()).toMatchObject({ numTensors, numBytes })
    const identity = vi.spyOn(tf.getKernel('Identity', name), 'kernelFunc')
    const dy = normal([BATCH, TOKENS, D], 4)
    const f = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) => attention(q, k, v, options)
    tf.dispose(tf.grads(f)([q, k, v], dy))
    expect(identity).not.toHaveBeenCalled()
  })

  it('refuses a gradient of a gradient, and what is wrong', async () => {
    const [q, k, v] = made()
    const first = (x: tf.Tensor) => tf.grad((x: tf.Tensor) => attention(x, k, v, { heads: HEADS }))(x)
    await expectRefused('ERR_LILY_ARGUMENT', 'a gradient of a gradient', () => tf.grad(first)(q))
    // After the error above: TensorFlow.js keeps a tape whose backward throws, with what it has saved.
    const before = tf.memory().numTensors
    for (const [code, text, call] of [
      ['ERR_LILY_ARGUMENT', 'q: expected a tensor of TensorFlow.js', () => attention(1 as never, k, v, { heads: 1 })],
      ['ERR_LILY_DTYPE', 'v: expected float32', () => attention(q, k, tf.zeros(v.shape, 'int32'), { heads: 1 })],
      ['ERR_LILY_SHAPE', 'k: expected [2, keys, 12]', () => attention(q, tf.zeros([3, KEYS, D]), v, { heads: 1 })],
      ['ERR_LILY_ARGUMENT', 'heads: expected a number that divides', () => attention(q, k, v, { heads: 5 })],
      ['ERR_LILY_SHAPE', 'mask: expected one flag per key', () => attention(q, k, v, { heads: 1, mask: tf.ones([5]) })],
      ['ERR_LILY_ARGUMENT', 'save: is not a property', () => attention(q, k, v, { heads: 1, save: true } as never)],
      ['ERR_LILY_ARGUMENT', 'options', () => attention(q, k, v, undefined as never)],
    ] as const) {
      await expectRefused(code, text, () => tf.tidy(call))
    }
    expect(tf.memory().numTensors).toBe(before)
  })
})

it('the heap of the wasm backend may grow between forward and backward', async () => {
  await tf.setBackend('wasm')
  const { wasm } = tf.backend() as unknown as { wasm: { readonly HEAPU8: Uint8Array } }
  const [q, k, v] = [normal([1, TOKENS, D], 1), normal([1, KEYS, D], 2), normal([1, KEYS, D], 3)]
  const run = (between: () => void) =>
    tf
      .grad((x: tf.Tensor) => {
        const y = attention(tf.tanh(x), k, v, { heads: HEADS })
        between()
        return tf.square(y)
      })(q)
      .dataSync()
      .slice()
  const expected = run(() => undefined)
  const grown = run(() => {
    const { buffer } = wasm.HEAPU8
    tf.tidy(() => {
      while (wasm.HEAPU8.buffer === buffer) tf.fill([2 ** 22], 1)
    })
  })
  expect(grown).toEqual(expected)
})
