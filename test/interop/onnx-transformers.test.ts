/** Tiny transformers with adapters in Transformers.js: its models and pipelines compute what this package computes. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { AdapterModel } from '../../lib/index.js'
import { injectFile, type InjectedModel } from '../../lib/onnx/index.js'
import { requireLibrary } from '../support/interop.js'
import { adaptersOf, DECODER_TARGETS, distance, ENCODER_TARGETS, FLOAT32, KINDS } from '../support/onnx-adapters.js'
import { computeEncoder, ComputedDecoder } from '../support/onnx-compute.js'
import {
  BLOCKS,
  CLASSES,
  D,
  DECODER_LAYERS,
  decoderOnnx,
  ENCODER_LAYERS,
  encoderOnnx,
  HEADS,
  tinyDecoder,
  tinyEncoder,
  VOCABULARY,
} from '../support/onnx-models.js'
import { temporaryFolder } from '../support/temporary.js'

interface Tensor {
  readonly data: Float32Array | BigInt64Array
  readonly dims: readonly number[]
}
type Inputs = Readonly<Record<string, Tensor>>
interface Model {
  (inputs: Inputs): Promise<{ logits: Tensor; last_hidden_state: Tensor }>
  forward: (inputs: Inputs) => Promise<unknown>
  generate(inputs: object): Promise<Tensor>
  readonly forward_params: string[]
}
type Pipeline = ((texts: readonly string[], options?: object) => Promise<unknown>) & { readonly model: Model }
interface ModelClass {
  from_pretrained(name: string, options: object): Promise<Model>
}
interface Transformers {
  readonly env: object
  readonly Tensor: new (type: string, data: Float32Array | BigInt64Array, dims: readonly number[]) => Tensor
  readonly AutoModelForSequenceClassification: ModelClass
  readonly AutoModelForCausalLM: ModelClass
  pipeline(task: string, name: string, options: object): Promise<Pipeline>
}

/** Two texts of three words, and their tokens. */
const TEXTS = ['w7 w31 w2', 'w18 w9 w25']
const IDS = [7, 31, 2, 18, 9, 25]
const TOKENS = 3
/** The number of tokens to generate. */
const MORE = 4

const tokenizer = {
  'tokenizer.json': JSON.stringify({
    version: '1.0',
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: 'Whitespace' },
    post_processor: null,
    decoder: null,
    model: {
      type: 'WordLevel',
      vocab: Object.fromEntries(Array.from({ length: VOCABULARY }, (_, id) => [`w${id}`, id])),
      unk_token: 'w0',
    },
  }),
  'tokenizer_config.json': JSON.stringify({
    tokenizer_class: 'PreTrainedTokenizerFast',
    pad_token: 'w0',
    unk_token: 'w0',
  }),
}

const folder = temporaryFolder()
/** Writes files of the model of a name, as Transformers.js looks for them. */
function write(name: string, files: Readonly<Record<string, string | Uint8Array>>): void {
  mkdirSync(join(folder, name, 'onnx'), { recursive: true })
  for (const [file, content] of Object.entries({ ...tokenizer, ...files }))
    writeFileSync(join(folder, name, file), content)
}
const file = (name: string, model: string) => join(folder, name, 'onnx', `${model}.onnx`)
const options = { dtype: 'fp32', model_file_name: 'adapted' }

const encoder = tinyEncoder()
const decoder = tinyDecoder()
const ofEncoder = adaptersOf(KINDS['Lily, batch'], ENCODER_LAYERS, [...ENCODER_TARGETS, 'classifier'])
const ofDecoder = adaptersOf(KINDS['Lily, token'], DECODER_LAYERS, DECODER_TARGETS)

let transformers: Transformers
beforeAll(() => {
  transformers = requireLibrary('@huggingface/transformers') as Transformers
  Object.assign(transformers.env, { localModelPath: folder, allowRemoteModels: false })
  write('encoder', {
    'config.json': JSON.stringify({ model_type: 'bert' }),
    'onnx/model.onnx': encoderOnnx(encoder),
  })
  const sizes = { num_hidden_layers: BLOCKS, num_attention_heads: HEADS, num_key_value_heads: HEADS, hidden_size: D }
  write('decoder', {
    'config.json': JSON.stringify({ model_type: 'llama', vocab_size: VOCABULARY, ...sizes }),
    'generation_config.json': '{}',
    'onnx/model.onnx': decoderOnnx(decoder),
  })
}, 600_000)

/** Adds what `feeds` returns to the inputs of all calls of a model, also of those that a pipeline makes. */
function addInputs(model: Model, feeds: () => Inputs): void {
  const forward = model.forward.bind(model)
  model.forward = (inputs) => forward({ ...inputs, ...feeds() })
}

const ones = new Array<number>(IDS.length).fill(1)
const integers = (values: readonly number[]) =>
  new transformers.Tensor('int64', BigInt64Array.from(values, BigInt), [TEXTS.length, TOKENS])
const inputsOfTexts = (): Inputs => ({ input_ids: integers(IDS), attention_mask: integers(ones) })

describe('encoder', () => {
  const computed = (adapter: AdapterModel | null) =>
    computeEncoder(encoder, { shape: [TEXTS.length, TOKENS], ids: IDS, flags: ones }, adapter)
  let injected: InjectedModel
  beforeAll(async () => {
    injected = await injectFile(file('encoder', 'model'), file('encoder', 'adapted'), ofEncoder.first)
  })

  it('a model passes the inputs of an adapter on', async () => {
    const model = await transformers.AutoModelForSequenceClassification.from_pretrained('encoder', options)
    for (const adapter of [ofEncoder.first, ofEncoder.second, null]) {
      const feeds = await injected.feeds(adapter, transformers.Tensor)
      const { logits } = await model({ ...inputsOfTexts(), ...feeds })
      expect(distance(logits.data as Float32Array, computed(adapter).logits)).toBeLessThan(FLOAT32)
    }
  })

  it('a pipeline does not', async () => {
    const classify = await transformers.pipeline('text-classification', 'encoder', options)
    const feeds = await injected.feeds(ofEncoder.first, transformers.Tensor)
    await expect(classify(TEXTS, feeds)).rejects.toThrow('Missing the following inputs')
  })

  it('a function in the place of forward adds them in pipelines', async () => {
    const classify = await transformers.pipeline('text-classification', 'encoder', options)
    const extract = await transformers.pipeline('feature-extraction', 'encoder', options)
    let feeds: Inputs = {}
    for (const { model } of [classify, extract]) addInputs(model, () => feeds)
    for (const adapter of [ofEncoder.first, ofEncoder.second, null]) {
      feeds = await injected.feeds(adapter, transformers.Tensor)
      const { logits, hidden } = computed(adapter)
      const found = (await classify(TEXTS, { top_k: CLASSES })) as { label: string; score: number }[][]
      expect(distance(found.flatMap(scoresOf), probabilitiesOf(logits))).toBeLessThan(FLOAT32)
      const { data } = (await extract(TEXTS)) as Tensor
      expect(distance(data as Float32Array, hidden)).toBeLessThan(FLOAT32)
    }
  })

  it('a pipeline runs a model in which an adapter is baked', async () => {
    await injectFile(file('encoder', 'model'), file('encoder', 'baked'), ofEncoder.second, { bake: true })
    const classify = await transformers.pipeline('text-classification', 'encoder', {
      ...options,
      model_file_name: 'baked',
    })
    const found = (await classify(TEXTS, { top_k: CLASSES })) as { label: string; score: number }[][]
    const expected = probabilitiesOf(computed(ofEncoder.second).logits)
    expect(distance(found.flatMap(scoresOf), expected)).toBeLessThan(FLOAT32)
  })
})

/** Those of a text, which a pipeline sorts, in the order of the classes. */
function scoresOf(found: readonly { label: string; score: number }[]): number[] {
  return Array.from({ length: CLASSES }, (_, c) => found.find(({ label }) => label === `LABEL_${c}`)?.score ?? NaN)
}

function probabilitiesOf(logits: Float32Array): number[] {
  const rows = Array.from(TEXTS, (_, text) =>
    Array.from(logits.subarray(text * CLASSES, (text + 1) * CLASSES), Math.exp),
  )
  return rows.flatMap((row) => row.map((power) => power / row.reduce((sum, each) => sum + each, 0)))
}

describe('decoder', () => {
  /** The likeliest tokens, one after the other: [B, TOKENS + MORE]. */
  function generated(adapter: AdapterModel | null): number[][] {
    const running = new ComputedDecoder(decoder, TEXTS.length)
    const rows = TEXTS.map((_, text) => IDS.slice(text * TOKENS, (text + 1) * TOKENS))
    for (let call = 0, ids = IDS; call < MORE; call++) {
      const logits = running.call(ids, adapter)
      ids = rows.map((row, text) => {
        const end = ((text + 1) * logits.length) / TEXTS.length
        const last = logits.subarray(end - VOCABULARY, end)
        const next = last.indexOf(Math.max(...last))
        row.push(next)
        return next
      })
    }
    return rows
  }
  const rowsOf = ({ data, dims: [, columns] }: Tensor) =>
    TEXTS.map((_, text) => Array.from(data.subarray(text * columns, (text + 1) * columns), Number))
  const textsOf = (rows: readonly (readonly number[])[]) =>
    rows.map((row) => [{ generated_text: row.map((id) => `w${id}`).join(' ') }])

  let injected: InjectedModel
  beforeAll(async () => {
    injected = await injectFile(file('decoder', 'model'), file('decoder', 'adapted'), ofDecoder.first)
  })
  let model: Model
  beforeEach(async () => {
    model = await transformers.AutoModelForCausalLM.from_pretrained('decoder', options)
  })

  it('adapters generate different texts', () => {
    const texts = [ofDecoder.first, ofDecoder.second, null].map((adapter) => JSON.stringify(generated(adapter)))
    expect(new Set(texts).size).toBe(3)
  })

  it('generate drops the inputs of an adapter', async () => {
    const feeds = await injected.feeds(ofDecoder.first, transformers.Tensor)
    await expect(model.generate({ ...inputsOfTexts(), ...feeds, max_new_tokens: MORE })).rejects.toThrow(
      'Missing the following inputs',
    )
  })

  it('generate passes the inputs on that forward_params names', async () => {
    model.forward_params.push(...injected.inputs.map(({ name }) => name))
    for (const adapter of [ofDecoder.first, ofDecoder.second, null]) {
      const feeds = await injected.feeds(adapter, transformers.Tensor)
      const tokens = await model.generate({ ...inputsOfTexts(), ...feeds, max_new_tokens: MORE })
      expect(rowsOf(tokens)).toEqual(generated(adapter))
    }
  })

  it('a function in the place of forward adds them to every call of generate', async () => {
    let feeds: Inputs = {}
    addInputs(model, () => feeds)
    const generate = await transformers.pipeline('text-generation', 'decoder', options)
    addInputs(generate.model, () => feeds)
    for (const adapter of [ofDecoder.first, ofDecoder.second, null]) {
      feeds = await injected.feeds(adapter, transformers.Tensor)
      const tokens = await model.generate({ ...inputsOfTexts(), max_new_tokens: MORE })
      expect(rowsOf(tokens)).toEqual(generated(adapter))
      expect(await generate(TEXTS, { max_new_tokens: MORE })).toEqual(textsOf(generated(adapter)))
    }
  })
})
