/** A step in TensorFlow.js: with the operations and the optimiser of this package, or of TensorFlow.js alone. */
import * as tf from '@tensorflow/tfjs'
import { adaptedLinear, AdapterOptimizer, attention, frozenLinear } from '../../lib/tfjs/index.js'
import type { Operations } from './encoder.js'
import { createModel, initialValues, MAX_NORM, type Problem, type Tensors, WEIGHT_DECAY } from './problem.js'

export interface Trainer {
  /** @param mask [sentences, length] of the batch; undefined if it has no padding */
  readonly operations: (mask: tf.Tensor2D | undefined) => Operations
  /** Trained with the adapters, by name. */
  readonly head: ReadonlyMap<string, tf.Variable>
  readonly gradients: (loss: () => tf.Scalar) => { readonly value: tf.Scalar; readonly grads: tf.NamedTensorMap }
  /** Updates the adapters and the head. */
  readonly apply: (gradients: tf.NamedTensorMap) => void
  readonly dispose: () => void
}

const variablesOf = (tensors: Tensors, prefix: string): Map<string, tf.Variable> =>
  new Map(
    Object.entries(tensors).map(([name, initial]) => {
      const value = tf.tensor(initialValues(initial), [...initial.shape])
      return [name, tf.variable(value, true, `${prefix}.${name}`)]
    }),
  )

/** With this package, as examples/finetune does it. */
export function ourTrainer(problem: Problem): Trainer {
  const model = createModel(problem.adapter, problem)
  for (const [name, { value }] of model.parameters()) {
    ;(value.data as Float32Array).set(initialValues(problem.parameters[name]))
  }
  const head = variablesOf(problem.head, 'head')
  const variables = [...head.values()]
  const optimiser = new AdapterOptimizer(model, {
    variables,
    lr: problem.rate,
    weightDecay: WEIGHT_DECAY,
    maxNorm: MAX_NORM,
    groups: [{ match: variables.map(({ name }) => name), lr: problem.headRate }],
  })
  return {
    head,
    operations: (mask) => {
      const options = problem.adapter === 'lily' && mask !== undefined ? { mask } : {}
      return {
        linear: (x, weight, bias, name) =>
          name === undefined
            ? frozenLinear(x, weight, bias)
            : adaptedLinear(x, weight, model.layer(name), { bias, ...options }),
        attention,
      }
    },
    gradients: (loss) => optimiser.computeGradients(loss),
    apply: (gradients) => optimiser.applyGradients(gradients),
    dispose: () => {
      optimiser.dispose()
      model.dispose()
      tf.dispose(variables)
    },
  }
}

/** With TensorFlow.js alone: PEFT's formulas, and AdamW (arXiv 1711.05101) with the gradients clipped by their norm. */
export function tensorFlowTrainer(problem: Problem): Trainer {
  const parameters = variablesOf(problem.parameters, 'adapter')
  const head = variablesOf(problem.head, 'head')
  const groups = [
    { variables: [...parameters.values()], rate: problem.rate },
    { variables: [...head.values()], rate: problem.headRate },
  ].map((group) => ({ ...group, adam: tf.train.adam(group.rate, 0.9, 0.999, 1e-8) }))
  const variables = groups.flatMap((group) => group.variables)

  return {
    head,
    operations: (mask) => ({
      linear: (x, weight, bias, name) => {
        // A product of matrices is faster than one for each sentence.
        const matrix = tf.reshape(x, [-1, weight.shape[0]])
        const product = tf.matMul(matrix, weight)
        const base = bias === undefined ? product : tf.add(product, bias)
        const y = name === undefined ? base : tf.add(base, adapted(matrix, x.shape, name, mask))
        return tf.reshape(y, [...x.shape.slice(0, -1), weight.shape[1]])
      },
      attention: attentionOf,
    }),
    gradients: (loss) => tf.variableGrads(loss, variables),
    apply: (gradients) => {
      const squares = Object.values(gradients).map((gradient) => tf.sum(tf.square(gradient)))
      const factor = tf.minimum(1, tf.div(MAX_NORM, tf.add(tf.sqrt(tf.addN(squares)), 1e-6)))
      for (const { variables: group, rate, adam } of groups) {
        for (const variable of group) variable.assign(tf.mul(variable, 1 - rate * WEIGHT_DECAY))
        adam.applyGradients(group.map(({ name }) => ({ name, tensor: tf.mul(gradients[name], factor) })))
      }
    },
    dispose: () => {
      for (const { adam } of groups) adam.dispose()
      tf.dispose(variables)
    },
  }

  /** The output of an adapter, [tokens, d_out], for x [tokens, d_in], the tokens of sentences of the given shape. */
  function adapted(x: tf.Tensor, shape: readonly number[], layer: string, mask: tf.Tensor2D | undefined): tf.Tensor {
    const { bySentence, experts, scaling, layers } = problem
    const names = layers[layer]
    const [a, b] = [names.a, names.b].map((name) => parameters.get(name)!)
    const scaled = (y: tf.Tensor) => (scaling === 1 ? y : tf.mul(y, scaling))
    const hidden = tf.matMul(x, a, false, true)
    if (names.router === null) return scaled(tf.matMul(hidden, b, false, true))
    const [rank, width] = [hidden.shape[1]!, b.shape[1]!]
    const probabilities = tf.softmax(tf.matMul(hidden, parameters.get(names.router)!, false, true))
    const stack = tf.reshape(b, [experts, rank * width])
    if (!bySentence) {
      const weights = tf.mean(probabilities, 0, true)
      return scaled(tf.matMul(hidden, tf.reshape(tf.matMul(weights, stack), [rank, width])))
    }
    const [sentences, length] = shape
    const masked = tf.mul(tf.reshape(probabilities, [sentences, length, experts]), tf.expandDims(mask!, 2))
    const weights = tf.div<tf.Tensor2D>(tf.sum(masked, 1), tf.sum(mask!, 1, true))
    const combined = tf.reshape(tf.matMul(weights, stack), [sentences, rank, width])
    const y = tf.matMul(tf.reshape(hidden, [sentences, length, rank]), combined)
    return scaled(tf.reshape(y, [-1, width]))
  }
}

/** Added to the scores of padding, whose weights then are zero. */
const MASKED = -1e9

const attentionOf: Operations['attention'] = (q, k, v, { heads, mask }) => {
  const [sentences, length, width] = q.shape
  const cut = (x: tf.Tensor) => tf.transpose(tf.reshape(x, [sentences, length, heads, width / heads]), [0, 2, 1, 3])
  const products = tf.mul(tf.matMul(cut(q), cut(k), false, true), 1 / Math.sqrt(width / heads))
  const scores =
    mask === undefined
      ? products
      : tf.add(products, tf.reshape(tf.mul(tf.sub(1, mask), MASKED), [sentences, 1, 1, length]))
  return tf.reshape(tf.transpose(tf.matMul(tf.softmax(scores), cut(v)), [0, 2, 1, 3]), [sentences, length, width])
}
