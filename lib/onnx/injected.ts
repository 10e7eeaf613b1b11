/** An ONNX model with an adapter. */
import { countOf, describe, fail } from '../base/errors.js'
import { grouped, summarised } from '../base/summary.js'
import type { FileData } from '../checkpoint/file-data.js'
import { type AdapterModel, checkModel } from '../model/adapter-model.js'
import { fedBy } from './feeds.js'
import { type Injection, type Slot, symbolsOf } from './layout.js'
import { adapterOf } from './matrices.js'
import { readNote } from './metadata.js'
import { openModel, readBytes } from './open.js'
import { readModel } from './read.js'

/** An input of an ONNX model that has a matrix of an adapter. */
export interface OnnxInput {
  /** Name of the parameter, such as 'layers.0.q_proj.lily_A.weight', unless the ONNX model had this name already. */
  readonly name: string
  /** The name of a size that differs between adapters: the rank, or the number of experts. */
  readonly dims: readonly [number | string, number | string]
}

/** The value of an {@link OnnxInput}: the arguments of the class Tensor of ONNX Runtime, and where the numbers are. */
export interface OnnxTensor {
  /** The type of the numbers. */
  readonly type: 'float32'
  /** The matrix, of the shape {@link dims}, row-major, in memory that nothing else uses. */
  readonly data: Float32Array
  /** The two sizes of the matrix, each at least 1. */
  readonly dims: readonly number[]
  /** The numbers are in host memory. */
  readonly location: 'cpu'
}

/** The class Tensor of ONNX Runtime. */
export type OnnxTensorClass<T> = new (type: 'float32', data: Float32Array, dims: number[]) => T

/** An ONNX model with an adapter: what {@link inject} returns. */
export interface InjectedModel {
  /** The ONNX model, for InferenceSession.create of ONNX Runtime. */
  readonly bytes: Uint8Array<ArrayBuffer>
  /** The inputs that have the matrices of an adapter. Empty for a model that was injected with `bake`. */
  readonly inputs: readonly OnnxInput[]
  /**
   * The values of {@link inputs} for an adapter. Add the other inputs of the model. They serve any number of calls, but with
   * `env.wasm.proxy` of onnxruntime-web, which transfers their memory. The adapter may have another rank, and another number of
   * experts, than the one that was injected, and it may lack layers of it; routing, pool, activation and which layers share
   * parameters must be the same.
   *
   * @param model null: the base model. Do not change its parameters until the promise resolves
   * @param Tensor the class of the values, such as `ort.Tensor`
   * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT for an adapter that this graph does not compute, or whose
   *   parameters are not finite, or if the model was injected with `bake`; ERR_LILY_DISPOSED, ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA
   * @example
   * const feeds = await injected.feeds(adapter, ort.Tensor)
   * const { logits } = await session.run({ input_ids, ...feeds })
   */
  feeds<T>(model: AdapterModel | null, Tensor: OnnxTensorClass<T>): Promise<Record<string, T>>
  /**
   * The values as plain objects, which sessions of onnxruntime-node and onnxruntime-web accept in the place of an ort.Tensor.
   * Their types do not, and Transformers.js drops them: pass its class then.
   *
   * @param model as above
   * @throws LilyError (as a rejection) as above
   * @example
   * const { logits } = await session.run({ input_ids, ...(await injected.feeds(adapter)) })
   */
  feeds(model: AdapterModel | null): Promise<Record<string, OnnxTensor>>
}

/**
 * Reads a model that {@link inject} or {@link injectFile} made earlier.
 *
 * @param file its path, or its content, which must not change until the promise resolves
 * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT for a file that is damaged, or that these functions have not made;
 *   ERR_LILY_ARGUMENT, ERR_LILY_OUT_OF_MEMORY
 * @example
 * const injected = await readInjected('model-adapted.onnx')
 * const feeds = await injected.feeds(adapter, ort.Tensor)
 */
export async function readInjected(file: string | URL | FileData): Promise<InjectedModel> {
  const open = await openModel('file', file)
  const bytes = await readBytes(open)
  const { injection, slots } = readNote(open.path, readModel(open.path, bytes))
  return injectedModel(bytes, injection, slots)
}

/** An ONNX model and what was added to it. */
export function injectedModel(
  bytes: Uint8Array<ArrayBuffer>,
  injection: Injection,
  slots: ReadonlyMap<string, Slot>,
): InjectedModel {
  const { isBaked } = injection
  const inputs = isBaked ? [] : Array.from(slots, ([name, slot]) => ({ name, dims: symbolsOf(slot) }))
  const feeds = async <T>(
    model: AdapterModel | null,
    Tensor: OnnxTensorClass<T> = PlainTensor as unknown as OnnxTensorClass<T>,
  ): Promise<Record<string, T>> => {
    if (model !== null) checkModel(model, 'a LilyModel, a LoraModel, or null for the base model')
    if (typeof Tensor !== 'function') {
      fail('ERR_LILY_ARGUMENT', 'Tensor', `expected ort.Tensor, the class of ONNX Runtime, got ${describe(Tensor)}`)
    }
    if (isBaked) {
      fail(
        'ERR_LILY_ARGUMENT',
        'model',
        'this ONNX model was injected with bake: run it without feeds, or inject without bake to exchange adapters',
      )
    }
    const fed = fedBy(injection, slots, model === null ? null : await adapterOf(model))
    const entries: [string, T][] = []
    for (const { name, dims, values } of fed) entries.push([name, new Tensor('float32', await values(), dims)])
    return Object.fromEntries(entries)
  }
  return summarised({ bytes, inputs, feeds }, () => {
    const adapter = isBaked ? 'baked' : countOf(inputs.length, 'input')
    return `InjectedModel { ${grouped(bytes.length)} bytes, ${adapter} }`
  })
}

class PlainTensor implements OnnxTensor {
  readonly location = 'cpu'

  constructor(
    readonly type: 'float32',
    readonly data: Float32Array,
    readonly dims: readonly number[],
  ) {}
}
