/** A small ONNX model of linear layers, and adapters of it. */
import { fromBinary, toBinary } from '@bufbuild/protobuf'
import { type GraphProto, ModelProtoSchema, TensorProto_DataType as DataType } from 'onnx-buf'
import { type Constant, encodeOnnx, node, type Node, type Value, value } from '../../bench/workload/onnx.js'
import { transposed } from '../../bench/workload/transposed.js'
import { type AdapterModel, LilyModel, type LilyConfigOptions, LoraModel } from '../../lib/index.js'
import { pack } from './dtypes.js'
import type { Type } from './onnx-reference.js'
import { gaussian, randomFrom } from './random.js'

export type Numbers = Float32Array | Float64Array | Uint16Array

export const [B, N, D_IN] = [3, 5, 12]
export const M = B * N
/** Layers of two targets, of which the first has three layers. */
export const LAYERS = [
  { name: 'layers.0.q', inFeatures: D_IN, outFeatures: 7 },
  { name: 'layers.0.v', inFeatures: D_IN, outFeatures: 9 },
  { name: 'layers.1.q', inFeatures: D_IN, outFeatures: 7 },
  { name: 'layers.2.q', inFeatures: D_IN, outFeatures: 7 },
]
const targetModules = ['q', 'v']
const random = randomFrom(54)
export const x = gaussian(random, M * D_IN)
export const weights = new Map(LAYERS.map(({ name, outFeatures }) => [name, gaussian(random, outFeatures * D_IN)]))

// Multiples of 1/4 from -2 to 7/4, which all types have, and numbers of four bits, too.
for (const weight of weights.values())
  weight.forEach((number, i) => (weight[i] = Math.max(-8, Math.min(7, Math.round(4 * number))) / 4))

const DATA_TYPES = { float32: DataType.FLOAT, float16: DataType.FLOAT16, float64: DataType.DOUBLE } as const
export const typed = (type: Type, values: Float32Array): Numbers =>
  type === 'float64' ? Float64Array.from(values) : pack(type, values)

export function initializer(name: string, type: Type, values: Float32Array, dims: readonly number[]): Constant {
  const { buffer, byteOffset, byteLength } = typed(type, values)
  const rawData = new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength).slice()
  return { name, dataType: DATA_TYPES[type], dims: dims.map(BigInt), rawData }
}

/** An input or an output; null: of any dimensions. */
function typedValue(name: string, type: Type, dims: readonly (number | string)[] | null): Value {
  const dim = dims?.map((size) => ({
    value:
      typeof size === 'number'
        ? ({ case: 'dimValue', value: BigInt(size) } as const)
        : ({ case: 'dimParam', value: size } as const),
  }))
  const tensor = { elemType: DATA_TYPES[type], shape: dim && { dim } }
  return { name, type: { value: { case: 'tensorType', value: tensor } } }
}

interface Base {
  opset?: number
  type?: Type
  /** Of x. */
  dims?: readonly (number | string)[]
  /** The node of a layer, from x to y; its weight is [d_in, d_out], as PyTorch's exporter writes it for MatMul. */
  product?: (weight: string, y: string) => Node
  /** x of the layers is made by Reshape, from numbers [K] and a shape that each call gives. */
  hidesRank?: boolean
}

/** A model of LAYERS, which have one input x and an output each. */
export function baseModel({
  opset = 17,
  type = 'float32',
  dims = ['B', 'N', D_IN],
  product,
  hidesRank = false,
}: Base = {}) {
  const entry = hidesRank ? 'reshaped' : 'x'
  const nodeOf = product ?? ((weight: string, y: string) => node('MatMul', [entry, weight], y))
  const tensorOf = (name: string, shape: readonly (number | string)[] | null) => typedValue(name, type, shape)
  return encodeOnnx(
    {
      nodes: [
        ...(hidesRank ? [node('Reshape', ['x', 'shape'], entry)] : []),
        ...LAYERS.map(({ name }) => nodeOf(`${name}.weight`, `y of ${name}`)),
      ],
      constants: LAYERS.map(({ name, outFeatures }) => {
        const weight = transposed(weights.get(name) as Float32Array, outFeatures, D_IN)
        return initializer(`${name}.weight`, type, weight, [D_IN, outFeatures])
      }),
      inputs: [
        tensorOf('x', hidesRank ? ['K'] : dims),
        value('mask', 'int64', ['B', 'T']),
        ...(hidesRank ? [value('shape', 'int64', ['dimensions'])] : []),
      ],
      outputs: LAYERS.map(({ name, outFeatures }) =>
        tensorOf(`y of ${name}`, hidesRank ? null : [...dims.slice(0, -1), outFeatures]),
      ),
    },
    opset,
  )
}

function randomize<T extends AdapterModel>(model: T): T {
  for (const { value: parameter } of model.allParameters().values())
    parameter.data.set(gaussian(random, parameter.data.length, 0.5))
  return model
}

export function lily(config: Partial<LilyConfigOptions>, layers = LAYERS): LilyModel {
  const all = { r: 3, numB: 4, strideA: 2, scaling: 1.5, targetModules, ...config }
  return randomize(LilyModel.create({ layers, config: all, seed: 1 }))
}

export const lora = (r: number, config: object = {}, layers = LAYERS) =>
  randomize(LoraModel.create({ layers, config: { r, loraAlpha: 2, targetModules, ...config }, seed: 1 }))

export const mixtures: Record<string, Partial<LilyConfigOptions>> = {
  uniform: { routing: 'uniform' },
  'learned, relu': { routing: 'learned', activation: 'relu' },
  token: { routing: 'token' },
  'token, relu': { routing: 'token', activation: 'relu' },
  batch: { routing: 'batch' },
  'batch, logits, relu': { routing: 'batch', pool: 'logits', activation: 'relu' },
  sequence: { routing: 'sequence' },
  'sequence, logits': { routing: 'sequence', pool: 'logits' },
}

/** A copy of a model with something changed. */
export function changed(bytes: Uint8Array, change: (graph: GraphProto) => void): Uint8Array<ArrayBuffer> {
  const model = fromBinary(ModelProtoSchema, bytes)
  change(model.graph as GraphProto)
  return toBinary(ModelProtoSchema, model)
}
