/** Writes ONNX models, in the schema of onnx-buf. */
import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf'
import {
  AttributeProto_AttributeType as AttributeType,
  type AttributeProtoSchema,
  ModelProtoSchema,
  type NodeProtoSchema,
  TensorProto_DataType as DataType,
  type TensorProtoSchema,
  type ValueInfoProtoSchema,
} from 'onnx-buf'

export type Node = MessageInitShape<typeof NodeProtoSchema>
export type Constant = MessageInitShape<typeof TensorProtoSchema>
export type Value = MessageInitShape<typeof ValueInfoProtoSchema>

export const TYPES = {
  float32: DataType.FLOAT,
  int64: DataType.INT64,
  bool: DataType.BOOL,
} as const
type OnnxType = keyof typeof TYPES

export type OnnxData = Float32Array | BigInt64Array

/** An initializer: a tensor that the model has. */
export function constant(name: string, data: OnnxData, shape: readonly number[]): Constant {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  return {
    name,
    dataType: data instanceof Float32Array ? TYPES.float32 : TYPES.int64,
    dims: shape.map(BigInt),
    rawData: new Uint8Array(bytes),
  }
}

/** An input or an output. A name in the place of a size is any size. */
export function value(name: string, type: OnnxType, shape: readonly (number | string)[]): Value {
  const dim = shape.map((size) =>
    typeof size === 'number'
      ? ({ value: { case: 'dimValue', value: BigInt(size) } } as const)
      : ({ value: { case: 'dimParam', value: size } } as const),
  )
  return { name, type: { value: { case: 'tensorType', value: { elemType: TYPES[type], shape: { dim } } } } }
}

/** Integers and lists of integers have these types of attributes, other numbers are FLOAT. */
export type Attributes = Readonly<Record<string, number | readonly number[]>>

function attribute(name: string, given: number | readonly number[]): MessageInitShape<typeof AttributeProtoSchema> {
  if (typeof given !== 'number') return { name, type: AttributeType.INTS, ints: given.map(BigInt) }
  if (Number.isInteger(given)) return { name, type: AttributeType.INT, i: BigInt(given) }
  return { name, type: AttributeType.FLOAT, f: given }
}

/** @param opType the operator; ONNX Runtime's own operators have its domain before their name: 'com.microsoft.MatMulNBits' */
export function node(opType: string, inputs: readonly string[], output: string, attributes: Attributes = {}): Node {
  const end = opType.lastIndexOf('.')
  return {
    domain: opType.slice(0, Math.max(end, 0)),
    opType: opType.slice(end + 1),
    input: [...inputs],
    output: [output],
    attribute: Object.entries(attributes).map(([name, given]) => attribute(name, given)),
  }
}

/** The nodes follow those whose outputs they use. */
export interface OnnxGraph {
  readonly nodes: readonly Node[]
  readonly constants: readonly Constant[]
  readonly inputs: readonly Value[]
  readonly outputs: readonly Value[]
}

/** @param opset the version of ONNX's operators */
export function encodeOnnx({ nodes, constants, inputs, outputs }: OnnxGraph, opset = 17): Uint8Array<ArrayBuffer> {
  const domains = new Set(nodes.map(({ domain = '' }) => domain))
  const model = create(ModelProtoSchema, {
    irVersion: 8n,
    opsetImport: [...domains.add('')].map((domain) => ({ domain, version: BigInt(domain === '' ? opset : 1) })),
    graph: {
      name: 'graph',
      node: [...nodes],
      initializer: [...constants],
      input: [...inputs],
      output: [...outputs],
    },
  })
  return toBinary(ModelProtoSchema, model)
}
