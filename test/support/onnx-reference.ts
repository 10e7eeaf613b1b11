/** What a layer of an ONNX model computes with its adapter, in float64. */
import { type AdapterModel, LilyModel } from '../../lib/index.js'
import { round } from './dtypes.js'
import { forward, linear, type Matrix, type Problem } from './reference.js'

/** The types of x and y. */
export type Type = 'float32' | 'float16' | 'float64'

/** A layer without its adapter. */
export interface Layer {
  readonly name: string
  readonly inFeatures: number
  readonly outFeatures: number
  /** [d_out, d_in] */
  readonly weight: Float32Array
  readonly bias?: Float32Array | undefined
}

/** What a layer is given in a call. */
export interface Given {
  /** [B N, d_in] */
  readonly x: Float32Array
  /** B: of routing 'sequence', each has the same number of tokens. */
  readonly sequences: number
  /** [B N]: 0 for tokens that count in no mean. */
  readonly mask?: readonly number[] | undefined
  readonly type?: Type | undefined
}

const roundedTo = (type: Type, values: Float32Array) =>
  values.map((number) => (type === 'float16' ? round('float16', number) : number))

/** What the adapter of a layer adds to y. */
export function updateOf(model: AdapterModel, name: string, { x, sequences, mask, type = 'float32' }: Given): Matrix {
  const layer = model.layer(name)
  const [rank, dIn] = layer.a.value.shape
  const tokens = x.length / dIn
  const values = { tokens, dIn, dOut: layer.outFeatures, x: roundedTo(type, x), scaling: layer.scaling }
  const matrices = { a: layer.a.value.data, b: layer.b.value.data, rank, experts: 1 }
  const problem: Problem = { ...values, ...matrices, routing: 'lora' }
  if (model instanceof LilyModel) {
    const { routing, router, frozenWeights } = model.layer(name)
    const { pool, activation, numB: experts } = model.config
    const offsets =
      routing === 'sequence' ? Array.from({ length: sequences + 1 }, (_, b) => (b * tokens) / sequences) : undefined
    Object.assign(problem, { routing, pool, activation, experts, router: router.value.data, offsets })
    Object.assign(problem, { weights: frozenWeights, mask: routing === 'fixed' ? undefined : mask })
  }
  return forward(problem).y
}

/** y of a layer, with what the adapter adds to it if it adapts this layer. */
export function outputOf(layer: Layer, model: AdapterModel | null, given: Given): Matrix {
  const { name, inFeatures: dIn, outFeatures: dOut, weight, bias } = layer
  const { x, type = 'float32' } = given
  const tokens = x.length / dIn
  const dy = new Float32Array(tokens * dOut)
  const { y } = linear({ tokens, dIn, dOut, x: roundedTo(type, x), weight, bias, dy })
  const float = type === 'float16' ? type : undefined
  const base = y.rounded(float, true)
  if (model?.layers.has(name) !== true) return base.rounded(float, true)
  return base.plus(updateOf(model, name, given).rounded(float, true)).rounded(float, true)
}
