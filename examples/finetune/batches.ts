/** Padded batches of tokens. */
import * as tf from '@tensorflow/tfjs'

/** A sentence of a review. */
export interface Review {
  readonly tokens: readonly number[]
  /** 1: the author is content. */
  readonly label: 0 | 1
}

/** Sentences of one length: the shorter ones are padded at their end. */
export interface Batch {
  /** [sentences, length], int32. */
  readonly tokens: tf.Tensor2D
  /** [sentences, length]: 1 for tokens, 0 for padding. */
  readonly mask: tf.Tensor2D
  /** [sentences]. */
  readonly labels: tf.Tensor1D
}

/** The items in a random order that depends on nothing but the seed. */
export function shuffled<T>(items: readonly T[], seed: number): T[] {
  const keys = tf.tidy(() => tf.randomUniform([items.length], 0, 1, 'float32', seed).dataSync())
  return sortedBy([...items.keys()], (i) => keys[i]).map((i) => items[i])
}

/** Divides reviews into groups of similar length, so that batches need little padding. */
export function byLength(reviews: readonly Review[], size: number): Review[][] {
  const sorted = sortedBy(reviews, ({ tokens }) => tokens.length)
  return Array.from({ length: Math.ceil(sorted.length / size) }, (_, i) => sorted.slice(i * size, (i + 1) * size))
}

const sortedBy = <T>(items: readonly T[], key: (item: T) => number): T[] => [...items].sort((a, b) => key(a) - key(b))

/** Number of tokens of the longest of the reviews. */
export const lengthOf = (reviews: readonly Review[]): number => Math.max(...reviews.map(({ tokens }) => tokens.length))

/** Pads the reviews to one length. Call it in `tf.tidy`, or dispose of the tensors. */
export function batchOf(reviews: readonly Review[], length = lengthOf(reviews)): Batch {
  const padded = (valueOf: (token: number) => number) =>
    reviews.map(({ tokens }) => Array.from({ length }, (_, i) => (i < tokens.length ? valueOf(tokens[i]) : 0)))
  return {
    tokens: tf.tensor2d(
      padded((token) => token),
      undefined,
      'int32',
    ),
    mask: tf.tensor2d(padded(() => 1)),
    labels: tf.tensor1d(reviews.map(({ label }) => label)),
  }
}
