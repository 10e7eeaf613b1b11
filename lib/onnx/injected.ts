/** An ONNX model with an adapter. */
import type { FileData } from '../checkpoint/file-data.js'
import type { AdapterModel } from '../model/adapter-model.js'

/** An input of an ONNX model that has a matrix of an adapter. */
export interface OnnxInput {
  readonly name: string
  /** The name of a size that differs between adapters: the rank, or the number of experts. */
  readonly dims: readonly [number | string, number | string]
}

/** The value of an {@link OnnxInput}: the arguments of the class Tensor of ONNX Runtime, and where the numbers are. */
export interface OnnxTensor {
  readonly type: 'float32'
  readonly data: Float32Array
  readonly dims: readonly number[]
  readonly location: 'cpu'
}

/** The class Tensor of ONNX Runtime. */
export type OnnxTensorClass<T> = new (type: 'float32', data: Float32Array, dims: readonly number[]) => T

/** An ONNX model with an adapter: what {@link inject} returns. */
export interface InjectedModel {
  /** The ONNX model, for InferenceSession.create of ONNX Runtime. */
  readonly bytes: Uint8Array<ArrayBuffer>
  /** The inputs that have the matrices of an adapter. Empty for a model that was injected with `bake`. */
  readonly inputs: readonly OnnxInput[]
  feeds(model: AdapterModel | null): Promise<Record<string, OnnxTensor>>
  feeds<T>(model: AdapterModel | null, Tensor: OnnxTensorClass<T>): Promise<Record<string, T>>
}

export function readInjected(file: string | URL | FileData): Promise<InjectedModel> {
  throw new Error(`to be written: ${typeof file}`)
}
