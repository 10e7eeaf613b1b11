/** Makes the nodes of an ONNX graph, and the constants that they have as inputs. */
import { create } from '@bufbuild/protobuf'
import {
  type AttributeProto,
  AttributeProto_AttributeType as AttributeType,
  AttributeProtoSchema,
  type GraphProto,
  type NodeProto,
  NodeProtoSchema,
  type TensorProto,
  TensorProto_DataType as DataType,
  TensorProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from 'onnx-buf'
import type { OnnxInput } from './injected.js'
import type { OnnxModel } from './read.js'
import { subgraphsOf } from './scopes.js'

/** What the new nodes of a model have in common: names that it does not have yet, and constants. */
export class ModelBuilder {
  readonly #used = new Set<string>()
  /** The number with which a name was tried last. */
  readonly #numbers = new Map<string, number>()
  readonly #constants = new Map<string, string>()

  constructor(
    private readonly model: OnnxModel,
    readonly opset: number,
  ) {
    this.#use(model.graph)
  }

  /** The name, or the name with a number behind it if any graph of the model has it, although subgraphs might repeat names. */
  unused(name: string): string {
    let [result, i] = [name, this.#numbers.get(name) ?? 1]
    while (this.#used.has(result)) result = `${name}_${++i}`
    this.#numbers.set(name, i)
    this.#used.add(result)
    return result
  }

  #use({ input, initializer, sparseInitializer, node }: GraphProto): void {
    for (const { name } of [...input, ...initializer]) this.#used.add(name)
    for (const { values } of sparseInitializer) if (values !== undefined) this.#used.add(values.name)
    for (const each of node) {
      for (const name of [each.name, ...each.output]) this.#used.add(name)
      for (const subgraph of subgraphsOf(each)) this.#use(subgraph)
    }
  }

  /** A vector of integers, such as the shape for Reshape: an initializer of the main graph, which subgraphs also see. */
  integers(...values: readonly number[]): string {
    const rawData = new Uint8Array(BigInt64Array.from(values, BigInt).buffer)
    return this.#constant(values.join(','), { dims: [BigInt(values.length)], dataType: DataType.INT64, rawData })
  }

  /** A scalar of float32. */
  number(value: number): string {
    const rawData = new Uint8Array(Float32Array.of(value).buffer)
    return this.#constant(`float ${value}`, { dims: [], dataType: DataType.FLOAT, rawData })
  }

  #constant(key: string, value: Pick<TensorProto, 'dims' | 'dataType' | 'rawData'>): string {
    const known = this.#constants.get(key)
    if (known !== undefined) return known
    const name = this.unused(`lily/${key}`)
    this.#constants.set(key, name)
    this.model.graph.initializer.push(create(TensorProtoSchema, { name, ...value }))
    return name
  }
}

/** Nodes that follow each other in a graph. */
export class Nodes {
  readonly list: NodeProto[] = []

  /** @param prefix of the names of the nodes and of their outputs */
  constructor(
    readonly builder: ModelBuilder,
    private readonly prefix: string,
  ) {}

  /** Adds a node. Returns the name of its output. */
  add(opType: string, input: string[], attribute: AttributeProto[] = [], output?: string): string {
    const name = this.builder.unused(`${this.prefix}/${opType}`)
    this.list.push(create(NodeProtoSchema, { name, opType, input, output: [output ?? name], attribute }))
    return output ?? name
  }

  /** In a shape, 0 is the size that the input has in this place, and -1 the remaining factor. */
  reshape(x: string, ...shape: readonly number[]): string {
    return this.add('Reshape', [x, this.builder.integers(...shape)])
  }

  cast(x: string, to: number): string {
    return this.add('Cast', [x], [integer('to', to)])
  }

  /** Softmax of the last dimension. */
  softmax(x: string): string {
    return this.add('Softmax', [x], [integer('axis', -1)])
  }

  /** Sums or averages over dimension 1, which the result does not have. */
  reduce(by: 'ReduceSum' | 'ReduceMean', x: string): string {
    const drop = integer('keepdims', 0)
    const isAttribute = this.builder.opset < (by === 'ReduceSum' ? 13 : 18)
    return isAttribute
      ? this.add(by, [x], [integers('axes', [1]), drop])
      : this.add(by, [x, this.builder.integers(1)], [drop])
  }

  /** The elements of a vector from a position on, which counts from the end if it is negative. */
  slice(vector: string, first: number, end: number): string {
    const { builder } = this
    return this.add('Slice', [vector, builder.integers(first), builder.integers(end)])
  }
}

export const integer = (name: string, value: number) =>
  create(AttributeProtoSchema, { name, type: AttributeType.INT, i: BigInt(value) })

const integers = (name: string, values: readonly number[]) =>
  create(AttributeProtoSchema, { name, type: AttributeType.INTS, ints: values.map(BigInt) })

/** An input of float32. */
export function inputOf(name: string, dims: OnnxInput['dims']): ValueInfoProto {
  const dim = dims.map((size) => ({
    value:
      typeof size === 'number'
        ? ({ case: 'dimValue', value: BigInt(size) } as const)
        : ({ case: 'dimParam', value: size } as const),
  }))
  const value = { elemType: DataType.FLOAT, shape: { dim } }
  return create(ValueInfoProtoSchema, { name, type: { value: { case: 'tensorType', value } } })
}

/** An initializer of float32. */
export function initializerOf(name: string, dims: readonly number[], values: Float32Array): TensorProto {
  const rawData = new Uint8Array(values.buffer as ArrayBuffer, values.byteOffset, values.byteLength)
  return create(TensorProtoSchema, { name, dims: dims.map(BigInt), dataType: DataType.FLOAT, rawData })
}
