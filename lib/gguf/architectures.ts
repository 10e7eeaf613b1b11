/**
 * Base models of llama.cpp: how it names their architectures and layers, and in which order it stores the rows of q and k.
 * Source: conversion/ and gguf-py/gguf/tensor_mapping.py of llama.cpp.
 */
import { fail } from '../base/errors.js'
import { checkCount } from '../base/options.js'
import { quote, quoteAny } from '../checkpoint/errors.js'
import { isObject } from '../checkpoint/json.js'

/**
 * What the base model is: fields of the config.json that Transformers saves with it. Other fields are ignored. For a model
 * of text and images the fields are read from its text_config.
 */
export interface GgufBase {
  /** Such as 'llama', 'mistral', 'qwen3' or 'gemma3'. */
  readonly model_type: string
  /** Number of heads of the queries, from 1 on. Required by 'llama', 'mistral', 'mistral3' and 'ministral3'. */
  readonly num_attention_heads?: number | undefined
  /** Number of heads of the keys and values, from 1 on. Default: as many as of the queries. */
  readonly num_key_value_heads?: number | undefined
  /** Whether lm_head has the weight of the embedding, so that it has no adapter. Default: false, but for Gemma. */
  readonly tie_word_embeddings?: boolean | undefined
  readonly [field: string]: unknown
}

/** Heads of q and of k. */
export interface Heads {
  readonly query: number
  readonly key: number
}

/** A base model as llama.cpp knows it. */
export interface Architecture {
  /** Its general.architecture. */
  readonly name: string
  /** llama.cpp's names of the linear layers of a block, by the end of Transformers' names. */
  readonly layers: Readonly<Record<string, string>>
  /** Whether llama.cpp stores the rows of q and k of each head with the two halves interleaved. */
  readonly permutes: boolean
  /** Whether the base model can have a weight for the logits, lm_head, besides the embedding's. */
  readonly hasHead: boolean
}

const ATTENTION_AND_MLP = {
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}
const PHI3 = {
  'self_attn.qkv_proj': 'attn_qkv',
  'self_attn.o_proj': 'attn_output',
  'mlp.gate_up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}

const plain = (name: string): Architecture => ({ name, layers: ATTENTION_AND_MLP, permutes: false, hasHead: true })
const gemma = (name: string): Architecture => ({ ...plain(name), hasHead: false })
const permuted = (name: string): Architecture => ({ ...plain(name), permutes: true })
const [LLAMA, MISTRAL3, GEMMA3] = [permuted('llama'), permuted('mistral3'), gemma('gemma3')]

/** By the model_type of Transformers. */
const ARCHITECTURES: ReadonlyMap<string, Architecture> = new Map([
  ['llama', LLAMA],
  ['mistral', LLAMA],
  ['mistral3', MISTRAL3],
  ['ministral3', MISTRAL3],
  ['qwen2', plain('qwen2')],
  ['qwen3', plain('qwen3')],
  ['gemma', gemma('gemma')],
  ['gemma2', gemma('gemma2')],
  ['gemma3', GEMMA3],
  ['gemma3_text', GEMMA3],
  ['phi3', { ...plain('phi3'), layers: PHI3 }],
])

/** The text models inside a 'mistral3' that llama.cpp also calls 'mistral3'. */
const MISTRAL3_TEXT: readonly unknown[] = [undefined, 'mistral', 'ministral3']

/** The architecture of llama.cpp's name; undefined if this package does not know it. */
export function architectureOf(name: string): Architecture | undefined {
  for (const architecture of ARCHITECTURES.values()) if (architecture.name === name) return architecture
  return undefined
}

/** A base model, read from its configuration. */
export interface Base {
  readonly architecture: Architecture
  /** Null: not known, and not needed. */
  readonly heads: Heads | null
  /** Whether the embedding is also the weight for the logits. */
  readonly isTied: boolean
}

/**
 * Reads the configuration of a base model.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for another architecture, or heads that are no counts
 */
export function baseOf(config: unknown): Base {
  if (!isObject(config)) {
    return fail('ERR_LILY_ARGUMENT', 'base', `expected the fields of a config.json, got ${quoteAny(config)}`)
  }
  const { model_type: type, text_config: text } = config
  const architecture = typeof type === 'string' ? ARCHITECTURES.get(type) : undefined
  const inner = isObject(text) ? text : {}
  if (architecture === undefined) refuseType(type)
  if (architecture === MISTRAL3 && !MISTRAL3_TEXT.includes(inner.model_type)) refuseType(inner.model_type)
  const fields = { ...config, ...inner }
  const query = readHeads('num_attention_heads', fields.num_attention_heads)
  const key = readHeads('num_key_value_heads', fields.num_key_value_heads) ?? query
  return {
    architecture,
    heads: query === null || key === null ? null : { query, key },
    isTied: !architecture.hasHead || fields.tie_word_embeddings === true,
  }
}

function refuseType(type: unknown): never {
  const known = [...ARCHITECTURES.keys()].map((name) => `'${name}'`).join(', ')
  fail(
    'ERR_LILY_ARGUMENT',
    'base.model_type',
    `expected one of ${known}, got ${quoteAny(type)}; merge the adapter into the base model instead (docs/serving.md)`,
  )
}

/** More heads than any model has: a row of q then has a multiple of them without overflow. */
const MAX_HEADS = 65_536

/** Null, which config.json also has for an absent number, if there is none. */
function readHeads(field: string, value: unknown): number | null {
  return value === undefined || value === null ? null : checkCount(`base.${field}`, value, 1, MAX_HEADS)
}

/** What Transformers puts before the names of the blocks of a text model. */
const LAYER = /^(?:model\.(?:language_model\.)?|language_model\.model\.)?layers\.(0|[1-9]\d{0,5})\.(.+)$/
const HEAD = /^(?:language_model\.)?lm_head$/
const HEAD_TENSOR = 'output.weight'
const TENSOR = /^blk\.(0|[1-9]\d{0,5})\.([a-z_]+)\.weight$/

/**
 * llama.cpp's name of the weight of a layer, such as 'blk.3.attn_q.weight'.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for a layer that it has none for
 */
export function tensorNameOf({ architecture: { name, layers }, isTied }: Base, layer: string): string {
  const [, block, end = ''] = LAYER.exec(layer) ?? []
  if (Object.hasOwn(layers, end)) return `blk.${block}.${layers[end]}.weight`
  const isHead = HEAD.test(layer)
  if (isHead && !isTied) return HEAD_TENSOR
  const why = isHead ? 'whose weight is the embedding' : 'for which llama.cpp has no adapter'
  return fail(
    'ERR_LILY_ARGUMENT',
    'model',
    `expected layers of '${name}', such as 'model.layers.0.${Object.keys(layers)[0]}', got ${quote(layer)}, ${why}; train ` +
      'without it, or merge the adapter into the base model',
  )
}

/** Transformers' name of the layer of a weight; null if it belongs to no linear layer. */
export function layerNameOf({ layers }: Architecture, tensor: string): string | null {
  if (tensor === HEAD_TENSOR) return 'lm_head'
  const [, block, name] = TENSOR.exec(tensor) ?? []
  const end = Object.keys(layers).find((each) => layers[each] === name)
  return end === undefined ? null : `model.layers.${block}.${end}`
}

/**
 * The heads whose rows llama.cpp stores in another order; null for a layer with the same order.
 *
 * @param heads null if they are not known
 * @throws LilyError ERR_LILY_ARGUMENT if they are needed and not known, or do not divide the rows
 */
export function permutedHeads({ permutes, name }: Architecture, heads: Heads | null, layer: string, rows: number) {
  const which = layer.endsWith('.q_proj') ? 'query' : layer.endsWith('.k_proj') ? 'key' : null
  if (!permutes || which === null) return null
  const field = which === 'query' ? 'num_attention_heads' : 'num_key_value_heads'
  if (heads === null) {
    return fail(
      'ERR_LILY_ARGUMENT',
      'base',
      `expected the heads of the base model, as llama.cpp permutes the rows of ${quote(layer)} in '${name}'; pass ` +
        'base with num_attention_heads and num_key_value_heads, or the path of its config.json',
    )
  }
  if (rows % (2 * heads[which]) === 0) return heads[which]
  return fail(
    'ERR_LILY_ARGUMENT',
    `base.${field}`,
    `expected heads of an even number of rows, got ${heads[which]} heads for the ${rows} rows of ${quote(layer)}; pass the ` +
      'config.json of the base model that was trained',
  )
}

/**
 * Copies the rows of a matrix into llama.cpp's order, or back: row s * half + j of a head, with s = 0 or 1, is its row
 * 2 j + s. Rotary embeddings rotate pairs of rows, which are neighbours there, and half a head apart in Transformers.
 */
export function permuteRows(
  matrix: Float32Array,
  columns: number,
  heads: number,
  direction: 'to' | 'from',
): Float32Array {
  const rowsOfHead = matrix.length / columns / heads
  const half = rowsOfHead / 2
  const result = new Float32Array(matrix.length)
  for (let row = 0; row < matrix.length / columns; row++) {
    const head = Math.floor(row / rowsOfHead)
    const at = row % rowsOfHead
    const other = head * rowsOfHead + 2 * (at % half) + Math.floor(at / half)
    const [from, to] = direction === 'to' ? [row, other] : [other, row]
    result.set(matrix.subarray(from * columns, (from + 1) * columns), to * columns)
  }
  return result
}
