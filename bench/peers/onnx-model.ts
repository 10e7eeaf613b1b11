/** Adapters as ONNX models. The parameters are constants of the model, so that the runtime can pack them once. */
import { type Constant, constant, encodeOnnx, type Node, node, value } from '../workload/onnx.js'
import { transposed } from '../workload/transposed.js'

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

const weightConstant = (weight: Float32Array, d: number): Constant =>
  constant('weight', transposed(weight, d, d), [d, d])

/** z = y + h C with h = x A^T; the inputs are x and y, the output z. With a weight y = x W^T, and x is the only input. */
function expansion(
  { shape: [tokens, d, rank], a, weight }: AdapterParameters,
  nodes: readonly Node[],
  rest: readonly Constant[],
): Uint8Array {
  return encodeOnnx({
    nodes: [
      ...(weight === null ? [] : [node('MatMul', ['x', 'weight'], 'y')]),
      node('MatMul', ['x', 'a'], 'h'),
      ...nodes,
      node('MatMul', ['h', 'combined'], 'delta'),
      node('Add', ['y', 'delta'], 'z'),
    ],
    constants: [
      constant('a', transposed(a, rank, d), [d, rank]),
      ...rest,
      ...(weight === null ? [] : [weightConstant(weight, d)]),
    ],
    inputs: (weight === null ? ['x', 'y'] : ['x']).map((name) => value(name, 'float32', [tokens, d])),
    outputs: [value('z', 'float32', [tokens, d])],
  })
}

/** z = x W^T. */
export function layerModel([tokens, d]: AdapterParameters['shape'], weight: Float32Array): Uint8Array {
  return encodeOnnx({
    nodes: [node('MatMul', ['x', 'weight'], 'z')],
    constants: [weightConstant(weight, d)],
    inputs: [value('x', 'float32', [tokens, d])],
    outputs: [value('z', 'float32', [tokens, d])],
  })
}

/** w = mean of softmax(h R^T) over the tokens, C = sum_e w_e B_e. */
export function lilyModel(parameters: AdapterParameters): Uint8Array {
  const [, d, rank, experts] = parameters.shape
  const nodes = [
    node('MatMul', ['h', 'router'], 'logits'),
    node('Softmax', ['logits'], 'probabilities'),
    node('ReduceMean', ['probabilities'], 'weights', { axes: [0] }),
    node('MatMul', ['weights', 'b'], 'flat'),
    node('Reshape', ['flat', 'size'], 'combined'),
  ]
  return expansion(parameters, nodes, [
    constant('router', transposed(parameters.router, experts, rank), [rank, experts]),
    constant('b', parameters.b, [experts, rank * d]),
    constant('size', BigInt64Array.of(BigInt(rank), BigInt(d)), [2]),
  ])
}

export function loraModel(parameters: AdapterParameters): Uint8Array {
  const [, d, rank] = parameters.shape
  return expansion(parameters, [], [constant('combined', transposed(parameters.b, d, rank), [rank, d])])
}
