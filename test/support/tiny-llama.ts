/** A tiny model of the Llama family with random weights: two blocks, four heads of queries and two of keys and values. */
import { gaussian, randomFrom } from './random.js'
import { encodeGguf, type Matrix } from './gguf-encode.js'

/** Three control tokens, and one for each byte, which the tokenizer of llama.cpp requires. */
export const VOCABULARY = 3 + 256
export const CONFIG = { model_type: 'llama', num_attention_heads: 4, num_key_value_heads: 2 }
const [d, inner, dHead] = [32, 48, 8]

/** Its linear layers, by Transformers' names. */
export const LAYERS = [0, 1].flatMap((block) => {
  const layer = (name: string, outFeatures: number, inFeatures: number) => ({
    ...{ name: `model.layers.${block}.${name}`, inFeatures, outFeatures },
  })
  return [
    layer('self_attn.q_proj', 4 * dHead, d),
    layer('self_attn.k_proj', 2 * dHead, d),
    layer('self_attn.v_proj', 2 * dHead, d),
    layer('self_attn.o_proj', d, 4 * dHead),
    layer('mlp.gate_proj', inner, d),
    layer('mlp.up_proj', inner, d),
    layer('mlp.down_proj', d, inner),
  ]
})

const NAMES: Readonly<Record<string, string>> = {
  q_proj: 'attn_q',
  k_proj: 'attn_k',
  v_proj: 'attn_v',
  o_proj: 'attn_output',
  gate_proj: 'ffn_gate',
  up_proj: 'ffn_up',
  down_proj: 'ffn_down',
}

/** Weights by layer, [d_out, d_in], in the order of the rows that Transformers has. */
export function weights(): Map<string, Float32Array> {
  const random = randomFrom(3)
  return new Map(
    LAYERS.map(({ name, inFeatures, outFeatures }) => [
      name,
      gaussian(random, outFeatures * inFeatures, 1 / Math.sqrt(inFeatures)),
    ]),
  )
}

/** reshape(heads, 2, rows / heads / 2, columns).swapaxes(1, 2) of the rows of a matrix. */
export function swapped(matrix: ArrayLike<number>, columns: number, heads: number): number[] {
  const half = matrix.length / columns / heads / 2
  const result: number[] = []
  for (let head = 0; head < heads; head++)
    for (let j = 0; j < half; j++)
      for (let s = 0; s < 2; s++) {
        const row = (head * 2 + s) * half + j
        for (let column = 0; column < columns; column++) result.push(matrix[row * columns + column])
      }
  return result
}

const byteToken = (byte: number) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`

/** The model with these weights as a GGUF file. */
export function baseModel(layers: ReadonlyMap<string, Float32Array>): Buffer {
  const random = randomFrom(4)
  const ones = (length: number): Matrix => ({ shape: [length], values: new Float32Array(length).fill(1) })
  // Logits of a standard deviation of about 1, so that no probability vanishes.
  const embedding = (deviation: number): Matrix => {
    return { shape: [VOCABULARY, d], values: gaussian(random, VOCABULARY * d, deviation) }
  }
  const tensors = new Map<string, Matrix>([
    ['token_embd.weight', embedding(1)],
    ['output_norm.weight', ones(d)],
    ['output.weight', embedding(1 / Math.sqrt(d))],
  ])
  for (const block of [0, 1]) {
    tensors.set(`blk.${block}.attn_norm.weight`, ones(d))
    tensors.set(`blk.${block}.ffn_norm.weight`, ones(d))
  }
  for (const { name, inFeatures, outFeatures } of LAYERS) {
    const [, block, end] = /layers\.(\d)\.\w+\.(\w+)/.exec(name) ?? []
    const weight = layers.get(name) as Float32Array
    const heads = end === 'q_proj' ? 4 : end === 'k_proj' ? 2 : null
    const values = heads === null ? weight : swapped(weight, inFeatures, heads)
    tensors.set(`blk.${block}.${NAMES[end]}.weight`, { shape: [outFeatures, inFeatures], values })
  }
  const ids = Array.from({ length: VOCABULARY }, (_, id) => id)
  const metadata = {
    'general.architecture': 'llama',
    'llama.context_length': { uint32: 64 },
    'llama.embedding_length': { uint32: d },
    'llama.block_count': { uint32: 2 },
    'llama.feed_forward_length': { uint32: inner },
    'llama.rope.dimension_count': { uint32: dHead },
    'llama.attention.head_count': { uint32: 4 },
    'llama.attention.head_count_kv': { uint32: 2 },
    'llama.attention.layer_norm_rms_epsilon': 1e-5,
    'tokenizer.ggml.model': 'llama',
    'tokenizer.ggml.tokens': ids.map((id) => ['<unk>', '<s>', '</s>'][id] ?? byteToken(id - 3)),
    'tokenizer.ggml.scores': { float32s: ids.map((id) => -id) },
    // Unknown, control, and bytes.
    'tokenizer.ggml.token_type': { int32s: ids.map((id) => [2, 3, 3][id] ?? 6) },
    'tokenizer.ggml.bos_token_id': { uint32: 1 },
    'tokenizer.ggml.eos_token_id': { uint32: 2 },
  }
  return encodeGguf(metadata, tensors)
}
