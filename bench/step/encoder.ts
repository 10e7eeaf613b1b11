/** The encoder `blocks` in operations of TensorFlow.js, with frozen weights. */
import * as tf from '@tensorflow/tfjs'

/** The operations of examples/finetune, where bias and mask may be left out. */
export interface Operations {
  readonly linear: (x: tf.Tensor, weight: tf.Tensor2D, bias?: tf.Tensor1D, name?: string) => tf.Tensor
  readonly attention: (
    q: tf.Tensor3D,
    k: tf.Tensor3D,
    v: tf.Tensor3D,
    options: { readonly heads: number; readonly mask?: tf.Tensor2D },
  ) => tf.Tensor
}

/** Layer normalisation without parameters. */
function normalise(x: tf.Tensor): tf.Tensor {
  const { mean, variance } = tf.moments(x, -1, true)
  return tf.div(tf.sub(x, mean), tf.sqrt(tf.add(variance, 1e-5)))
}

const gelu = (x: tf.Tensor): tf.Tensor => tf.mul(x, tf.sigmoid(tf.mul(x, 1.702)))

/**
 * @param frozen `embedding`, `position` and the kernel of each layer
 * @param tokens [sentences, length], int32
 * @returns [sentences, width]: the mean over the tokens
 */
export function embedBlocks(
  frozen: ReadonlyMap<string, tf.Tensor>,
  { blocks, heads }: { readonly blocks: number; readonly heads: number },
  tokens: tf.Tensor2D,
  { linear, attention }: Operations,
): tf.Tensor2D {
  let x = tf.add(tf.gather(frozen.get('embedding')!, tokens), frozen.get('position')!)
  for (let block = 0; block < blocks; block++) {
    const layer = (target: string, input: tf.Tensor) => {
      const name = `${block}.${target}`
      return linear(input, frozen.get(name) as tf.Tensor2D, undefined, name)
    }
    const normal = normalise(x)
    const [q, k, v] = ['q', 'k', 'v'].map((target) => layer(target, normal) as tf.Tensor3D)
    x = tf.add(x, layer('o', attention(q, k, v, { heads })))
    x = tf.add(x, layer('down', gelu(layer('up', normalise(x)))))
  }
  return tf.mean(normalise(x), 1)
}
