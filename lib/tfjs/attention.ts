/** Scaled dot-product attention as an operation of TensorFlow.js. */
import { engine, getBackend, keep, type Tensor } from '@tensorflow/tfjs-core'
import { fail } from '../base/errors.js'
import { type Known, readProperties } from '../base/options.js'
import {
  attentionBackward,
  attentionForward,
  type AttentionForwardOptions,
  type AttentionSaved,
} from '../operations/attention.js'
import type { MaskLike } from '../operations/small-operands.js'
import { tfGpu } from './gpu-memory.js'
import {
  checkFloat32,
  checkTensor,
  computeTensor,
  computeTensors,
  hostPlace,
  isTensor,
  newTensor,
  share,
} from './memory.js'
import { refuseNested, runOperation } from './operation.js'

/** Options of {@link attention}. */
export interface AttentionOptions extends Omit<AttentionForwardOptions, 'save'> {
  /**
   * `[batch, keys]`: no query sees a key with 0. A tensor of type bool, int32 or float32, or another form that
   * `attentionForward` accepts. Default: all keys count.
   */
  readonly mask?: Tensor | MaskLike | undefined
}

const OPTIONS: Known = new Set<keyof AttentionOptions>(['heads', 'causal', 'scale', 'mask'])

/**
 * Scaled dot-product attention: softmax(scale q k^T) v for each item of the batch and each head. It is differentiable in q,
 * k and v, and one call computes the three gradients. A head is d / heads columns of q, k and v, as dense layers leave them:
 * nothing is transposed, and no scores are kept for backward. On the webgpu backend use tf.matMul and tf.softmax.
 *
 * @param q [batch, tokens, d], float32
 * @param k [batch, keys, d], float32
 * @param v [batch, keys, d], float32
 * @returns a new tensor of the shape of q
 * @throws LilyError as {@link attentionForward}; ERR_LILY_DEVICE on the webgpu backend; ERR_LILY_ARGUMENT for a gradient of
 *   a gradient
 * @example
 * const context = attention(q, k, v, { heads: 4, mask })
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor {
  checkFloat32('q', q)
  checkFloat32('k', k)
  checkFloat32('v', v)
  const settings = readProperties('options', options, OPTIONS, ({ heads, causal, scale, mask }) => {
    if (isTensor(mask)) checkTensor('mask', mask, ['float32', 'int32', 'bool'])
    return { options: { heads, causal, scale } as AttentionForwardOptions, mask }
  })
  if (tfGpu() !== null) {
    fail(
      'ERR_LILY_DEVICE',
      'q',
      `attention computes in host memory, and TensorFlow.js on its backend '${getBackend()}'; use tf.matMul and ` +
        "tf.softmax there, or tf.setBackend('wasm')",
    )
  }
  const mask = isTensor(settings.mask) ? hostPlace.small('mask', settings.mask).operand : settings.mask
  const isRecorded = engine().isTapeOn()
  // Tensors of their own over the same numbers: TensorFlow.js may dispose of the others before backward.
  const kept: Tensor[] = []
  let saved: AttentionSaved | undefined
  const forward = () => {
    const info = computeTensor([q, k, v], q.shape, (y, q, k, v) => {
      const given = { q, k, v, y, mask: mask as MaskLike | undefined }
      saved = attentionForward(given, { ...settings.options, save: isRecorded }).saved
    })
    if (!isRecorded) return info
    const y = newTensor(info)
    for (const tensor of [q, k, v, y]) kept.push(keep(share(tensor)))
    return y
  }
  // All at once, in the scope of backward, where TensorFlow.js disposes of what it does not use.
  const gradients = (dy: Tensor) => {
    refuseNested()
    const infos = computeTensors([dy, ...kept], [q.shape, k.shape, v.shape], ([dq, dk, dv], dy, q, k, v, y) => {
      attentionBackward({ dy, q, k, v, y, dq, dk, dv }, saved as AttentionSaved, { accumulate: false })
    })
    for (const tensor of kept) tensor.dispose()
    const [dq, dk, dv] = infos.map(newTensor)
    return { q: () => dq, k: () => dk, v: () => dv }
  }
  return runOperation({ q, k, v }, { forward, gradients, kept })
}
