/** A program of a user, with results computed by hand. */

export const MODULES = {
  ESM: { file: 'consumer.mjs', load: "import { lilyBackward, lilyForward, tensor } from 'lily-kernels'" },
  CJS: { file: 'consumer.cjs', load: "const { lilyBackward, lilyForward, tensor } = require('lily-kernels')" },
}

// Two tokens, d_in = d_out = 2, r = 1, E = 2. The router is zero, so both weights are 1/2; all results are exact.
const results = `
const { x, a, router, b } = {
  x: tensor(new Float32Array([1, 2, 3, 4]), [2, 2]),
  a: tensor(new Float32Array([1, 1]), [1, 2]),
  router: tensor(new Float32Array(2), [2, 1]),
  b: tensor(new Float32Array([1, 0, 0, 2]), [2, 1, 2]),
}
const { y, saved } = lilyForward({ x, a, router, b }, { scaling: 2 })
const dy = tensor(new Float32Array([1, 1, 1, 1]), [2, 2])
const gradients = lilyBackward({ dy }, saved)
const named = Object.entries({ y, hidden: saved.hidden, ...gradients })
const results = JSON.stringify(Object.fromEntries(named.map(([name, value]) => [name, [...value.data]])))
`

export const expected = {
  hidden: [3, 7], // x a^T
  y: [3, 6, 7, 14], // 2 hidden [1/2, 1]
  dx: [3, 3, 3, 3], // d_hidden a, d_hidden = 2 dy [1/2, 1]^T
  da: [12, 18], // d_hidden^T x
  dRouter: [-25, 25], // d_weights = <b_e, [20, 20]> = 20, 40; d_logits = 1/2 (d_weights / 2 - 15) = -+2.5
  db: [10, 10, 10, 10], // 1/2 * 2 hidden^T dy
}

/** Prints the results. */
export function consumer(format: keyof typeof MODULES): string {
  return `${MODULES[format].load}\n${results}\nconsole.log(results)\n`
}

/** Loads the adapter and its operation from either module system. */
const LOAD_TFJS = {
  ESM: (name: string, from: string) => `const ${name} = await import('${from}')`,
  CJS: (name: string, from: string) => `const ${name} = createRequire(import.meta.url)('${from}')`,
}

/** Prints the results of the same call through TensorFlow.js. The two entries may be of different module systems. */
export function tfjsConsumer(ofMain: keyof typeof MODULES, ofTfjs: keyof typeof MODULES): string {
  return `
import { createRequire } from 'node:module'
import * as tf from '@tensorflow/tfjs'
${LOAD_TFJS[ofMain]('main', 'lily-kernels')}
${LOAD_TFJS[ofTfjs]('tfjs', 'lily-kernels/tfjs')}
${LOAD_TFJS[ofTfjs]('layers', 'lily-kernels/tfjs-layers')}
await tf.setBackend('cpu')
const shapes = [{ name: 'proj', inFeatures: 2, outFeatures: 2 }]
const model = main.LilyModel.create({ layers: shapes, config: { r: 1, numB: 2, scaling: 2 } })
const { a, router, b } = model.layer('proj')
a.value.data.set([1, 1])
router.value.data.set([0, 0])
b.value.data.set([1, 0, 0, 2])
const x = tf.variable(tf.tensor2d([1, 2, 3, 4], [2, 2]))
let y
const loss = () => {
  const output = tfjs.adapt(x, tf.zeros([2, 2]), model.layer('proj'))
  y = output.dataSync()
  return tf.sum(output)
}
const { grads } = tfjs.variableGrads(loss, model, [x])
if (typeof layers.AdaptedDense !== 'function') throw new Error('there is no AdaptedDense')
const named = { y, dx: grads[x.name].dataSync(), da: a.grad.data, dRouter: router.grad.data, db: b.grad.data }
console.log(JSON.stringify(Object.fromEntries(Object.entries(named).map(([name, values]) => [name, [...values]]))))
`
}

/** Prints a list of the results of the main thread and of four concurrent workers. */
export const workersConsumer = `
import { Worker, isMainThread, parentPort } from 'node:worker_threads'
${MODULES.ESM.load}
${results}
if (isMainThread) {
  const workers = Array.from({ length: 4 }, () => new Worker(new URL(import.meta.url)))
  const answers = workers.map((worker) => new Promise((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  }))
  const all = await Promise.all(answers)
  await Promise.all(workers.map((worker) => worker.terminate()))
  console.log(\`[\${[results, ...all].join()}]\`)
} else {
  parentPort.postMessage(results)
}
`

/** Prints the results of the async functions. */
export const asyncConsumer = `
import { lilyBackwardAsync, lilyForwardAsync, tensor } from 'lily-kernels'
${results.replaceAll('lilyForward(', 'await lilyForwardAsync(').replaceAll('lilyBackward(', 'await lilyBackwardAsync(')}
console.log(results)
`

/** Prints the results for float16 operands, or null if the runtime has no Float16Array. */
export const float16Consumer = `
${MODULES.ESM.load}
if (typeof Float16Array === 'undefined') {
  console.log(null)
} else {
  const numbers = ({ data }) => (data instanceof Uint16Array ? new Float16Array(data.buffer, data.byteOffset, data.length) : data)
  ${results.replaceAll('Float32Array', 'Float16Array').replace('[...value.data]', '[...numbers(value)]')}
  console.log(results)
}
`

/** Prints the numbers of a Float16Array that another addon takes as DLPack, or null if the runtime has no Float16Array. */
export const float16ExchangeConsumer = `
import { fromDLPack, toDLPack } from 'lily-kernels'
if (typeof Float16Array === 'undefined') {
  console.log(null)
} else {
  const data = new Float16Array([0, 1, 2, 3]).subarray(1)
  const { dtype, shape, data: taken } = fromDLPack(toDLPack({ data, shape: [3] }))
  console.log(JSON.stringify({ dtype, shape, numbers: [...new Float16Array(taken.buffer, taken.byteOffset, taken.length)] }))
}
`

/**
 * Prints the results of suites.mjs, which is beside it, and the backend that they ran on.
 *
 * @param isa value of LILY_CPU_ISA; null: it is not set
 */
export const suitesConsumer = (isa: string | null) => `
${isa === null ? '' : `process.env.LILY_CPU_ISA = '${isa}'`}
const { outcomes } = await import('./suites.mjs')
const { backends } = await import('lily-kernels')
const results = await outcomes()
const [{ reason, devices }] = backends()
console.log(JSON.stringify({ reason, simd: devices[0].simd, results }))
`
