/**
 * Adapters as ONNX models, encoded in the format of protocol buffers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
 * has the numbers of the fields. The parameters are constants of the model, so that the runtime can pack them once.
 */
import { Buffer } from 'node:buffer'

export interface Constant {
  readonly name: string
  readonly shape: readonly number[]
  readonly data: Float32Array | BigInt64Array
}

interface Node {
  readonly type: string
  readonly inputs: readonly string[]
  readonly output: string
  /** The attribute `axes`. */
  readonly axes?: readonly number[]
}

interface Value {
  readonly name: string
  readonly shape: readonly number[]
}

type Bytes = readonly Uint8Array[]

function varint(value: number): Uint8Array {
  const bytes: number[] = []
  let rest = value
  for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128)
  bytes.push(rest)
  return Uint8Array.from(bytes)
}

/** Fields of the two wire types that a model requires: integers, and bytes, which include texts and messages. */
const integer = (field: number, value: number): Bytes => [varint(field * 8), varint(value)]
function bytes(field: number, value: Bytes): Bytes {
  const length = value.reduce((sum, part) => sum + part.length, 0)
  return [varint(field * 8 + 2), varint(length), ...value]
}
const text = (field: number, value: string): Bytes => bytes(field, [Buffer.from(value)])

const FLOAT = 1
const INT64 = 7
const INTS = 7
const IR_VERSION = 8
const OPERATOR_SET = 17

const constant = ({ name, shape, data }: Constant): Bytes => [
  ...shape.flatMap((size) => integer(1, size)),
  ...integer(2, data instanceof Float32Array ? FLOAT : INT64),
  ...text(8, name),
  ...bytes(9, [new Uint8Array(data.buffer, data.byteOffset, data.byteLength)]),
]

const node = ({ type, inputs, output, axes }: Node): Bytes => [
  ...inputs.flatMap((input) => text(1, input)),
  ...text(2, output),
  ...text(4, type),
  ...(axes === undefined
    ? []
    : bytes(5, [...text(1, 'axes'), ...axes.flatMap((axis) => integer(8, axis)), ...integer(20, INTS)])),
]

function value({ name, shape }: Value): Bytes {
  const dimensions = shape.flatMap((size) => bytes(1, integer(1, size)))
  return [...text(1, name), ...bytes(2, bytes(1, [...integer(1, FLOAT), ...bytes(2, dimensions)]))]
}

function model(
  nodes: readonly Node[],
  constants: readonly Constant[],
  inputs: readonly Value[],
  output: Value,
): Buffer {
  const graph = [
    ...nodes.flatMap((each) => bytes(1, node(each))),
    ...text(2, 'adapter'),
    ...constants.flatMap((each) => bytes(5, constant(each))),
    ...inputs.flatMap((each) => bytes(11, value(each))),
    ...bytes(12, value(output)),
  ]
  return Buffer.concat([
    ...integer(1, IR_VERSION),
    ...bytes(8, [...text(1, ''), ...integer(2, OPERATOR_SET)]),
    ...bytes(7, graph),
  ])
}

/** a matrix [rows, columns], transposed. */
function transposed(data: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(data.length)
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) result[j * rows + i] = data[i * columns + j]
  return result
}

export interface AdapterParameters {
  readonly shape: readonly [tokens: number, d: number, rank: number, experts: number]
  /** [r, d] */
  readonly a: Float32Array
  /** [E, r] */
  readonly router: Float32Array
  /** Lily [E, r, d], LoRA [d, r] */
  readonly b: Float32Array
  /** [d, d], of the frozen layer; null: its output is an input of the model. */
  readonly weight: Float32Array | null
}

const matmul = (inputs: readonly [string, string], output: string): Node => ({ type: 'MatMul', inputs, output })

const weightConstant = (weight: Float32Array, d: number): Constant => ({
  name: 'weight',
  shape: [d, d],
  data: transposed(weight, d, d),
})

/** z = y + h C with h = x A^T; the inputs are x and y, the output z. With a weight y = x W^T, and x is the only input. */
function expansion(
  { shape: [tokens, d, rank], a, weight }: AdapterParameters,
  nodes: readonly Node[],
  rest: Constant[],
): Buffer {
  const named = (name: string): Value => ({ name, shape: [tokens, d] })
  return model(
    [
      ...(weight === null ? [] : [matmul(['x', 'weight'], 'y')]),
      matmul(['x', 'a'], 'h'),
      ...nodes,
      matmul(['h', 'combined'], 'delta'),
      { type: 'Add', inputs: ['y', 'delta'], output: 'z' },
    ],
    [
      { name: 'a', shape: [d, rank], data: transposed(a, rank, d) },
      ...rest,
      ...(weight === null ? [] : [weightConstant(weight, d)]),
    ],
    weight === null ? [named('x'), named('y')] : [named('x')],
    named('z'),
  )
}

/** z = x W^T. */
export function layerModel([tokens, d]: AdapterParameters['shape'], weight: Float32Array): Buffer {
  const named = (name: string): Value => ({ name, shape: [tokens, d] })
  return model([matmul(['x', 'weight'], 'z')], [weightConstant(weight, d)], [named('x')], named('z'))
}

/** w = mean of softmax(h R^T) over the tokens, C = sum_e w_e B_e. */
export function lilyModel(parameters: AdapterParameters): Buffer {
  const [, d, rank, experts] = parameters.shape
  const nodes: Node[] = [
    matmul(['h', 'router'], 'logits'),
    { type: 'Softmax', inputs: ['logits'], output: 'probabilities' },
    { type: 'ReduceMean', inputs: ['probabilities'], output: 'weights', axes: [0] },
    matmul(['weights', 'b'], 'flat'),
    { type: 'Reshape', inputs: ['flat', 'size'], output: 'combined' },
  ]
  return expansion(parameters, nodes, [
    { name: 'router', shape: [rank, experts], data: transposed(parameters.router, experts, rank) },
    { name: 'b', shape: [experts, rank * d], data: parameters.b },
    { name: 'size', shape: [2], data: BigInt64Array.of(BigInt(rank), BigInt(d)) },
  ])
}

export function loraModel(parameters: AdapterParameters): Buffer {
  const [, d, rank] = parameters.shape
  return expansion(parameters, [], [{ name: 'combined', shape: [rank, d], data: transposed(parameters.b, d, rank) }])
}
