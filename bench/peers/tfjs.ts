/**
 * TensorFlow.js on its WebAssembly backend as a peer: the formula of the adapter, composed of its operations. A process
 * that peer-process.ts starts with the argument `--threads N`.
 */
import { parseArgs } from 'node:util'
import * as tf from '@tensorflow/tfjs'
import { setThreadsCount } from '@tensorflow/tfjs-backend-wasm'
import { composedAdapter } from '../methods/composed/tensorflow.js'
import { dtypes } from '../workload/dtypes.js'
import { makeLilyParameters, makeLoraParameters, makeWeight } from '../workload/operands.js'
import { passes } from '../methods/methods.js'
import { adapters, type Hello, layers } from './protocol.js'
import { type Opened, serve } from './serve.js'

const { values: options } = parseArgs({ options: { threads: { type: 'string', default: '1' } } })
setThreadsCount(Number(options.threads))
await tf.setBackend('wasm')

const methods = [...adapters, ...layers]
const hello: Hello = {
  versions: { 'TensorFlow.js': tf.version.tfjs },
  methods: methods.map((name) => ({ name, adapter: name, passes, dtypes: ['float32'] })),
  missing: [],
}

function open(method: string, [tokens, d, rank, experts]: readonly [number, number, number, number]): Opened {
  const place = <T>(tensor: T): T => tensor
  const parametersOf = () => {
    if (method === 'layer') return null
    return method.startsWith('lily')
      ? makeLilyParameters({ tokens, d, rank, experts }, 'float32', place)
      : makeLoraParameters(d, rank, 'float32', place)
  }
  const weight = method.endsWith('layer') ? makeWeight({ d }, dtypes.float32, place) : null
  const { names, forward, gradients, dispose } = composedAdapter(tf, { tokens, d }, parametersOf(), weight)
  return {
    run: (pass) => {
      tf.tidy(() => {
        if (pass === 'forward') forward()
        else gradients()
      })
    },
    outputs: () => {
      const { value, grads } = gradients()
      const all = { y: value, ...Object.fromEntries(grads.map((grad, i) => [names[i], grad])) }
      return Promise.resolve(Object.fromEntries(Object.entries(all).map(([name, tensor]) => [name, tensor.dataSync()])))
    },
    close: dispose,
  }
}

await serve(hello, open)
