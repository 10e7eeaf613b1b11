/** A tiny encoder of the BERT family and a tiny decoder of the Llama family, with random weights, as exporters write them. */
import {
  type Attributes,
  type Constant,
  constant,
  encodeOnnx,
  type Node,
  node,
  type OnnxData,
  TYPES,
  type Value,
  value,
} from '../../bench/workload/onnx.js'
import { transposed } from '../../bench/workload/transposed.js'
import { gaussian, randomFrom } from './random.js'

/** The nodes that exporters make of a linear layer. */
type Form = 'MatMul' | 'MatMul + Add' | 'Gemm'

export interface TinyLayer {
  readonly name: string
  readonly inFeatures: number
  readonly outFeatures: number
  readonly form: Form
}

interface Matrix {
  readonly shape: readonly number[]
  readonly values: Float32Array
}

/** The tensors of a model by name. Those of a layer are `<layer>.weight` [d_out, d_in] and, except for MatMul, `<layer>.bias`. */
export type Tensors = ReadonlyMap<string, Matrix>

export interface TinyModel {
  readonly layers: readonly TinyLayer[]
  readonly tensors: Tensors
}

export const [VOCABULARY, POSITIONS, CLASSES] = [40, 32, 3]
export const [BLOCKS, HEADS] = [2, 2]
/** The width of the models, of their MLPs and of a head. */
export const [D, INNER, D_HEAD] = [32, 48, 16]
const EPSILON = 1e-5
/** The score of a key that a query does not see. Its power is 0 in float32. */
const UNSEEN = -10000

const blocks = Array.from({ length: BLOCKS }, (_, block) => block)

/** The layers of the encoder by Transformers' names. */
export const ENCODER_LAYERS: readonly TinyLayer[] = [
  ...blocks.flatMap((block) => {
    const layer = (name: string, outFeatures: number, inFeatures: number) => ({
      ...{ name: `bert.encoder.layer.${block}.${name}`, inFeatures, outFeatures, form: 'MatMul + Add' as const },
    })
    return [
      layer('attention.self.query', D, D),
      layer('attention.self.key', D, D),
      layer('attention.self.value', D, D),
      layer('attention.output.dense', D, D),
      layer('intermediate.dense', INNER, D),
      layer('output.dense', D, INNER),
    ]
  }),
  { name: 'classifier', inFeatures: D, outFeatures: CLASSES, form: 'Gemm' },
]

/** The layers of the decoder by Transformers' names. */
export const DECODER_LAYERS: readonly TinyLayer[] = [
  ...blocks.flatMap((block) => {
    const layer = (name: string, outFeatures: number, inFeatures: number, form: Form = 'MatMul') => ({
      ...{ name: `model.layers.${block}.${name}`, inFeatures, outFeatures, form },
    })
    return [
      layer('self_attn.q_proj', D, D),
      layer('self_attn.k_proj', D, D),
      layer('self_attn.v_proj', D, D, 'MatMul + Add'),
      layer('self_attn.o_proj', D, D),
      layer('mlp.gate_proj', INNER, D),
      layer('mlp.up_proj', INNER, D),
      layer('mlp.down_proj', D, INNER, 'Gemm'),
    ]
  }),
  { name: 'lm_head', inFeatures: D, outFeatures: VOCABULARY, form: 'MatMul' },
]

function tinyModel(
  seed: number,
  layers: readonly TinyLayer[],
  tables: readonly (readonly [name: string, rows: number])[],
  norms: readonly string[],
): TinyModel {
  const random = randomFrom(seed)
  const tensors = new Map<string, Matrix>()
  const add = (name: string, shape: readonly number[], deviation: number, mean = 0) => {
    const size = shape.reduce((product, dimension) => product * dimension, 1)
    const values = gaussian(random, size, deviation).map((each) => each + mean)
    tensors.set(name, { shape, values })
  }
  for (const [name, rows] of tables) add(name, [rows, D], 1)
  for (const name of norms) add(name, [D], 0.1, name.endsWith('bias') ? 0 : 1)
  for (const { name, inFeatures, outFeatures, form } of layers) {
    add(`${name}.weight`, [outFeatures, inFeatures], 1 / Math.sqrt(inFeatures))
    if (form !== 'MatMul') add(`${name}.bias`, [outFeatures], 0.1)
  }
  return { layers, tensors }
}

export function tinyEncoder(): TinyModel {
  const norms = [
    'bert.embeddings.LayerNorm',
    ...blocks.flatMap((block) =>
      ['attention.output', 'output'].map((part) => `bert.encoder.layer.${block}.${part}.LayerNorm`),
    ),
  ]
  return tinyModel(
    11,
    ENCODER_LAYERS,
    [
      ['bert.embeddings.word_embeddings.weight', VOCABULARY],
      ['bert.embeddings.position_embeddings.weight', POSITIONS],
    ],
    norms.flatMap((name) => [`${name}.weight`, `${name}.bias`]),
  )
}

export function tinyDecoder(): TinyModel {
  const norms = blocks.flatMap((block) =>
    ['input_layernorm', 'post_attention_layernorm'].map((name) => `model.layers.${block}.${name}.weight`),
  )
  return tinyModel(
    12,
    DECODER_LAYERS,
    [
      ['model.embed_tokens.weight', VOCABULARY],
      ['model.embed_positions.weight', POSITIONS],
    ],
    [...norms, 'model.norm.weight'],
  )
}

/** '/model/layers.0/self_attn/q_proj' for 'model.layers.0.self_attn.q_proj', as PyTorch's exporter writes paths. */
export const pathOf = (name: string) => `/${name.replaceAll(/\.(?!\d)/g, '/')}`

/** A graph that grows by nodes. */
class Graph {
  readonly nodes: Node[] = []
  readonly constants: Constant[] = []
  readonly #known = new Set<string>()

  constructor(readonly model: TinyModel) {}

  /** Adds a node. Returns the name of its output. */
  add(opType: string, inputs: readonly string[], attributes?: Attributes, name = `/${opType}_${this.nodes.length}`) {
    const output = `${name}_output_0`
    this.nodes.push({ ...node(opType, inputs, output, attributes), name })
    return output
  }

  /** Adds a constant if there is none of this name. Returns its name. */
  #constant(name: string, data: () => OnnxData, shape: readonly number[]): string {
    if (!this.#known.has(name)) this.constants.push(constant(name, data(), shape))
    this.#known.add(name)
    return name
  }

  integers(...values: readonly number[]): string {
    return this.#constant(`sizes_${values.join('_')}`, () => BigInt64Array.from(values, BigInt), [values.length])
  }

  number(each: number): string {
    return this.#constant(`number_${each}`, () => Float32Array.of(each), [])
  }

  tensor(name: string): string {
    const { shape, values } = this.#tensorOf(name)
    return this.#constant(name, () => values, shape)
  }

  #tensorOf(name: string): Matrix {
    const found = this.model.tensors.get(name)
    if (found === undefined) throw new Error(`there is no tensor ${name}`)
    return found
  }

  /** y = x W^T + b for x [B, N, d_in], or for a Gemm of x [B, d_in]. */
  linear(name: string, x: string, dimensions: 2 | 3 = 3): string {
    const layer = this.model.layers.find((each) => each.name === name)
    if (layer === undefined) throw new Error(`there is no layer ${name}`)
    const path = pathOf(name)
    if (layer.form === 'Gemm') {
      const rows = dimensions === 2 ? x : this.add('Reshape', [x, this.integers(-1, layer.inFeatures)])
      const inputs = [rows, this.tensor(`${name}.weight`), this.tensor(`${name}.bias`)]
      const y = this.add('Gemm', inputs, { transB: 1 }, `${path}/Gemm`)
      if (dimensions === 2) return y
      const sizes = this.add('Concat', [this.#leading(x), this.integers(layer.outFeatures)], { axis: 0 })
      return this.add('Reshape', [y, sizes])
    }
    const y = this.#product(layer, x, path)
    return layer.form === 'MatMul' ? y : this.add('Add', [this.tensor(`${name}.bias`), y], {}, `${path}/Add`)
  }

  /** The sizes B and N. */
  #leading(x: string): string {
    return this.add('Shape', [x], { end: 2 })
  }

  #product({ name, inFeatures: K, outFeatures: N, form }: TinyLayer, x: string, path: string): string {
    const weight = this.#tensorOf(`${name}.weight`)
    // An exporter that folds the transpose into the weight has no name for it. Its names are numbers.
    const index = this.model.layers.findIndex((layer) => layer.name === name)
    const stored = form === 'MatMul' ? `${name}.MatMul.weight` : `onnx::MatMul_${200 + index}`
    const w = this.#constant(stored, () => transposed(weight.values, N, K), [K, N])
    return this.add('MatMul', [x, w], {}, `${path}/MatMul`)
  }

  /** [B, heads, N, d_head] of [B, N, d]. */
  heads(x: string): string {
    return this.add('Transpose', [this.add('Reshape', [x, this.integers(0, 0, HEADS, D_HEAD)])], { perm: [0, 2, 1, 3] })
  }

  /** Attention of heads. A query sees the keys for which `seen` is true. */
  attention(q: string, k: string, v: string, seen: string): string {
    const product = this.add('MatMul', [q, this.add('Transpose', [k], { perm: [0, 1, 3, 2] })])
    const scores = this.add('Mul', [product, this.number(1 / Math.sqrt(D_HEAD))])
    const masked = this.add('Where', [seen, scores, this.number(UNSEEN)])
    const values = this.add('MatMul', [this.add('Softmax', [masked], { axis: -1 }), v])
    return this.add('Reshape', [this.add('Transpose', [values], { perm: [0, 2, 1, 3] }), this.integers(0, 0, D)])
  }

  encode(
    inputs: readonly Value[],
    outputs: Readonly<Record<string, readonly [name: string, shape: (string | number)[]]>>,
  ) {
    for (const [output, [name]] of Object.entries(outputs)) this.nodes.push(node('Identity', [name], output))
    const { nodes, constants } = this
    const values = Object.entries(outputs).map(([name, [, shape]]) => value(name, 'float32', shape))
    return encodeOnnx({ nodes, constants, inputs, outputs: values })
  }
}

/**
 * The encoder: input_ids and attention_mask [B, N] to last_hidden_state [B, N, d] and the logits [B, classes] of the first
 * token.
 */
export function encoderOnnx(model: TinyModel): Uint8Array<ArrayBuffer> {
  const graph = new Graph(model)
  const norm = (name: string, x: string) =>
    graph.add('LayerNormalization', [x, graph.tensor(`${name}.weight`), graph.tensor(`${name}.bias`)], {
      axis: -1,
      epsilon: EPSILON,
    })
  const seen = graph.add('Cast', [graph.add('Reshape', ['attention_mask', graph.integers(0, 1, 1, -1)])], {
    to: TYPES.bool,
  })
  const words = graph.add('Gather', [graph.tensor('bert.embeddings.word_embeddings.weight'), 'input_ids'])
  const length = graph.add('Shape', ['input_ids'], { start: 1 })
  const table = graph.tensor('bert.embeddings.position_embeddings.weight')
  const positions = graph.add('Slice', [table, graph.integers(0), length])
  let x = norm('bert.embeddings.LayerNorm', graph.add('Add', [words, positions]))
  for (const block of blocks) {
    const at = `bert.encoder.layer.${block}`
    const [q, k, v] = ['query', 'key', 'value'].map((part) =>
      graph.heads(graph.linear(`${at}.attention.self.${part}`, x)),
    )
    const attended = graph.linear(`${at}.attention.output.dense`, graph.attention(q, k, v, seen))
    x = norm(`${at}.attention.output.LayerNorm`, graph.add('Add', [attended, x]))
    const inner = graph.add('Relu', [graph.linear(`${at}.intermediate.dense`, x)])
    x = norm(`${at}.output.LayerNorm`, graph.add('Add', [graph.linear(`${at}.output.dense`, inner), x]))
  }
  const first = graph.add('Reshape', [
    graph.add('Slice', [x, graph.integers(0), graph.integers(1), graph.integers(1)]),
    graph.integers(-1, D),
  ])
  const inputs = ['input_ids', 'attention_mask'].map((name) => value(name, 'int64', ['batch_size', 'sequence_length']))
  return graph.encode(inputs, {
    last_hidden_state: [x, ['batch_size', 'sequence_length', D]],
    logits: [graph.linear('classifier', first, 2), ['batch_size', CLASSES]],
  })
}

/**
 * The decoder: input_ids and position_ids [B, N], attention_mask [B, P + N] and past_key_values.<block>.key and .value
 * [B, heads, P, d_head] to logits [B, N, vocabulary] and present.<block>.key and .value [B, heads, P + N, d_head].
 */
export function decoderOnnx(model: TinyModel): Uint8Array<ArrayBuffer> {
  const graph = new Graph(model)
  const norm = (name: string, x: string) => {
    const squares = graph.add('ReduceMean', [graph.add('Mul', [x, x])], { axes: [-1] })
    const root = graph.add('Sqrt', [graph.add('Add', [squares, graph.number(EPSILON)])])
    return graph.add('Mul', [graph.add('Div', [x, root]), graph.tensor(`${name}.weight`)])
  }
  // The slots of the keys and of the queries: those of this call follow those of the cache.
  const slots = graph.integers(...Array.from({ length: POSITIONS }, (_, slot) => slot))
  const past = graph.add('Shape', ['past_key_values.0.key'], { start: 2, end: 3 })
  const total = graph.add('Shape', ['attention_mask'], { start: 1 })
  const keys = graph.add('Slice', [slots, graph.integers(0), total])
  const queries = graph.add('Reshape', [graph.add('Slice', [slots, past, total]), graph.integers(-1, 1)])
  const before = graph.add('LessOrEqual', [keys, queries])
  const given = graph.add('Cast', [graph.add('Reshape', ['attention_mask', graph.integers(0, 1, 1, -1)])], {
    to: TYPES.bool,
  })
  const seen = graph.add('And', [before, given])
  const words = graph.add('Gather', [graph.tensor('model.embed_tokens.weight'), 'input_ids'])
  const positions = graph.add('Gather', [graph.tensor('model.embed_positions.weight'), 'position_ids'])
  let x = graph.add('Add', [words, positions])
  const presents: Record<string, readonly [string, (string | number)[]]> = {}
  for (const block of blocks) {
    const at = `model.layers.${block}`
    const normed = norm(`${at}.input_layernorm`, x)
    const q = graph.heads(graph.linear(`${at}.self_attn.q_proj`, normed))
    const [k, v] = ['key', 'value'].map((part) => {
      const own = graph.heads(graph.linear(`${at}.self_attn.${part[0]}_proj`, normed))
      const all = graph.add('Concat', [`past_key_values.${block}.${part}`, own], { axis: 2 })
      presents[`present.${block}.${part}`] = [all, ['batch_size', HEADS, 'total_sequence_length', D_HEAD]]
      return all
    })
    x = graph.add('Add', [x, graph.linear(`${at}.self_attn.o_proj`, graph.attention(q, k, v, seen))])
    const last = norm(`${at}.post_attention_layernorm`, x)
    const gate = graph.linear(`${at}.mlp.gate_proj`, last)
    const inner = graph.add('Mul', [
      graph.add('Mul', [gate, graph.add('Sigmoid', [gate])]),
      graph.linear(`${at}.mlp.up_proj`, last),
    ])
    x = graph.add('Add', [x, graph.linear(`${at}.mlp.down_proj`, inner)])
  }
  const logits = graph.linear('lm_head', norm('model.norm', x))
  const inputs = [
    ...['input_ids', 'position_ids'].map((name) => value(name, 'int64', ['batch_size', 'sequence_length'])),
    value('attention_mask', 'int64', ['batch_size', 'total_sequence_length']),
    ...blocks.flatMap((block) =>
      ['key', 'value'].map((part) =>
        value(`past_key_values.${block}.${part}`, 'float32', ['batch_size', HEADS, 'past_sequence_length', D_HEAD]),
      ),
    ),
  ]
  return graph.encode(inputs, { logits: [logits, ['batch_size', 'sequence_length', VOCABULARY]], ...presents })
}
