/**
 * Adds adapters to the graph of an ONNX model, in standard operators of opset 11 and later. docs/math.md has the formulas
 * and the symbols. Each matrix of the adapter is float32, and so is each intermediate result.
 */
import { type GraphProto, type NodeProto, TensorProto_DataType as DataType } from 'onnx-buf'
import type { InjectedLayer, Injection } from './layout.js'
import { integer, type ModelBuilder, Nodes } from './nodes.js'
import type { Site } from './sites.js'

/** The largest end of a slice. */
const END = 0x7fffffff

/**
 * Adds nodes to the graphs of a model: y, which the node of a site wrote, becomes the sum of what that node computes and of
 * the layer's adapter. Consumers of y, outputs of the graph among them, receive the sum. `injection` has the matrices by
 * name; they are inputs or initializers of the main graph, which subgraphs also see.
 *
 * @param mask name of an input of the model, [B, N]; null: all tokens count
 */
export function addAdapters(
  builder: ModelBuilder,
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
      return [node, ...nodesOf(site, layer, injection, mask, builder)]
    })
  }
}

function nodesOf(
  site: Site,
  layer: InjectedLayer,
  mixture: Injection,
  mask: string | null,
  builder: ModelBuilder,
): NodeProto[] {
  const { node, y, type } = site
  const prefix = `lily/${site.layer}`
  const base = builder.unused(`${prefix}/base`)
  node.output = node.output.map((output) => (output === y ? base : output))
  const nodes = new Nodes(builder, prefix)
  const inFloat32 = type === (DataType.FLOAT as number)
  const operands: Operands = {
    ...{ nodes, layer, mixture, mask },
    x: inFloat32 ? site.x : nodes.cast(site.x, DataType.FLOAT),
    rank: site.rank,
    base,
  }
  const sum =
    layer.router === null ? constant(operands) : mixture.routing === 'token' ? token(operands) : pooled(operands)
  nodes.add('Add', [base, inFloat32 ? sum : nodes.cast(sum, type)], [], y)
  return nodes.list
}

/** What the nodes of a layer compute with. */
interface Operands {
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
function hidden({ nodes, layer, mixture }: Operands, x: string): string {
  const h = nodes.add('MatMul', [x, layer.a])
  return mixture.activation === 'relu' ? nodes.add('Relu', [h]) : h
}

/** The logits l = h R^T. */
const logits = ({ nodes, layer }: Operands, h: string) => nodes.add('MatMul', [h, layer.router as string])

/** s h C */
function constant(operands: Operands): string {
  return operands.nodes.add('MatMul', [hidden(operands, operands.x), operands.layer.b])
}

/** s u B with u = p (x) h, a row for each token. */
function token(operands: Operands): string {
  const { nodes, layer, x, rank } = operands
  const h = hidden(operands, rank === 2 ? x : nodes.reshape(x, -1, layer.inFeatures))
  const p = nodes.softmax(logits(operands, h))
  const u = nodes.add('Mul', [nodes.reshape(p, 0, -1, 1), nodes.reshape(h, 0, 1, -1)])
  const rows = nodes.add('MatMul', [nodes.reshape(u, 0, -1), layer.b])
  return rank === 2 ? rows : likeBase(operands, rows)
}

/** s h C_g. With routing 'batch' all tokens form one sequence, [1, M, d_in]. */
function pooled(operands: Operands): string {
  const { nodes, layer, mixture, x } = operands
  const isBatch = mixture.routing === 'batch'
  const h = hidden(operands, isBatch ? nodes.reshape(x, 1, -1, layer.inFeatures) : sequences(operands))
  const combined = nodes.add('MatMul', [pooledWeights(operands, logits(operands, h)), layer.b])
  const sum = nodes.add('MatMul', [h, nodes.reshape(combined, 0, -1, layer.outFeatures)])
  return isBatch ? likeBase(operands, sum) : sum
}

/** x [B, N, d_in]. If the model does not tell the number of dimensions, ONNX Runtime fails for another one. */
function sequences({ nodes, x, rank }: Operands): string {
  if (rank === 3) return x
  const sizes = nodes.add('Reshape', [nodes.add('Shape', [x]), nodes.builder.integers(3)])
  return nodes.add('Reshape', [x, sizes])
}

/** w [G, E] of logits [G, N, E]. A group without a token that counts has w = 0. */
function pooledWeights(operands: Operands, l: string): string {
  const { nodes, mixture } = operands
  const { builder } = nodes
  const isLogits = mixture.pool === 'logits'
  const terms = isLogits ? l : nodes.softmax(l)
  if (operands.mask === null) {
    return isLogits ? nodes.softmax(nodes.reduce('ReduceSum', terms)) : nodes.reduce('ReduceMean', terms)
  }
  const keep = keptTokens(operands, operands.mask, l)
  // Not a product: the numbers of a token that does not count may be NaN.
  const kept = nodes.add('Where', [keep, terms, builder.number(0)])
  const sum = nodes.reduce('ReduceSum', kept)
  const count = nodes.reduce('ReduceSum', nodes.cast(keep, DataType.FLOAT))
  const one = builder.number(1)
  return isLogits
    ? nodes.add('Mul', [nodes.softmax(sum), nodes.add('Min', [count, one])])
    : nodes.add('Div', [sum, nodes.add('Max', [count, one])])
}

/**
 * Whether tokens count, [G, N, 1] as the logits l have them. The mask of a model with a key-value cache also has the
 * tokens of earlier calls, before the tokens of x. ONNX Runtime fails unless the mask has a number for each token of x:
 * Reshape compares, as Where would broadcast. There is only one Reshape, because ONNX Runtime merges two into one that
 * compares less.
 */
function keptTokens({ nodes, x, rank }: Operands, mask: string, l: string): string {
  const { builder } = nodes
  let last = mask
  if (rank !== 2) {
    const first = nodes.add('Neg', [nodes.slice(nodes.add('Shape', [x]), -2, -1)])
    last = nodes.add('Slice', [mask, first, builder.integers(END), builder.integers(1)])
  }
  const ofL = nodes.slice(nodes.add('Shape', [l]), 0, -1)
  const column = nodes.add('Concat', [ofL, builder.integers(1)], [integer('axis', 0)])
  return nodes.cast(nodes.add('Reshape', [last, column]), DataType.BOOL)
}

/** The rows of the tokens in the shape that the output of the base layer has. */
function likeBase({ nodes, base }: Operands, rows: string): string {
  return nodes.add('Reshape', [rows, nodes.add('Shape', [base])])
}
