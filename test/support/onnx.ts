/** Small ONNX models, and models in other forms. */
import { clearField, create, fromBinary, toBinary } from '@bufbuild/protobuf'
import {
  AttributeProto_AttributeType as AttributeType,
  AttributeProtoSchema,
  type GraphProto,
  ModelProtoSchema,
  NodeProtoSchema,
  StringStringEntryProtoSchema,
  TensorProto_DataLocation as DataLocation,
  TensorProto_DataType as DataType,
  TensorProtoSchema,
  ValueInfoProtoSchema,
} from 'onnx-buf'
import { constant, encodeOnnx, node, value } from '../../bench/workload/onnx.js'

/** y = x W for x [M, rows] and W [rows, columns]. */
export function matrixProduct(w: Float32Array, rows: number, columns: number): Uint8Array {
  return encodeOnnx({
    nodes: [node('MatMul', ['x', 'W'], 'y')],
    constants: [constant('W', w, [rows, columns])],
    inputs: [value('x', 'float32', ['M', rows])],
    outputs: [value('y', 'float32', ['M', columns])],
  })
}

/** An encoder that looks up the rows of a table [tokens, columns]. It has the inputs of BERT, and ignores the mask. */
export function embedding(table: Float32Array, tokens: number, columns: number): Uint8Array {
  return encodeOnnx({
    nodes: [node('Gather', ['table', 'input_ids'], 'last_hidden_state')],
    constants: [constant('table', table, [tokens, columns])],
    inputs: ['input_ids', 'attention_mask'].map((name) => value(name, 'int64', ['B', 'T'])),
    outputs: [value('last_hidden_state', 'float32', ['B', 'T', columns])],
  })
}

/** The same model, with the numbers of its weights in a file at `location` beside it. */
export function withExternalData(bytes: Uint8Array, location: string): { model: Uint8Array; data: Uint8Array } {
  const model = fromBinary(ModelProtoSchema, bytes)
  const parts: Uint8Array[] = []
  let offset = 0
  for (const tensor of model.graph?.initializer ?? []) {
    // Sizes of the operator Reshape must be in the model itself, because shapes depend on them.
    if (tensor.dataType !== (DataType.FLOAT as number)) continue
    const entries = { location, offset, length: tensor.rawData.length }
    tensor.externalData = Object.entries(entries).map(([key, value]) =>
      create(StringStringEntryProtoSchema, { key, value: String(value) }),
    )
    tensor.dataLocation = DataLocation.EXTERNAL
    parts.push(tensor.rawData)
    offset += tensor.rawData.length
    clearField(tensor, TensorProtoSchema.field.rawData)
  }
  return { model: toBinary(ModelProtoSchema, model), data: Buffer.concat(parts) }
}

/**
 * The same model with its nodes in both branches of an If, as Optimum merges a decoder for the first call and one for those with
 * a cache. The weights remain those of the model.
 *
 * @param input the name of the new input [1], which chooses the branch
 */
export function withBranches(bytes: Uint8Array, input: string): Uint8Array {
  const model = fromBinary(ModelProtoSchema, bytes)
  const graph = model.graph as GraphProto
  const branches = ['then_branch', 'else_branch'].map((name) => {
    const { node, output } = fromBinary(ModelProtoSchema, bytes).graph as GraphProto
    return create(AttributeProtoSchema, { name, type: AttributeType.GRAPH, g: { name, node, output } })
  })
  const condition = {
    opType: 'If',
    input: [input],
    output: graph.output.map(({ name }) => name),
    attribute: branches,
  }
  graph.node = [create(NodeProtoSchema, condition)]
  graph.input.push(create(ValueInfoProtoSchema, value(input, 'bool', [1])))
  return toBinary(ModelProtoSchema, model)
}
