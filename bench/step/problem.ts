/**
 * What `bench:step` trains: the sizes of two encoders, their batches, and the initial values of every tensor, as plain data
 * that all contenders read.
 */
import { type LayerShape, LilyModel, LoraModel } from '../../lib/index.js'
import { filled } from '../workload/operands.js'

/** `blocks`: four equal blocks; `finetune`: the encoder of examples/finetune. */
export const encoders = ['blocks', 'finetune'] as const
export type EncoderName = (typeof encoders)[number]
export const adapters = ['lora', 'lily'] as const
export type AdapterName = (typeof adapters)[number]

/** `shift` + `scale` times the deterministic numbers of bench/workload/operands.ts in [-1, 1), from the number `begin` on. */
export interface Initial {
  readonly shape: readonly number[]
  readonly scale: number
  readonly shift: number
  readonly begin: number
}
export type Tensors = Readonly<Record<string, Initial>>

/** Sentences of one length: the shorter ones are padded with token 0 at their end. */
export interface TokenBatch {
  readonly tokens: readonly (readonly number[])[]
  /** Tokens of each sentence that are no padding. */
  readonly lengths: readonly number[]
  /** Label of each sentence. */
  readonly labels: readonly (0 | 1)[]
}

export interface Problem {
  readonly encoder: EncoderName
  readonly adapter: AdapterName
  readonly blocks: number
  readonly heads: number
  /** Steps take them in turn. */
  readonly batches: readonly TokenBatch[]
  readonly frozen: Tensors
  /** Parameters of the adapters, by PEFT's names. */
  readonly parameters: Tensors
  /** Trained with the adapters. */
  readonly head: Tensors
  /** The adapted layers, and the names of their parameters. LoRA has no router. */
  readonly layers: Readonly<Record<string, { readonly a: string; readonly b: string; readonly router: string | null }>>
  readonly shapes: readonly LayerShape[]
  /** Configuration of LilyModel or LoraModel. */
  readonly config: Readonly<Record<string, unknown>>
  readonly experts: number
  readonly scaling: number
  /** Whether the router of Lily weighs the experts for each sentence; otherwise for the whole batch. */
  readonly bySentence: boolean
  readonly rate: number
  readonly headRate: number
}

/** Weight decay of all parameters, as in `AdamW` and torch.optim.AdamW. */
export const WEIGHT_DECAY = 0.01
/** Maximum norm of all gradients together. */
export const MAX_NORM = 1
/** Factor on the embeddings of `finetune`, whose norm is 1, before the head. */
export const EMBEDDING_SCALE = 8

/** `small` is for tests: a step takes milliseconds. */
export type Size = 'full' | 'small'

/** An encoder of a size that is common for classification. */
const BLOCKS = {
  full: { blocks: 4, width: 256, inner: 1024, sentences: 8, length: 128, loraRank: 8, lilyRank: 32 },
  small: { blocks: 2, width: 24, inner: 40, sentences: 3, length: 7, loraRank: 2, lilyRank: 4 },
} as const
const HEADS = 4

const VOCABULARY = 1000

/** Batches of examples/finetune, whose sentences have lengths from `least` to `most`, nearly as in its quick form. */
const BATCHES = {
  full: [
    { sentences: 32, least: 3, most: 9 },
    { sentences: 32, least: 9, most: 17 },
    { sentences: 32, least: 17, most: 32 },
  ],
  small: [
    { sentences: 3, least: 1, most: 3 },
    { sentences: 2, least: 3, most: 5 },
  ],
} as const

export function makeProblem(encoder: EncoderName, adapter: AdapterName, size: Size = 'full'): Problem {
  return encoder === 'blocks' ? blocksProblem(adapter, size) : finetuneProblem(adapter, size)
}

/** The numbers of a tensor. */
export function initialValues({ shape, scale, shift, begin }: Initial): Float32Array {
  const count = shape.reduce((product, size) => product * size, 1)
  const numbers = (filled([begin + count], scale).data as Float32Array).subarray(begin)
  return numbers.map((number) => number + shift)
}

/** A uniform distribution in [-sqrt(3), sqrt(3)) has variance 1. */
const UNIT = Math.sqrt(3)

/** Gives each tensor numbers of its own. */
function tensorMaker() {
  let made = 0
  return (shape: readonly number[], scale: number, shift = 0): Initial => ({
    shape,
    scale,
    shift,
    begin: (7919 * made++) % 65_521,
  })
}
type Make = ReturnType<typeof tensorMaker>

const kernel = (make: Make, dIn: number, dOut: number) => make([dIn, dOut], UNIT / Math.sqrt(dIn))

function blocksProblem(adapter: AdapterName, size: Size): Problem {
  const { blocks, width, inner, sentences, length, loraRank, lilyRank } = BLOCKS[size]
  const make = tensorMaker()
  const targets = {
    q: [width, width],
    k: [width, width],
    v: [width, width],
    o: [width, width],
    up: [width, inner],
    down: [inner, width],
  } as const
  const shapes = Array.from({ length: blocks }, (_, block) =>
    Object.entries(targets).map(([target, [inFeatures, outFeatures]]) => ({
      name: `${block}.${target}`,
      inFeatures,
      outFeatures,
    })),
  ).flat()
  const targetModules = Object.keys(targets)
  return {
    encoder: 'blocks',
    adapter,
    blocks,
    heads: HEADS,
    batches: [batchOf(Array.from({ length: sentences }, () => length))],
    frozen: {
      embedding: make([VOCABULARY, width], UNIT),
      position: make([length, width], UNIT),
      ...Object.fromEntries(
        shapes.map(({ name, inFeatures, outFeatures }) => [name, kernel(make, inFeatures, outFeatures)]),
      ),
    },
    ...adapterOf(
      adapter,
      shapes,
      adapter === 'lora'
        ? { r: loraRank, loraAlpha: loraRank, targetModules }
        : { r: lilyRank, numB: 2, strideA: 2, targetModules, routing: 'batch' },
      make,
    ),
    head: { weight: make([width, 2], 0.1 * UNIT) },
    experts: 2,
    scaling: 1,
    bySentence: false,
    rate: 3e-3,
    headRate: 3e-3,
  }
}

function finetuneProblem(adapter: AdapterName, size: Size): Problem {
  const make = tensorMaker()
  const widths = [256, 512] as const
  const [outer, inner, scaling] = [512, 1536, 2]
  const targetModules = String.raw`\d\.attention\.[qkv]`
  const shapes = widths.flatMap((width, block) =>
    ['q', 'k', 'v'].map((name) => ({
      name: `${block}.attention.${name}`,
      inFeatures: width,
      outFeatures: width,
    })),
  )
  const bias = (width: number) => make([width], 0.1)
  const norm = (name: string, width: number) => ({
    [`${name}/layer_norm/layer_norm_scale`]: make([width], 0.1, 1),
    [`${name}/layer_norm/layer_norm_bias`]: bias(width),
  })
  const layer = (weight: string, biasName: string, dIn: number, dOut: number) => ({
    [weight]: kernel(make, dIn, dOut),
    [biasName]: bias(dOut),
  })
  const frozen = Object.assign(
    {
      'module/Embeddings_en': make([VOCABULARY, widths[0]], UNIT),
      'Layer_0/AddTimingSignal/TimingSignal/ExpandDims_1': make([1, widths[0] / 2], 0.5, 0.5),
    },
    ...widths.map((width, i) => {
      const [block, attention] = [`Layer_${i}`, `Layer_${i}/MultiheadAttention`]
      const named = (name: string, dIn: number, dOut: number) => layer(`${name}/kernel`, `${name}/bias`, dIn, dOut)
      return {
        ...norm(`${block}/layer_prepostprocess`, width),
        ...named(`${attention}/qkv_transform_single`, width, 3 * width),
        ...named(`${attention}/output_transform_single`, width, outer),
        ...(width === outer ? {} : named(`${block}/dense`, width, outer)),
        ...norm(`${block}/FFN/layer_prepostprocess`, outer),
        ...layer(`${block}/FFN/conv1`, `${block}/FFN/conv1/bias`, outer, inner),
        ...layer(`${block}/FFN/conv2`, `${block}/FFN/conv2/bias`, inner, outer),
      }
    }),
    layer('hidden_layers/tanh_layer_0/weights', 'hidden_layers/tanh_layer_0/bias', outer, outer),
  ) as Tensors
  return {
    encoder: 'finetune',
    adapter,
    blocks: widths.length,
    heads: HEADS,
    batches: BATCHES[size].map(({ sentences, least, most }) =>
      batchOf(Array.from({ length: sentences }, (_, i) => Math.round(least + ((most - least) * i) / (sentences - 1)))),
    ),
    frozen,
    ...adapterOf(
      adapter,
      shapes,
      adapter === 'lora'
        ? { r: 2, loraAlpha: 2 * scaling, targetModules }
        : { r: 4, numB: 2, strideA: 3, targetModules, routing: 'sequence', scaling },
      make,
    ),
    head: { weight: make([outer, 1], 0), bias: make([1], 0) },
    experts: 2,
    scaling,
    bySentence: true,
    rate: 2e-3,
    headRate: 2e-2,
  }
}

function batchOf(lengths: readonly number[]): TokenBatch {
  const longest = Math.max(...lengths)
  return {
    tokens: lengths.map((length, sentence) =>
      Array.from({ length: longest }, (_, i) =>
        i < length ? 1 + (((sentence * longest + i) * 7919) % (VOCABULARY - 1)) : 0,
      ),
    ),
    lengths,
    labels: lengths.map((_, sentence) => (sentence % 2) as 0 | 1),
  }
}

type Adapted = Pick<Problem, 'parameters' | 'layers' | 'shapes' | 'config'>

/** The parameters of an adapter as the package lays them out. B is zero, as in PEFT. */
function adapterOf(
  adapter: AdapterName,
  shapes: readonly LayerShape[],
  config: Problem['config'],
  make: Make,
): Adapted {
  const model = createModel(adapter, { shapes, config })
  const names = new Map([...model.parameters()].map(([name, parameter]) => [parameter, name]))
  const layers = shapes.map(({ name }) => {
    const layer = model.layer(name)
    const router = 'router' in layer ? names.get(layer.router)! : null
    return [name, { a: names.get(layer.a)!, b: names.get(layer.b)!, router }] as const
  })
  const parameters = [...model.parameters()].map(([name, { value }]) => {
    const isB = layers.some(([, { b }]) => b === name)
    return [name, make(value.shape, isB ? 0 : UNIT / Math.sqrt(value.shape[1]))] as const
  })
  return { parameters: Object.fromEntries(parameters), layers: Object.fromEntries(layers), shapes, config }
}

export function createModel(
  adapter: AdapterName,
  { shapes, config }: Pick<Problem, 'shapes' | 'config'>,
): LilyModel | LoraModel {
  const options = { layers: shapes, config: config as never, seed: 1 }
  return adapter === 'lily' ? LilyModel.create(options) : LoraModel.create(options)
}
