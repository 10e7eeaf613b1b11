/** The nodes of an ONNX model that multiply by a constant matrix. */
import {
  AttributeProto_AttributeType as AttributeType,
  type NodeProto,
  type TensorProto,
  TensorProto_DataType as DataType,
} from 'onnx-buf'
import { moduleOf, scopeNameOf } from './names.js'
import { type Scope, sourceOf } from './scopes.js'
import type { Site } from './sites.js'

/** A node that multiplies by a matrix [d_in, d_out]. */
export interface Candidate extends Omit<Site, 'layer'> {
  readonly inFeatures: number
  readonly outFeatures: number
  /** What holds the matrix. */
  readonly weight: TensorProto
  /** Whether the matrix is the transpose of the weight. */
  readonly isTransposed: boolean
  /** The names that a caller may give: of the node, and of the values between it and the matrix. */
  readonly names: readonly string[]
  /** The paths of its module, by their source: the weight, the scope that the exporter wrote, the name of the node. */
  readonly paths: Readonly<Record<(typeof TELLERS)[number], readonly string[]>>
}

/** What tells the path of a module, the best first: nodes of one weight may be of several modules. */
export const TELLERS = ['weight', 'scope', 'node'] as const

/** A constant matrix, or a value computed from one. */
interface Matrix {
  readonly tensor: TensorProto
  readonly rows: number
  readonly columns: number
  readonly isTransposed: boolean
  /** A TensorProto_DataType. */
  readonly type: number
  /** Names of the values from the product to the tensor. */
  readonly names: readonly string[]
}

/** A node that multiplies, and the one that writes the product. */
interface Product {
  readonly matrix: Matrix
  readonly x: string | undefined
  readonly rank?: number
  readonly node: NodeProto
}

/** Nodes between a matrix and its product: casts, transposes and the like are fewer. */
const MAX_STEPS = 8

/** The types of x and y. */
const FLOATS: ReadonlySet<number> = new Set([DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16, DataType.DOUBLE])

/** The candidates of a graph, but not of its subgraphs. */
export function candidatesOf(scope: Scope): Candidate[] {
  const { graph } = scope
  const ranks = ranksOf(scope)
  const found: Candidate[] = []
  for (const node of graph.node) {
    const product = MULTIPLIERS.get(`${domainOf(node)}:${node.opType}`)?.(scope, node) ?? null
    const [x, y] = [product?.x ?? '', product?.node.output[0] ?? '']
    if (product === null || x === '' || y === '' || !FLOATS.has(product.matrix.type)) continue
    const { tensor, rows, columns, isTransposed, type, names } = product.matrix
    found.push({
      ...{ graph, node: product.node, x, y, type, rank: product.rank ?? ranks.get(x) ?? null },
      ...{ inFeatures: rows, outFeatures: columns, weight: tensor, isTransposed },
      names: [node.name, ...names].filter((name) => name !== ''),
      paths: {
        weight: names.map(moduleOf),
        scope: scopeNameOf(node),
        node: [moduleOf(node.name)],
      },
    })
  }
  return found
}

const domainOf = ({ domain }: NodeProto) => (domain === '' ? 'ai.onnx' : domain)

const isOf = (node: NodeProto, type: string) => domainOf(node) === 'ai.onnx' && node.opType === type

const MULTIPLIERS: ReadonlyMap<string, (scope: Scope, node: NodeProto) => Product | null> = new Map([
  ['ai.onnx:MatMul', matMul],
  ['ai.onnx:Gemm', gemm],
  ['ai.onnx:MatMulInteger', matMulInteger],
  ['com.microsoft:MatMulNBits', matMulNBits],
])

function matMul(scope: Scope, node: NodeProto): Product | null {
  const matrix = matrixOf(scope, node.input[1])
  return matrix === null ? null : { matrix, x: node.input[0], node }
}

/** Y = alpha X W + beta C, or with W^T. One with X^T is no linear layer. */
function gemm(scope: Scope, node: NodeProto): Product | null {
  const matrix = matrixOf(scope, node.input[1])
  if (matrix === null || integer(node, 'transA', 0) !== 0) return null
  const isTransposed = integer(node, 'transB', 0) !== 0
  return { matrix: isTransposed ? transpose(matrix) : matrix, x: node.input[0], rank: 2, node }
}

/** A weight of a few bits, in blocks. Its scales have the type of x. */
function matMulNBits(scope: Scope, node: NodeProto): Product | null {
  const [x, w, scales] = node.input
  const [rows, columns] = [integer(node, 'K', null), integer(node, 'N', null)]
  const [tensor, scale] = [constantOf(scope, w), constantOf(scope, scales)]
  if (rows === null || columns === null || tensor === null || scale === null) return null
  return { matrix: { tensor, rows, columns, isTransposed: true, type: scale.dataType, names: [w] }, x, node }
}

/**
 * A product of integers, as ONNX Runtime's quantize_dynamic writes it: DynamicQuantizeLinear makes integers, a scale and a
 * zero point of x, and y is the product, as a float, times the scales of x and of the weight.
 */
function matMulInteger(scope: Scope, node: NodeProto): Product | null {
  const matrix = matrixOf(scope, node.input[1])
  const quantised = nodeOf(scope, node.input[0], 'DynamicQuantizeLinear')
  const cast = readerOf(scope, node, 'Cast')
  const last = cast === null ? null : readerOf(scope, cast, 'Mul')
  if (matrix === null || quantised === null || cast === null || last === null) return null
  const scales = nodeOf(scope, last.input.find((name) => name !== cast.output[0]) ?? '', 'Mul')
  const [ofX, ofW] = scales?.input ?? []
  if (ofX !== quantised.output[1] || constantOf(scope, ofW) === null) return null
  return { matrix: { ...matrix, type: integer(cast, 'to', 0) }, x: quantised.input[0], node: last }
}

/** The one node that reads the output of another one. */
function readerOf({ readers }: Scope, node: NodeProto, type: string): NodeProto | null {
  const [reader, ...others] = readers().get(node.output[0] ?? '') ?? []
  return reader !== undefined && others.length === 0 && isOf(reader, type) ? reader : null
}

const transpose = ({ rows, columns, isTransposed, ...rest }: Matrix): Matrix => ({
  ...rest,
  ...{ rows: columns, columns: rows, isTransposed: !isTransposed },
})

/** The matrix that a value is, through nodes that keep its numbers. */
function matrixOf(scope: Scope, value: string | undefined): Matrix | null {
  let [name, type, isTransposed] = [value ?? '', null as number | null, false]
  const names: string[] = []
  for (let step = 0; step < MAX_STEPS; step++) {
    names.push(name)
    const tensor = constantOf(scope, name)
    if (tensor !== null) {
      if (tensor.dims.length !== 2) return null
      const [rows, columns] = tensor.dims.map(Number)
      const matrix = { tensor, rows, columns, isTransposed: false, type: type ?? tensor.dataType, names }
      return isTransposed ? transpose(matrix) : matrix
    }
    const node = nodeOf(scope, name)
    if (node === null) return null
    if (isOf(node, 'Transpose')) {
      // Without the attribute, the dimensions are reversed.
      const order = attributeOf(node, 'perm', AttributeType.INTS)?.ints.join() ?? '1,0'
      if (order !== '1,0') return null
      isTransposed = !isTransposed
    } else if (isOf(node, 'Cast')) type ??= integer(node, 'to', null)
    else if (isOf(node, 'DequantizeLinear')) {
      // The attribute exists from opset 23 on. 0, like its absence, means the type of the scale.
      const named = integer(node, 'output_dtype', 0)
      type ??= named === 0 ? (constantOf(scope, node.input[1])?.dataType ?? null) : named
    } else if (!isOf(node, 'Identity')) return null
    name = node.input[0] ?? ''
  }
  return null
}

/** A weight of the model: an initializer, or the value of a node of the type Constant. */
function constantOf(scope: Scope, name = ''): TensorProto | null {
  const source = sourceOf(scope, name)
  if (source?.$typeName === 'onnx.TensorProto') return source
  const node = nodeOf(scope, name, 'Constant')
  return node === null ? null : (attributeOf(node, 'value', AttributeType.TENSOR)?.t ?? null)
}

/** The node that writes a value, if it is of a type. */
function nodeOf(scope: Scope, name = '', type: string | null = null): NodeProto | null {
  const source = sourceOf(scope, name)
  return source?.$typeName === 'onnx.NodeProto' && (type === null || isOf(source, type)) ? source : null
}

function attributeOf(node: NodeProto, name: string, type: AttributeType) {
  return node.attribute.find((attribute) => attribute.name === name && attribute.type === type)
}

function integer<T>(node: NodeProto, name: string, byDefault: T): number | T {
  const attribute = attributeOf(node, name, AttributeType.INT)
  return attribute === undefined ? byDefault : Number(attribute.i)
}

/** The numbers of dimensions of the values of a graph, as far as it tells them. */
function ranksOf({ graph }: Scope): ReadonlyMap<string, number> {
  const ranks = new Map<string, number>()
  for (const values of [graph.valueInfo, graph.output, graph.input]) {
    for (const { name, type } of values) {
      const shape = type?.value.case === 'tensorType' ? type.value.value.shape : undefined
      if (shape !== undefined) ranks.set(name, shape.dim.length)
    }
  }
  return ranks
}
