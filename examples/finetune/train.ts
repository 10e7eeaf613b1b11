/** A classifier of sentences: the frozen encoder, an adapter in it, and a linear head; and its training. */
import * as tf from '@tensorflow/tfjs'
import {
  AdapterModel,
  type Distributed,
  LilyModel,
  LoraModel,
  type ModelRouting,
  ranksForLora,
  type Tensor,
} from 'lily-kernels'
import {
  adaptedLinear,
  AdapterOptimizer,
  attention,
  fromTf,
  frozenLinear,
  toTf,
  variableGrads,
} from 'lily-kernels/tfjs'
import { setImmediate } from 'node:timers/promises'
import { batchOf, byLength, type Review, shuffled } from './batches.js'
import { Clock } from './clock.js'
import type { Encoder } from './encoder.js'

export type Method = 'head' | 'lora' | 'lily'

/** What is compared: a method, and for Lily how its experts are mixed. */
export interface Variant {
  readonly method: Method
  readonly routing?: ModelRouting | undefined
}

export interface Setup extends Variant {
  /** Rank of LoRA. Lily gets the rank at which it has the same number of parameters, or nearly so. */
  readonly loraRank: number
  /** Seed of the adapter's initial values and of the order of the sentences. */
  readonly seed: number
  /** Rate of dropout on the inputs of the adapters. */
  readonly dropout: number
}

/** q, k and v of a block have the same sizes, so they are one target of Lily: they share one A and two experts B. */
const LILY = { strideA: 3, numB: 2, targetModules: String.raw`\d\.attention\.[qkv]` } as const
const SCALING = 2

const BATCH = 32
/** Share of the steps in which the learning rate rises. */
const WARM_UP = 0.1
const ADAPTER_RATE = 2e-3
const HEAD_RATE = 2e-2
/** Embeddings have norm 1. Scaled, the head reaches useful logits at the learning rate that it has. */
const EMBEDDING_SCALE = 8

/** Parts of the time of a step. The last one is all that TensorFlow.js computes itself. */
export const PARTS = [
  'layers, forward',
  'layers, backward',
  'attention, forward',
  'attention, backward',
  'optimiser',
  'TensorFlow.js',
] as const
export type Part = (typeof PARTS)[number]

interface EmbedOptions {
  readonly length?: number | undefined
  readonly onInput?: (name: string, x: tf.Tensor) => void
}

export class Classifier {
  readonly clock = new Clock<Part>(PARTS, 'TensorFlow.js')

  /**
   * @param adapter null: only the head is trained
   * @param weight [512, 1]
   * @param bias [1]
   */
  private constructor(
    readonly encoder: Encoder,
    readonly adapter: AdapterModel | null,
    readonly weight: tf.Variable<tf.Rank.R2>,
    readonly bias: tf.Variable<tf.Rank.R1>,
  ) {}

  /** A classifier whose head is zero, and whose adapter changes nothing yet. */
  static create(encoder: Encoder, setup: Setup): Classifier {
    const [weight, bias] = [tf.zeros<tf.Rank.R2>([encoder.width, 1]), tf.zeros<tf.Rank.R1>([1])]
    return new Classifier(encoder, createAdapter(encoder, setup), tf.variable(weight), tf.variable(bias))
  }

  /** Reads what {@link save} has written. */
  static async load(encoder: Encoder, folder: string): Promise<Classifier> {
    const adapter = await AdapterModel.fromPretrained(folder)
    const head = adapter.modulesToSave.get('classifier')!
    const [weight, bias] = ['weight', 'bias'].map((name) => tf.variable(toTf(head.get(name)!)))
    return new Classifier(encoder, adapter, weight as tf.Variable<tf.Rank.R2>, bias as tf.Variable<tf.Rank.R1>)
  }

  /** Writes the adapter and the head to a folder that PEFT can read, unless it cannot compute the adapter. */
  async save(folder: string): Promise<void> {
    const [weight, bias] = [fromTf(this.weight), fromTf(this.bias)]
    const modulesToSave = { classifier: { weight, bias } }
    if (this.adapter instanceof LilyModel && this.adapter.config.routing === 'learned') {
      await this.adapter.savePretrained(folder, { modulesToSave, format: 'compact' })
    } else {
      await this.adapter?.savePretrained(folder, { modulesToSave })
    }
  }

  dispose(): void {
    tf.dispose(this.variables)
    this.adapter?.dispose()
  }

  /** Those of the head. */
  get variables(): tf.Variable[] {
    return [this.weight, this.bias]
  }

  /** Number of trainable parameters of the adapter. */
  get parameters(): number {
    const sizes = [...(this.adapter?.parameters().values() ?? [])].map(({ value }) =>
      tf.util.sizeFromShape([...value.shape]),
    )
    return sizes.reduce((sum, size) => sum + size, 0)
  }

  /** [reviews]: positive where the author is content. The reviews are padded to `length`, by default their largest. */
  logits(reviews: readonly Review[], length?: number): tf.Tensor1D {
    const embedding = this.adapter === null ? this.encoder.embedFrozen(reviews) : this.#embed(reviews, { length })
    const logits = tf.add(tf.matMul(tf.mul(embedding, EMBEDDING_SCALE), this.weight), this.bias)
    return tf.reshape(logits, [reviews.length])
  }

  /** [reviews, 512], with the adapter. `onInput` is called with the input of each adapted layer. */
  #embed(reviews: readonly Review[], { length, onInput }: EmbedOptions): tf.Tensor2D {
    const { adapter, clock } = this
    const { tokens, mask } = batchOf(reviews, length)
    const options = adapter instanceof LilyModel && poolsTokens(adapter.config.routing) ? { mask } : {}
    return this.encoder.embed(tokens, mask, {
      linear: (x, weight, bias, name) => {
        if (name !== undefined) onInput?.(name, x)
        const layer = name === undefined ? undefined : adapter?.layer(name)
        const compute = (input: tf.Tensor) =>
          layer === undefined
            ? frozenLinear(input, weight, bias)
            : adaptedLinear(input, weight, layer, { bias, ...options })
        return clock.measure(['layers, forward', 'layers, backward'], compute, x)
      },
      attention: (q, k, v, options) => {
        const compute = (...inputs: tf.Tensor3D[]) => attention(inputs[0], inputs[1], inputs[2], options)
        return clock.measure(['attention, forward', 'attention, backward'], compute, q, k, v)
      },
    })
  }

  /** The logits of any number of reviews, in their order. */
  predict(reviews: readonly Review[]): Float32Array {
    const logits = new Map<Review, number>()
    for (const part of byLength(reviews, BATCH)) {
      const values = tf.tidy(() => this.logits(part).dataSync())
      for (const [i, review] of part.entries()) logits.set(review, values[i])
    }
    return Float32Array.from(reviews, (review) => logits.get(review)!)
  }

  /** The inputs of the adapted layers for some reviews: one sentence at a time, so that none of them is padding. */
  inputs(reviews: readonly Review[]): Map<string, Tensor[]> {
    const inputs = new Map<string, Tensor[]>(this.encoder.layers.map(({ name }) => [name, []]))
    for (const review of reviews)
      tf.tidy(() => this.#embed([review], { onInput: (name, x) => inputs.get(name)!.push(fromTf(x)) }))
    return inputs
  }
}

/** Whether a mixture is a mean over tokens, which padding must not enter. Other routings refuse a mask. */
const poolsTokens = (routing: ModelRouting) => routing === 'batch' || routing === 'sequence'

function createAdapter({ layers }: Encoder, { method, routing, loraRank, seed, dropout }: Setup): AdapterModel | null {
  if (method === 'head') return null
  if (method === 'lora') {
    const { targetModules } = LILY
    const config = { r: loraRank, loraAlpha: SCALING * loraRank, loraDropout: dropout, targetModules }
    return LoraModel.create({ layers, config, seed })
  }
  const lily = { ...LILY, routing }
  const { within, next } = ranksForLora(layers, lily, loraRank)
  // A percent more is nearer than one rank less.
  const r = next !== undefined && next.percent < 1 ? next.r : within!.r
  return LilyModel.create({ layers, config: { ...lily, r, scaling: SCALING, dropout }, seed })
}

/** Share of the reviews whose label the sign of the logit gives. */
export function accuracyOf(logits: Float32Array, reviews: readonly Review[]): number {
  return reviews.filter(({ label }, i) => logits[i] > 0 === (label === 1)).length / reviews.length
}

/** Number of {@link batchesOf}. */
export const stepsOf = (reviews: readonly Review[], epochs: number) => epochs * Math.ceil(reviews.length / BATCH)

/**
 * The reviews of each step, in an order that depends on nothing but the seed, with the factor on the learning rates: it rises
 * during the first steps, and then falls to zero.
 */
export function* batchesOf(
  reviews: readonly Review[],
  epochs: number,
  seed: number,
): Generator<{ readonly batch: readonly Review[]; readonly lrScale: number }> {
  const steps = stepsOf(reviews, epochs)
  let done = 0
  for (let epoch = 0; epoch < epochs; epoch++) {
    // Sentences of one length keep their order when they are sorted, so each epoch has other batches.
    const order = shuffled(reviews, 100 * seed + epoch)
    for (const batch of shuffled(byLength(order, BATCH), 100 * seed + epoch)) {
      yield { batch, lrScale: Math.min((done + 1) / (WARM_UP * steps), 1) * (1 - done / steps) }
      done++
    }
  }
}

/** AdamW for the adapter and the head. With `distributed` its steps average the gradients of all ranks. */
export function optimiserOf<D extends Distributed | undefined = undefined>(
  { adapter, variables }: Classifier,
  distributed?: D,
): AdapterOptimizer<D> {
  const head = { match: variables.map(({ name }) => name), lr: HEAD_RATE }
  return new AdapterOptimizer(adapter ?? [], { variables, lr: ADAPTER_RATE, maxNorm: 1, groups: [head], distributed })
}

/**
 * The mean loss of some reviews, and the gradients of the head; dispose of them. Those of the adapter are in its parameters.
 *
 * @param length to which the reviews are padded
 */
export function gradientsOf(
  classifier: Classifier,
  reviews: readonly Review[],
  length?: number,
): { value: tf.Scalar; grads: tf.NamedTensorMap } {
  const { adapter, variables } = classifier
  const loss = () => {
    const labels = tf.tensor1d(reviews.map(({ label }) => label))
    return tf.losses.sigmoidCrossEntropy<tf.Tensor1D, tf.Scalar>(labels, classifier.logits(reviews, length))
  }
  // Without an adapter this is an ordinary step of TensorFlow.js.
  return tf.tidy(() => (adapter === null ? tf.variableGrads(loss, variables) : variableGrads(loss, adapter, variables)))
}

export interface TrainOptions {
  readonly epochs: number
  readonly seed: number
  readonly signal: AbortSignal
  /** Called after each step. */
  readonly onStep: (loss: number) => void
}

/**
 * Trains the adapter and the head.
 *
 * @throws the reason of the signal
 */
export async function train(classifier: Classifier, reviews: readonly Review[], options: TrainOptions): Promise<void> {
  const { epochs, seed, signal, onStep } = options
  const { clock } = classifier
  const optimiser = optimiserOf(classifier)
  for (const { batch, lrScale } of batchesOf(reviews, epochs, seed)) {
    signal.throwIfAborted()
    clock.begin('TensorFlow.js')
    const { value, grads } = gradientsOf(classifier, batch)
    clock.begin('optimiser')
    optimiser.lrScale = lrScale
    optimiser.applyGradients(grads)
    clock.begin(null)
    onStep(value.dataSync()[0])
    tf.dispose({ value, grads })
    // Signals are handled, and the progress is drawn, between two steps.
    await setImmediate()
  }
  optimiser.dispose()
}
