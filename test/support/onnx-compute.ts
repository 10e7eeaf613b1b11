/** The tiny models of onnx-models.ts, computed by this package where they are adapted, and otherwise in float64. */
import { type AdapterModel, LilyModel, linearForward } from '../../lib/index.js'
import { BLOCKS, CLASSES, D, D_HEAD, EPSILON, HEADS, type TinyModel, UNSEEN } from './onnx-models.js'

/** Activations [B, N, width], between operations in float32. */
interface Activations {
  readonly data: Float32Array
  readonly shape: readonly number[]
}

const widthOf = ({ shape }: Activations) => shape[shape.length - 1]

/** Computes each element from its index, and rounds it to float32. */
const generated = (shape: readonly number[], elementAt: (index: number) => number): Activations => ({
  data: Float32Array.from({ length: shape.reduce((size, each) => size * each, 1) }, (_, index) => elementAt(index)),
  shape,
})

const zipped = (left: Activations, right: Activations, combine: (l: number, r: number) => number): Activations =>
  generated(left.shape, (index) => combine(left.data[index], right.data[index]))

const sum = (left: Activations, right: Activations) => zipped(left, right, (l, r) => l + r)

/** Attention. A query [b, i] sees a key [b, j] where `sees` is true; the scores of the others are {@link UNSEEN}. */
function attention(
  q: Activations,
  k: Activations,
  v: Activations,
  sees: (b: number, i: number, j: number) => boolean,
): Activations {
  const [batch, queries] = q.shape
  const [, keys] = k.shape
  const result = new Float32Array(q.data.length)
  for (let b = 0; b < batch; b++)
    for (let i = 0; i < queries; i++)
      for (let head = 0; head < HEADS; head++) {
        const at = (row: number, count: number) => (b * count + row) * D + head * D_HEAD
        const scores = Array.from({ length: keys }, (_, j) => {
          if (!sees(b, i, j)) return UNSEEN
          let score = 0
          for (let c = 0; c < D_HEAD; c++) score += q.data[at(i, queries) + c] * k.data[at(j, keys) + c]
          return score / Math.sqrt(D_HEAD)
        })
        const largest = Math.max(...scores)
        const powers = scores.map((score) => Math.exp(score - largest))
        const total = powers.reduce((all, power) => all + power, 0)
        for (let c = 0; c < D_HEAD; c++) {
          let value = 0
          for (let j = 0; j < keys; j++) value += (powers[j] / total) * v.data[at(j, keys) + c]
          result[at(i, queries) + c] = value
        }
      }
  return { data: result, shape: q.shape }
}

/** The parts of a model, with an adapter or without. */
class Computed {
  /** @param mask 0 for tokens that count in no mean of the adapter; null: all count */
  constructor(
    readonly model: TinyModel,
    readonly adapter: AdapterModel | null,
    readonly mask: readonly number[] | null = null,
  ) {}

  /** y = x W^T + b, and what the adapter adds to it. */
  linear(name: string, x: Activations): Activations {
    const { values: data, shape } = this.#tensor(`${name}.weight`)
    const bias = this.model.tensors.get(`${name}.bias`)?.values
    const layer = this.adapter?.layers.get(name)
    if (layer === undefined) return product(x, data, bias)
    const { y } = linearForward({ x, weight: { data, shape }, bias: bias && { data: bias, shape: [bias.length] } })
    const lily = this.adapter instanceof LilyModel ? this.adapter.layer(name) : null
    if (this.mask !== null && lily !== null && ['batch', 'sequence'].includes(lily.routing))
      lily.forward({ x, y }, { save: false, mask: this.mask })
    else layer.forward({ x, y }, { save: false })
    return { data: y.data as Float32Array, shape: y.shape }
  }

  /** The rows of a table [rows, d]. */
  lookUp(name: string, rows: readonly number[], leading: readonly number[]): Activations {
    const { values } = this.#tensor(name)
    return generated([...leading, D], (index) => values[rows[Math.floor(index / D)] * D + (index % D)])
  }

  /** (x - mean) / sqrt(variance + epsilon) * weight + bias; without a bias x / sqrt(mean(x^2) + epsilon) * weight. */
  norm(name: string, x: Activations): Activations {
    const [weight, bias] = [this.#tensor(`${name}.weight`).values, this.model.tensors.get(`${name}.bias`)?.values]
    const rows = Array.from({ length: x.data.length / D }, (_, row) => {
      const numbers = Array.from(x.data.subarray(row * D, (row + 1) * D))
      const mean = bias === undefined ? 0 : numbers.reduce((all, each) => all + each, 0) / D
      const variance = numbers.reduce((all, each) => all + (each - mean) ** 2, 0) / D
      return { mean, root: Math.sqrt(variance + EPSILON) }
    })
    return generated(x.shape, (index) => {
      const [{ mean, root }, column] = [rows[Math.floor(index / D)], index % D]
      return ((x.data[index] - mean) / root) * weight[column] + (bias?.[column] ?? 0)
    })
  }

  #tensor(name: string) {
    const found = this.model.tensors.get(name)
    if (found === undefined) throw new Error(`there is no tensor ${name}`)
    return found
  }
}

function product(x: Activations, weight: Float32Array, bias: Float32Array | undefined): Activations {
  const dIn = widthOf(x)
  const dOut = weight.length / dIn
  return generated([...x.shape.slice(0, -1), dOut], (index) => {
    const [row, column] = [Math.floor(index / dOut), index % dOut]
    let total = bias?.[column] ?? 0
    for (let k = 0; k < dIn; k++) total += x.data[row * dIn + k] * weight[column * dIn + k]
    return total
  })
}

/** The numbers of tokens and their flags, [B, N] in row-major order. */
export interface EncoderInputs {
  readonly shape: readonly [batch: number, tokens: number]
  readonly ids: readonly number[]
  /** 0 for padding. */
  readonly flags: readonly number[]
}

/**
 * The outputs of the encoder.
 *
 * @param masks whether padding counts in no mean of the adapter
 */
export function computeEncoder(
  model: TinyModel,
  { shape: [batch, tokens], ids, flags }: EncoderInputs,
  adapter: AdapterModel | null,
  masks = false,
): { logits: Float32Array; hidden: Float32Array } {
  const computed = new Computed(model, adapter, masks ? flags : null)
  const positions = ids.map((_, index) => index % tokens)
  let x = computed.norm(
    'bert.embeddings.LayerNorm',
    sum(
      computed.lookUp('bert.embeddings.word_embeddings.weight', ids, [batch, tokens]),
      computed.lookUp('bert.embeddings.position_embeddings.weight', positions, [batch, tokens]),
    ),
  )
  for (let block = 0; block < BLOCKS; block++) {
    const at = `bert.encoder.layer.${block}`
    const [q, k, v] = ['query', 'key', 'value'].map((part) => computed.linear(`${at}.attention.self.${part}`, x))
    const attended = attention(q, k, v, (b, _, j) => flags[b * tokens + j] !== 0)
    x = computed.norm(
      `${at}.attention.output.LayerNorm`,
      sum(computed.linear(`${at}.attention.output.dense`, attended), x),
    )
    const inner = computed.linear(`${at}.intermediate.dense`, x)
    const active = generated(inner.shape, (index) => Math.max(inner.data[index], 0))
    x = computed.norm(`${at}.output.LayerNorm`, sum(computed.linear(`${at}.output.dense`, active), x))
  }
  const first = generated([batch, D], (index) => x.data[Math.floor(index / D) * tokens * D + (index % D)])
  const { data: logits } = computed.linear('classifier', first)
  if (logits.length !== batch * CLASSES) throw new Error(`got ${logits.length} logits`)
  return { logits, hidden: x.data }
}

/** Keys and values [B, P, d] of a block, of the calls so far. */
interface Cached {
  k: Activations
  v: Activations
}

/** The decoder with a cache: each call appends to it. */
export class ComputedDecoder {
  readonly #cache: Cached[] = []
  /** By text: 0 for padding, of all calls. */
  readonly #flags: number[][]

  constructor(
    readonly model: TinyModel,
    readonly batch: number,
  ) {
    this.#flags = Array.from({ length: batch }, () => [])
  }

  /**
   * @param flags [B, N]: 0 for padding, which also counts in no mean of the adapter; default: there is no padding
   * @returns logits [B, N, vocabulary] of the tokens [B, N], which follow those of earlier calls
   */
  call(ids: readonly number[], adapter: AdapterModel | null, flags?: readonly number[]): Float32Array {
    const computed = new Computed(this.model, adapter, flags)
    const tokens = ids.length / this.batch
    const past = this.#flags[0].length
    for (const [index] of ids.entries()) this.#flags[Math.floor(index / tokens)].push(flags?.[index] ?? 1)
    const leading = [this.batch, tokens]
    const positions = ids.map((_, index) => past + (index % tokens))
    let x = sum(
      computed.lookUp('model.embed_tokens.weight', ids, leading),
      computed.lookUp('model.embed_positions.weight', positions, leading),
    )
    for (let block = 0; block < BLOCKS; block++) {
      const at = `model.layers.${block}`
      const normed = computed.norm(`${at}.input_layernorm`, x)
      const [q, k, v] = ['q_proj', 'k_proj', 'v_proj'].map((part) => computed.linear(`${at}.self_attn.${part}`, normed))
      const cached = this.#append(block, { k, v })
      const attended = attention(q, cached.k, cached.v, (b, i, j) => j <= past + i && this.#flags[b][j] !== 0)
      x = sum(x, computed.linear(`${at}.self_attn.o_proj`, attended))
      const last = computed.norm(`${at}.post_attention_layernorm`, x)
      const [gate, up] = ['gate_proj', 'up_proj'].map((part) => computed.linear(`${at}.mlp.${part}`, last))
      const inner = zipped(gate, up, (g, u) => (g / (1 + Math.exp(-g))) * u)
      x = sum(x, computed.linear(`${at}.mlp.down_proj`, inner))
    }
    return computed.linear('lm_head', computed.norm('model.norm', x)).data
  }

  #append(block: number, { k, v }: Cached): Cached {
    const before = this.#cache.at(block)
    const now = before === undefined ? { k, v } : { k: joined(before.k, k), v: joined(before.v, v) }
    this.#cache[block] = now
    return now
  }
}

/** The rows of both along N. */
function joined(left: Activations, right: Activations): Activations {
  const [batch, before] = left.shape
  const [, more] = right.shape
  return generated([batch, before + more, D], (index) => {
    const [b, row] = [Math.floor(index / D / (before + more)), Math.floor(index / D) % (before + more)]
    const column = index % D
    return row < before
      ? left.data[(b * before + row) * D + column]
      : right.data[(b * more + row - before) * D + column]
  })
}
