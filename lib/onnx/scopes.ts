/** The values of an ONNX model's graphs. A subgraph, as of If, reads the values of the graphs around it by their names. */
import type { GraphProto, NodeProto, TensorProto } from 'onnx-buf'
import { checkpointError, quote } from '../checkpoint/errors.js'

/** Where a value comes from: a weight, a node, or (null) what runs the graph. */
export type Source = TensorProto | NodeProto | null

/** The values of a graph that its nodes can read. */
export interface Scope {
  readonly graph: GraphProto
  /** The scope around a subgraph. */
  readonly outer: Scope | null
  /** The values of the graph itself. */
  readonly values: ReadonlyMap<string, Source>
  /** The nodes of the graph itself that read a value. */
  readonly readers: () => ReadonlyMap<string, readonly NodeProto[]>
}

/** A node in messages. Its name may be empty. */
export function labelOf({ name, opType, output: [y = ''] }: NodeProto): string {
  return name === '' ? `the ${quote(opType)} that writes ${quote(y)}` : `node ${quote(name)}`
}

/** The graphs that a node runs. */
export function subgraphsOf(node: NodeProto): GraphProto[] {
  return node.attribute.flatMap(({ g, graphs }) => (g === undefined ? graphs : [g]))
}

/** Where a value comes from; undefined if it is defined nowhere. */
export function sourceOf(scope: Scope | null, name: string): Source | undefined {
  for (let each = scope; each !== null; each = each.outer) {
    const source = each.values.get(name)
    if (source !== undefined) return source
  }
  return undefined
}

/**
 * The scopes of a graph and of its subgraphs. ONNX requires that each value is defined once in a graph, before a node reads
 * it, so nodes form no cycle.
 *
 * @param path name of the model in messages
 * @throws LilyError ERR_LILY_CHECKPOINT for a value that is read before it is defined, or defined twice
 */
export function scopesOf(path: string, graph: GraphProto, outer: Scope | null = null): Scope[] {
  const values = new Map<string, Source>()
  let readers: ReadonlyMap<string, readonly NodeProto[]> | null = null
  const scope: Scope = { graph, outer, values, readers: () => (readers ??= readersOf(graph)) }
  const scopes = [scope]
  const define = (name: string, source: Source) => {
    if (name === '') throw checkpointError(path, 'expected names of inputs and weights, got none')
    if (values.has(name)) throw checkpointError(path, `value ${quote(name)}: expected one definition, got two`)
    values.set(name, source)
  }
  const read = (name: string, by: string) => {
    if (name !== '' && sourceOf(scope, name) === undefined) {
      throw checkpointError(
        path,
        `${by}: expected inputs that are defined before, got ${quote(name)}; sort the nodes of the graph, or export the model anew`,
      )
    }
  }
  for (const { name } of graph.input) define(name, null)
  // An initializer of the name of an input is its default value.
  const inputs = new Set(values.keys())
  for (const tensor of graph.initializer) {
    if (!inputs.delete(tensor.name)) define(tensor.name, tensor)
    else values.set(tensor.name, tensor)
  }
  for (const { values: weight } of graph.sparseInitializer) if (weight !== undefined) define(weight.name, null)
  for (const node of graph.node) {
    const by = labelOf(node)
    for (const name of node.input) read(name, by)
    // One by one: a call takes fewer arguments than a node may have graphs.
    for (const each of subgraphsOf(node).flatMap((subgraph) => scopesOf(path, subgraph, scope))) scopes.push(each)
    for (const name of node.output) if (name !== '') define(name, node)
  }
  for (const { name } of graph.output) read(name, 'the outputs of the graph')
  return scopes
}

function readersOf({ node: nodes }: GraphProto): ReadonlyMap<string, readonly NodeProto[]> {
  const readers = new Map<string, NodeProto[]>()
  for (const node of nodes) {
    for (const name of node.input) {
      const others = readers.get(name)
      if (others === undefined) readers.set(name, [node])
      else others.push(node)
    }
  }
  return readers
}
