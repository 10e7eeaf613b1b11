/**
 * TensorFlow.js on its WebAssembly backend as a peer: the formula of the adapter, composed of its operations. A process
 * that peer-process.ts starts with the argument `--threads N`.
 */
import { parseArgs } from 'node:util'
import * as tf from '@tensorflow/tfjs'
import { setThreadsCount } from '@tensorflow/tfjs-backend-wasm'
import type { Tensor } from '../../lib/index.js'
import { filled, makeLilyParameters, makeLoraParameters, zeros } from '../workload/operands.js'
import { passes } from '../methods/methods.js'
import type { Hello } from './protocol.js'
import { type Opened, serve } from './serve.js'

const { values: options } = parseArgs({ options: { threads: { type: 'string', default: '1' } } })
setThreadsCount(Number(options.threads))
await tf.setBackend('wasm')

const methods = ['lily', 'lora'] as const
const hello: Hello = {
  versions: { 'TensorFlow.js': tf.version.tfjs },
  methods: methods.map((name) => ({ name, adapter: name, passes, dtypes: ['float32'] })),
  missing: [],
}

const toTf = ({ data, shape }: Tensor): tf.Tensor => tf.tensor(Float32Array.from(data), shape)

/** y + h (sum_e w_e B_e), h = x a^T, w the mean over the tokens of softmax(h R^T). */
function lily(y: tf.Tensor, x: tf.Tensor, a: tf.Tensor, router: tf.Tensor, b: tf.Tensor): tf.Tensor {
  const [experts, rank, d] = b.shape as [number, number, number]
  const hidden = tf.matMul(x, a, false, true)
  const weights = tf.mean(tf.softmax(tf.matMul(hidden, router, false, true)), 0, true)
  const combined = tf.reshape(tf.matMul(weights, tf.reshape(b, [experts, rank * d])), [rank, d])
  return tf.add(y, tf.matMul(hidden, combined))
}

/** y + (x a^T) b^T. */
function lora(y: tf.Tensor, x: tf.Tensor, a: tf.Tensor, b: tf.Tensor): tf.Tensor {
  return tf.add(y, tf.matMul(tf.matMul(x, a, false, true), b, false, true))
}

function open(method: string, [tokens, d, rank, experts]: readonly [number, number, number, number]): Opened {
  const place = <T>(tensor: T): T => tensor
  const ofLily = makeLilyParameters({ tokens, d, rank, experts }, 'float32', place)
  const ofLora = makeLoraParameters(d, rank, 'float32', place)
  const [x, y, dy] = [filled([tokens, d], 1), zeros([tokens, d]), filled([tokens, d], 0.1)].map(toTf) as [
    tf.Tensor,
    tf.Tensor,
    tf.Tensor,
  ]
  const isLily = method === 'lily'
  const { a, router, b } = ofLily
  const operands = [x, ...(isLily ? [a, router, b] : [ofLora.a, ofLora.b]).map(toTf)]
  const names = isLily ? ['dx', 'da', 'dRouter', 'db'] : ['dx', 'da', 'db']
  const formula = (...values: tf.Tensor[]): tf.Tensor => {
    const [x, a, third, b] = values as [tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]
    return isLily ? lily(y, x, a, third, b) : lora(y, x, a, third)
  }
  const gradients = () => tf.valueAndGrads(formula)(operands, dy)
  return {
    run: (pass) => {
      tf.tidy(() => {
        if (pass === 'forward') formula(...operands)
        else gradients()
      })
    },
    outputs: () => {
      const { value, grads } = gradients()
      const all = { y: value, ...Object.fromEntries(grads.map((grad, i) => [names[i], grad])) }
      return Promise.resolve(Object.fromEntries(Object.entries(all).map(([name, tensor]) => [name, tensor.dataSync()])))
    },
    close: () => {
      for (const tensor of [y, dy, ...operands]) tensor.dispose()
    },
  }
}

await serve(hello, open)
