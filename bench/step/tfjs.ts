/**
 * TensorFlow.js as a contender, with this package or alone. A process that main.ts starts with the arguments `--with
 * lily-kernels` or `--with tfjs`, and `--threads N`.
 */
import { parseArgs } from 'node:util'
import * as tf from '@tensorflow/tfjs'
import { setThreadsCount } from '@tensorflow/tfjs-backend-wasm'
import { Clock } from '../../examples/finetune/clock.js'
import { Encoder } from '../../examples/finetune/encoder.js'
import { accelerate } from '../../lib/tfjs/index.js'
import { answerRequests } from '../peers/serve.js'
import { embedBlocks, type Operations } from './encoder.js'
import { EMBEDDING_SCALE, initialValues, type Problem } from './problem.js'
import { type Part, parts, type Reply, type Request } from './protocol.js'
import { ourTrainer, tensorFlowTrainer } from './trainers.js'

const { values: options } = parseArgs({ options: { with: { type: 'string' }, threads: { type: 'string' } } })
setThreadsCount(Number(options.threads))
await tf.setBackend('wasm')
const isOurs = options.with === 'lily-kernels'
if (isOurs) accelerate()

/** Steps of one problem. */
interface Training {
  /** One step on the next batch. Returns the loss before it. */
  step(clock?: Clock<Part>): number
  dispose(): void
}

function openTraining(problem: Problem): Training {
  // For all tensors but variables, which the trainer owns.
  tf.engine().startScope()
  const frozen = new Map(
    Object.entries(problem.frozen).map(([name, initial]) => [
      name,
      tf.tensor(initialValues(initial), [...initial.shape]),
    ]),
  )
  const encoder = problem.encoder === 'finetune' ? new Encoder(frozen) : null
  const trainer = isOurs ? ourTrainer(problem) : tensorFlowTrainer(problem)
  const [weight, bias] = ['weight', 'bias'].map((name) => trainer.head.get(name))
  const batches = problem.batches.map(({ tokens, lengths, labels }) => ({
    tokens: tf.tensor2d(tokens as number[][], undefined, 'int32'),
    mask: tf.tensor2d(tokens.map((sentence, i) => sentence.map((_, j) => (j < lengths[i] ? 1 : 0)))),
    labels: tf.tensor1d(labels as number[], 'int32'),
  }))

  const lossOf = ({ tokens, mask, labels }: (typeof batches)[number], clock: Clock<Part> | undefined): tf.Scalar => {
    const operations = trainer.operations(encoder === null ? undefined : mask)
    const measured = clock === undefined ? operations : withClock(operations, clock)
    if (encoder === null) {
      const logits = tf.matMul(embedBlocks(frozen, problem, tokens, measured), weight as tf.Tensor2D)
      return tf.losses.softmaxCrossEntropy(tf.oneHot(labels, 2), logits)
    }
    const embedding = tf.mul(encoder.embed(tokens, mask, measured), EMBEDDING_SCALE)
    const logits = tf.reshape(tf.add(tf.matMul(embedding, weight as tf.Tensor2D), bias!), [-1])
    return tf.losses.sigmoidCrossEntropy(tf.cast(labels, 'float32'), logits)
  }

  let made = 0
  return {
    step: (clock) =>
      tf.tidy(() => {
        clock?.begin('framework')
        const { value, grads } = trainer.gradients(() => lossOf(batches[made % batches.length], clock))
        clock?.begin('optimiser')
        trainer.apply(grads)
        clock?.begin(null)
        made++
        return value.dataSync()[0]
      }),
    dispose: () => {
      trainer.dispose()
      tf.engine().endScope()
    },
  }
}

const withClock = ({ linear, attention }: Operations, clock: Clock<Part>): Operations => ({
  linear: (x, ...others) => clock.measure(['layers', 'layers'], (input: tf.Tensor) => linear(input, ...others), x),
  attention: (q, k, v, heads) =>
    clock.measure(
      ['attention', 'attention'],
      (...inputs: tf.Tensor3D[]) => attention(inputs[0], inputs[1], inputs[2], heads),
      q,
      k,
      v,
    ),
})

/** Runs f; the kernels that run in it outside of other parts become the part `kernels`. */
function withKernels(clock: Clock<Part>, f: () => void): void {
  const registered = tf.getKernelsForBackend('wasm')
  const replace = (kernel: tf.KernelConfig) => {
    tf.unregisterKernel(kernel.kernelName, kernel.backendName)
    tf.registerKernel(kernel)
  }
  for (const kernel of registered) {
    replace({
      ...kernel,
      kernelFunc: (call) => {
        if (clock.part !== 'framework') return kernel.kernelFunc(call)
        clock.begin('kernels')
        const result = kernel.kernelFunc(call)
        clock.begin('framework')
        return result
      },
    })
  }
  try {
    f()
  } finally {
    registered.forEach(replace)
  }
}

let opened: { readonly problem: Problem; readonly training: Training } | undefined

function answer(request: Request): Reply {
  if (request.request === 'open') {
    opened?.training.dispose()
    opened = undefined
    opened = { problem: request.problem, training: openTraining(request.problem) }
    return {}
  }
  if (opened === undefined) throw new Error('nothing is open')
  const { problem, training } = opened
  if (request.request === 'losses') return { losses: Array.from({ length: request.steps }, () => training.step()) }
  const [each, steps] = [problem.batches.length, request.rounds * problem.batches.length]
  const make = (count: number, clock?: Clock<Part>) => {
    for (let step = 0; step < count; step++) training.step(clock)
  }
  make(request.warmup * each)
  if (request.request === 'sample') {
    const begin = performance.now()
    make(steps)
    return { seconds: (performance.now() - begin) / 1e3 / steps }
  }
  const clock = new Clock(parts, 'framework')
  withKernels(clock, () => make(steps, clock))
  const measured = parts.map((part) => [part, clock.seconds[part] / steps])
  return { parts: Object.fromEntries(measured) as Record<Part, number> }
}

await answerRequests({ versions: { 'TensorFlow.js': tf.version.tfjs }, methods: [], missing: [] }, (request) =>
  Promise.resolve(answer(request as Request)),
)
