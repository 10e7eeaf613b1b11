/** The linear layers around the attention of a decoder's block, and adapters on them. */
import { type AdapterModel, LilyModel, LoraModel } from '../../lib/index.js'
import { constant, encodeOnnx, node, value } from '../workload/onnx.js'
import { fillPattern } from '../workload/pattern.js'
import { transposed } from '../workload/transposed.js'

export const adapters = ['lora', 'lily-frozen', 'lily-sequence', 'lily-token'] as const
export type AdapterName = (typeof adapters)[number]

/** The sizes of all layers, with d = d_in = d_out features, and of the adapters. */
export interface Sizes {
  readonly d: number
  readonly rank: number
  /** Experts of Lily. */
  readonly experts: number
}

export interface LinearLayer {
  /** The name of a module of PyTorch: the weight's name without '.weight'. */
  readonly name: string
  /** The name of its input, [B, N, d]: 'x', or the output of a layer before it. */
  readonly x: string
  /** The name of its output, [B, N, d]. */
  readonly y: string
}

const path = (name: string): string => `model.layers.0.self_attn.${name}_proj`

/** Without the attention between them, which has no weights: o reads what v computes. */
export const layers: readonly LinearLayer[] = [
  { name: path('q'), x: 'x', y: 'q' },
  { name: path('k'), x: 'x', y: 'k' },
  { name: path('v'), x: 'x', y: 'v' },
  { name: path('o'), x: 'v', y: 'o' },
]

/** Where the pattern begins: no two weights, and no two parameters, have the same numbers. */
const firstNumber = (index: number): number => 1009 * index

/** [d_out, d_in] by the name of the layer. */
export function makeWeights({ d }: Sizes): Map<string, Float32Array> {
  return new Map(
    layers.map(({ name }, index) => {
      const weight = new Float32Array(d * d)
      fillPattern(weight, d ** -0.5, firstNumber(index))
      return [name, weight]
    }),
  )
}

/**
 * By kind of parameter. The adapter then changes the outputs as a trained one does, by about a tenth, and the router
 * prefers other experts for each token.
 */
const SCALES: Readonly<Record<'a' | 'router' | 'b', (sizes: Sizes) => number>> = {
  a: ({ d }) => d ** -0.5,
  router: () => 4,
  b: () => 0.05,
}

/** An adapter on all layers. Equal arguments give equal adapters. */
export function makeAdapter(adapter: AdapterName, sizes: Sizes): AdapterModel {
  const { d, rank, experts } = sizes
  const shapes = layers.map(({ name }) => ({ name, inFeatures: d, outFeatures: d }))
  const fill = <Model extends AdapterModel>(model: Model): Model => {
    for (const [index, { kind, value }] of [...model.parameters().values()].entries()) {
      fillPattern(value.data as Float32Array, SCALES[kind](sizes), firstNumber(layers.length + index))
    }
    return model
  }
  if (adapter === 'lora') {
    return fill(LoraModel.create({ layers: shapes, config: { r: rank, loraAlpha: 2 * rank } }))
  }
  const routing = adapter === 'lily-token' ? 'token' : 'sequence'
  const model = fill(LilyModel.create({ layers: shapes, config: { r: rank, numB: experts, scaling: 2, routing } }))
  if (adapter === 'lily-frozen') {
    const weights = Array.from({ length: experts }, (_, e) => (2 * (e + 1)) / (experts * (experts + 1)))
    model.freeze(new Map(shapes.map(({ name }) => [name, weights])))
  }
  return model
}

/** Whether the update of an adapter is a matrix. */
export const isMergeable = (adapter: AdapterName): boolean => adapter === 'lora' || adapter === 'lily-frozen'

/** The weights with the update of an adapter: copies. */
export function mergedWeights(
  weights: ReadonlyMap<string, Float32Array>,
  adapter: AdapterName,
  sizes: Sizes,
): Map<string, Float32Array> {
  const model = makeAdapter(adapter, sizes)
  const merged = new Map(Array.from(weights, ([name, weight]) => [name, weight.slice()]))
  for (const [name, data] of merged) model.merge(name, { data, shape: [sizes.d, sizes.d], dtype: 'float32' })
  model.dispose()
  return merged
}

/**
 * The layers as a model of ONNX without an adapter. Its input is x, and its outputs are the outputs of all layers.
 *
 * @param weights [d_out, d_in] by the name of the layer
 */
export function blockModel(weights: ReadonlyMap<string, Float32Array>, { d }: Sizes): Uint8Array<ArrayBuffer> {
  const activation = (name: string) => value(name, 'float32', ['B', 'N', d])
  return encodeOnnx({
    nodes: layers.map(({ name, x, y }) => node('MatMul', [x, `${name}.weight`], y)),
    constants: layers.map(({ name }) => constant(`${name}.weight`, transposed(weights.get(name)!, d, d), [d, d])),
    inputs: [activation('x')],
    outputs: layers.map(({ y }) => activation(y)),
  })
}
