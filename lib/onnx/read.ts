/**
 * Reads ONNX models (https://github.com/onnx/onnx/blob/main/docs/IR.md). A model may come from anywhere: what this package
 * relies on is compared with the rest of the model first. The bytes of weights are views of the file.
 */
import { fromBinary } from '@bufbuild/protobuf'
import {
  type AttributeProto,
  AttributeProto_AttributeType as AttributeType,
  type GraphProto,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
} from 'onnx-buf'
import { messageOf } from '../base/errors.js'
import { checkpointError, DAMAGED, quote } from '../checkpoint/errors.js'
import { labelOf, scopesOf, subgraphsOf } from './scopes.js'
import { checkTensor } from './tensors.js'

/** The first version of the operators that includes all that an adapter needs, and the last plausible version number. */
const MIN_OPSET = 11
const MAX_OPSET = 1000

/** An ONNX model that was checked. */
export interface OnnxModel extends ModelProto {
  readonly graph: GraphProto
}

/**
 * Parses a model, and checks that its graphs are sound: names, types of attributes, and sizes of weights.
 *
 * @param path name of the model in messages
 * @param bytes the file; it is not written to, and the result has views of it
 * @throws LilyError ERR_LILY_CHECKPOINT
 */
export function readModel(path: string, bytes: Uint8Array): OnnxModel {
  const model = parse(path, bytes)
  if (!hasGraph(model)) throw checkpointError(path, `expected an ONNX model, got bytes without a graph; ${DAMAGED}`)
  opsetOf(path, model)
  checkGraph(path, model.graph)
  scopesOf(path, model.graph)
  return model
}

function parse(path: string, bytes: Uint8Array): ModelProto {
  try {
    return fromBinary(ModelProtoSchema, bytes)
  } catch (cause) {
    throw checkpointError(path, `expected an ONNX model, got other bytes (${messageOf(cause)}); ${DAMAGED}`, cause)
  }
}

const hasGraph = (model: ModelProto): model is OnnxModel => model.graph !== undefined

/**
 * The version of the operators of ai.onnx.
 *
 * @throws LilyError ERR_LILY_CHECKPOINT for a version without the operators of an adapter
 */
export function opsetOf(path: string, { opsetImport }: ModelProto): number {
  const [found, ...others] = opsetImport.filter(({ domain }) => domain === '' || domain === 'ai.onnx')
  const version = found === undefined ? null : Number(found.version)
  if (version !== null && others.length === 0 && version >= MIN_OPSET && version <= MAX_OPSET) return version
  throw checkpointError(
    path,
    `expected operators (opset_import) of ai.onnx of version ${MIN_OPSET} or later, got ` +
      `${version === null ? 'none' : others.length > 0 ? 'several' : `version ${version}`}; export the model anew`,
  )
}

/** Checks the weights and the attributes of a graph and of its subgraphs. */
function checkGraph(path: string, graph: GraphProto): void {
  for (const tensor of graph.initializer) checkTensor(path, tensor.name, tensor)
  for (const node of graph.node) {
    const seen = new Set<string>()
    for (const attribute of node.attribute) {
      checkAttribute(path, node, attribute)
      if (seen.has(attribute.name)) {
        throw checkpointError(
          path,
          `${labelOf(node)}: expected ${quote(attribute.name)} once, got it twice; ${DAMAGED}`,
        )
      }
      seen.add(attribute.name)
    }
    for (const subgraph of subgraphsOf(node)) checkGraph(path, subgraph)
  }
}

/** Checks that an attribute has a graph or a tensor just if its type says so. */
function checkAttribute(path: string, node: NodeProto, attribute: AttributeProto): void {
  const { type, t, g, tensors, graphs } = attribute
  const isSound =
    (t !== undefined) === (type === AttributeType.TENSOR) &&
    (g !== undefined) === (type === AttributeType.GRAPH) &&
    (tensors.length === 0 || type === AttributeType.TENSORS) &&
    (graphs.length === 0 || type === AttributeType.GRAPHS)
  if (!isSound) {
    throw checkpointError(
      path,
      `${labelOf(node)}: expected an attribute ${quote(attribute.name)} of the type that it names, got another one; ${DAMAGED}`,
    )
  }
  for (const tensor of t === undefined ? tensors : [t]) checkTensor(path, `${node.name}: ${attribute.name}`, tensor)
}
