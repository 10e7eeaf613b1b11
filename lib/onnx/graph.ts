/**
 * Adds adapters to the graph of an ONNX model, in standard operators of opset 11 and later. docs/math.md has the formulas
 * and the symbols. Each matrix of the adapter is float32, and so is each intermediate result.
 */
import { type GraphProto, type NodeProto, TensorProto_DataType as DataType } from 'onnx-buf'
import type { InjectedLayer, Injection } from './layout.js'
import { integer, Nodes, type Workshop } from './nodes.js'
import type { Site } from './sites.js'

/** The largest end of a slice. */
const END = 0x7fffffff

/**
 * Adds nodes to the graphs of a model: y, which the node of a site wrote, becomes the sum of what that node computes and of
 * the layer's adapter. Consumers of y, outputs of the graph among them, receive the sum. The matrices are those of
 * `injection`, by name, and are inputs or initializers of the main graph, which subgraphs see, too.
 *
 * @param mask name of an input of the model, [B, N]; null: all tokens count
 */
export function addAdapters(
  workshop: Workshop,
  sites: readonly Site[],
  injection: Injection,
  mask: string | null,
): void {
  const byGraph = new Map<GraphProto, Map<NodeProto, Site>>()
  for (const site of sites) {
    const ofGraph = byGraph.get(site.graph) ?? new Map<NodeProto, Site>()
    byGraph.set(site.graph, ofGraph.set(site.node, site))
  }
  for (const [graph, ofGraph] of byGraph) {
    graph.node = graph.node.flatMap((node) => {
      const site = ofGraph.get(node)
      if (site === undefined) return [node]
      const layer = injection.layers.get(site.layer) as InjectedLayer
      return [node, ...nodesOf(site, layer, injection, mask, workshop)]
    })
  }
}

function nodesOf(
  site: Site,
  layer: InjectedLayer,
  mixture: Injection,
  mask: string | null,
  workshop: Workshop,
): NodeProto[] {
  const { node, y, type } = site
  const prefix = `lily/${site.layer}`
  const base = workshop.unused(`${prefix}/base`)
  node.output = node.output.map((output) => (output === y ? base : output))
  const nodes = new Nodes(workshop, prefix)
  const inFloat32 = type === (DataType.FLOAT as number)
  const call: Call = {
    ...{ nodes, layer, mixture, mask },
    x: inFloat32 ? site.x : nodes.cast(site.x, DataType.FLOAT),
    rank: site.rank,
    base,
  }
  const sum = layer.router === null ? constant(call) : mixture.routing === 'token' ? token(call) : pooled(call)
  nodes.add('Add', [base, inFloat32 ? sum : nodes.cast(sum, type)], [], y)
  return nodes.list
}

/** What the nodes of a layer compute with. */
interface Call {
  readonly nodes: Nodes
  readonly layer: InjectedLayer
  readonly mixture: Injection
  readonly mask: string | null
  /** [..., d_in], float32. */
  readonly x: string
  /** The number of dimensions of x, if it is known. */
  readonly rank: number | null
  /** What the base layer computes, [..., d_out]. */
  readonly base: string
}

/** h = activation(x A^T) for an x of any leading dimensions. */
function hidden({ nodes, layer, mixture }: Call, x: string): string {
  const h = nodes.add('MatMul', [x, layer.a])
  return mixture.activation === 'relu' ? nodes.add('Relu', [h]) : h
}

/** The logits l = h R^T. */
const logits = ({ nodes, layer }: Call, h: string) => nodes.add('MatMul', [h, layer.router as string])

/** s h C */
function constant(call: Call): string {
  return call.nodes.add('MatMul', [hidden(call, call.x), call.layer.b])
}

/** s u B with u = p (x) h, a row for each token. */
function token(call: Call): string {
  const { nodes, layer, x, rank } = call
  const h = hidden(call, rank === 2 ? x : nodes.reshape(x, -1, layer.inFeatures))
  const p = nodes.softmax(logits(call, h))
  const u = nodes.add('Mul', [nodes.reshape(p, 0, -1, 1), nodes.reshape(h, 0, 1, -1)])
  const rows = nodes.add('MatMul', [nodes.reshape(u, 0, -1), layer.b])
  return rank === 2 ? rows : likeBase(call, rows)
}

/** s h C_g. With routing 'batch' all tokens are those of one sequence, [1, M, d_in]. */
function pooled(call: Call): string {
  const { nodes, layer, mixture, x } = call
  const isBatch = mixture.routing === 'batch'
  const h = hidden(call, isBatch ? nodes.reshape(x, 1, -1, layer.inFeatures) : sequences(call))
  const combined = nodes.add('MatMul', [pooledWeights(call, logits(call, h)), layer.b])
  const sum = nodes.add('MatMul', [h, nodes.reshape(combined, 0, -1, layer.outFeatures)])
  return isBatch ? likeBase(call, sum) : sum
}

/** x [B, N, d_in]. If the model does not tell the number of dimensions, ONNX Runtime fails for another one. */
function sequences({ nodes, x, rank }: Call): string {
  if (rank === 3) return x
  const sizes = nodes.add('Reshape', [nodes.add('Shape', [x]), nodes.workshop.integers(3)])
  return nodes.add('Reshape', [x, sizes])
}

/** w [G, E] of logits [G, N, E]. A group without a token that counts has w = 0. */
function pooledWeights(call: Call, l: string): string {
  const { nodes, mixture } = call
  const { workshop } = nodes
  const isLogits = mixture.pool === 'logits'
  const terms = isLogits ? l : nodes.softmax(l)
  if (call.mask === null) {
    return isLogits ? nodes.softmax(nodes.reduce('ReduceSum', terms)) : nodes.reduce('ReduceMean', terms)
  }
  const keep = keptTokens(call, call.mask, l)
  // Not a product: the numbers of a token that does not count may be NaN.
  const kept = nodes.add('Where', [keep, terms, workshop.number(0)])
  const sum = nodes.reduce('ReduceSum', kept)
  const count = nodes.reduce('ReduceSum', nodes.cast(keep, DataType.FLOAT))
  const one = workshop.number(1)
  return isLogits
    ? nodes.add('Mul', [nodes.softmax(sum), nodes.add('Min', [count, one])])
    : nodes.add('Div', [sum, nodes.add('Max', [count, one])])
}

/**
 * Whether tokens count, [G, N, 1] as the logits l have them. The mask of a model with a key-value cache has the tokens of
 * earlier calls, too, before those of x. ONNX Runtime fails if the mask has not a number for each token of x: Reshape
 * compares, as Where would broadcast. There is one Reshape only, because ONNX Runtime makes one of two, which compares less.
 */
function keptTokens({ nodes, x, rank }: Call, mask: string, l: string): string {
  const { workshop } = nodes
  let last = mask
  if (rank !== 2) {
    const first = nodes.add('Neg', [nodes.slice(nodes.add('Shape', [x]), -2, -1)])
    last = nodes.add('Slice', [mask, first, workshop.integers(END), workshop.integers(1)])
  }
  const ofL = nodes.slice(nodes.add('Shape', [l]), 0, -1)
  const column = nodes.add('Concat', [ofL, workshop.integers(1)], [integer('axis', 0)])
  return nodes.cast(nodes.add('Reshape', [last, column]), DataType.BOOL)
}

/** The rows of the tokens in the shape that the output of the base layer has. */
function likeBase({ nodes, base }: Call, rows: string): string {
  return nodes.add('Reshape', [rows, nodes.add('Shape', [base])])
}
