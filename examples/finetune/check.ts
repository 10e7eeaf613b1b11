/**
 * Compares the encoder with the graph of its npm package, as TensorFlow.js executes it. It prints the largest difference
 * between two elements of the embeddings of 96 sentences.
 *
 *     npx tsx examples/finetune/check.ts
 */
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { batchOf } from './batches.js'
import { readReviews } from './data.js'
import { loadEncoder, readModel } from './pretrained.js'

await tf.setBackend('wasm')
const graph = await tf.loadGraphModel({ load: readModel })
const reviews = (await Promise.all((['amazon', 'imdb', 'yelp'] as const).map((source) => readReviews(source)))).flatMap(
  (all) => all.slice(0, 32),
)

// The graph takes the tokens of all sentences as one sparse matrix.
const indices = reviews.flatMap((review, i) => review.tokens.map((_, j) => [i, j]))
const expected = await graph.executeAsync({
  indices: tf.tensor2d(indices, undefined, 'int32'),
  values: tf.tensor1d(
    reviews.flatMap((review) => review.tokens),
    'int32',
  ),
})
const { tokens, mask } = batchOf(reviews)
const actual = (await loadEncoder()).embed(tokens, mask)
console.log(tf.max(tf.abs(tf.sub(actual, expected as tf.Tensor))).dataSync()[0])
