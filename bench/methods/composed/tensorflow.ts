/** The adapters as formulas that are composed of TensorFlow.js operations, with its automatic differentiation. */
import type * as TensorFlowJs from '@tensorflow/tfjs'
import type { Tensor } from '../../../lib/index.js'
import type { LilyParameters, LoraParameters } from '../../workload/operands.js'
import type { Shape } from '../../workload/shapes.js'
import { filled, zeros } from '../../workload/operands.js'
import type { Calls } from '../methods.js'

type Tf = typeof TensorFlowJs

/** TensorFlow.js on a GPUDevice. */
export interface TensorFlow {
  readonly tf: Tf
  readonly device: GPUDevice
  /** Submits what operations have encoded. */
  readonly submit: () => void
}

type TfTensor = TensorFlowJs.Tensor

/** y + h (sum_e w_e B_e), h = x a^T, w the mean over the tokens of softmax(h R^T). */
function lily(tf: Tf, y: TfTensor, x: TfTensor, a: TfTensor, router: TfTensor, b: TfTensor): TfTensor {
  const [experts, rank, d] = b.shape as [number, number, number]
  const hidden = tf.matMul(x, a, false, true)
  const weights = tf.mean(tf.softmax(tf.matMul(hidden, router, false, true)), 0, true)
  const combined = tf.reshape(tf.matMul(weights, tf.reshape(b, [experts, rank * d])), [rank, d])
  return tf.add(y, tf.matMul(hidden, combined))
}

/** y + (x a^T) b^T. */
function lora(tf: Tf, y: TfTensor, x: TfTensor, a: TfTensor, b: TfTensor): TfTensor {
  return tf.add(y, tf.matMul(tf.matMul(x, a, false, true), b, false, true))
}

/** An adapter with batch routing, in float32, and the names of its gradients. */
export interface ComposedAdapter {
  readonly names: readonly string[]
  readonly forward: () => TfTensor
  readonly gradients: () => { value: TfTensor; grads: TfTensor[] }
  readonly dispose: () => void
}

/**
 * @param parameters with a router for Lily; null: the frozen layer alone
 * @param weight of the frozen layer, to whose output the adapter is added; null: to an output that is given
 */
export function composedAdapter(
  tf: Tf,
  { tokens, d }: Pick<Shape, 'tokens' | 'd'>,
  parameters: LilyParameters | LoraParameters | null,
  weight: Tensor | null = null,
): ComposedAdapter {
  const toTf = ({ data, shape }: Tensor): TfTensor => tf.tensor(Float32Array.from(data), shape)
  const [x, y, dy] = [filled([tokens, d], 1), zeros([tokens, d]), filled([tokens, d], 0.1)].map(toTf) as [
    ...[TfTensor, TfTensor, TfTensor],
  ]
  const frozen = weight === null ? null : toTf(weight)
  const isLily = parameters !== null && 'router' in parameters
  const given = parameters === null ? [] : [parameters.a, ...(isLily ? [parameters.router] : []), parameters.b]
  const operands = [x, ...given.map(toTf)]
  const formula = (...values: TfTensor[]): TfTensor => {
    const [x, a, third, b] = values as [TfTensor, TfTensor, TfTensor, TfTensor]
    const base = frozen === null ? y : tf.matMul(x, frozen, false, true)
    if (parameters === null) return base
    return isLily ? lily(tf, base, x, a, third, b) : lora(tf, base, x, a, third)
  }
  return {
    names: ['dx', ...(parameters === null ? [] : isLily ? ['da', 'dRouter', 'db'] : ['da', 'db'])],
    forward: () => formula(...operands),
    gradients: () => tf.valueAndGrads(formula)(operands, dy),
    dispose: () => {
      for (const tensor of [y, dy, ...operands, ...(frozen === null ? [] : [frozen])]) tensor.dispose()
    },
  }
}

/** The calls of such an adapter, whose results are dropped. */
export function tensorFlowCalls({ tf, submit }: TensorFlow, { forward, gradients }: ComposedAdapter): Calls {
  const dropped = (run: () => unknown) => () => {
    tf.tidy(() => {
      run()
    })
    submit()
  }
  return { forward: dropped(forward), 'forward+backward': dropped(gradients) }
}
