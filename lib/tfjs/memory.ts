/**
 * The numbers of tensors of TensorFlow.js in host memory; gpu-memory.ts has those on a GPUDevice.
 *
 * The cpu backend keeps numbers in typed arrays, which are used in place. The wasm backend keeps them in the heap of its
 * WebAssembly module; a view of the heap is used in place too, but for one call only: any allocation may grow the heap,
 * which detaches all views. All other backends copy in both directions.
 */
import {
  backend,
  type DataType,
  engine,
  reshape,
  type Tensor,
  tensor,
  type TensorInfo,
  tidy,
  util,
  type Variable,
} from '@tensorflow/tfjs-core'
import type { HostData } from '../base/dtype.js'
import { describe, fail, LilyError } from '../base/errors.js'
import { shapeText } from '../base/shape.js'
import type { Place, VariableParameter } from './place.js'

/** The members of the wasm backend that this file uses. */
interface HeapBackend {
  /** Allocates a tensor whose numbers are undefined. */
  makeOutput(shape: number[], dtype: 'float32'): TensorInfo
  /** A view, which the next allocation may detach. */
  typedArrayFromHeap(tensor: TensorInfo): Float32Array
}

function heapBackend(): HeapBackend | null {
  const current = backend() as Partial<HeapBackend>
  const isHeap = typeof current.makeOutput === 'function' && typeof current.typedArrayFromHeap === 'function'
  return isHeap ? (current as HeapBackend) : null
}

/** The shape and the numbers of a tensor, as an operand of this package. */
export interface HostTensor {
  readonly data: Float32Array
  readonly shape: readonly number[]
}

/**
 * Computes a new tensor from others.
 *
 * @param inputs float32
 * @param compute writes the numbers of the result, which are undefined before. It allocates no memory of the backend
 */
export function computeTensor(
  inputs: readonly TensorInfo[],
  shape: number[],
  compute: (output: HostTensor, ...inputs: HostTensor[]) => void,
): TensorInfo {
  return computeTensors(inputs, [shape], ([output], ...given) => {
    compute(output, ...given)
  })[0]
}

/** The same for several new tensors. */
export function computeTensors(
  inputs: readonly TensorInfo[],
  shapes: readonly number[][],
  compute: (outputs: HostTensor[], ...inputs: HostTensor[]) => void,
): TensorInfo[] {
  const heap = heapBackend()
  if (heap === null) {
    const outputs = shapes.map((shape) => ({ data: new Float32Array(util.sizeFromShape(shape)), shape }))
    compute(outputs, ...inputs.map((input) => numbersOf(heap, input)))
    return outputs.map(({ data, shape }) => ({
      dataId: backend().write(data, shape, 'float32'),
      shape,
      dtype: 'float32',
    }))
  }
  moveToHeap(heap, inputs)
  const results: TensorInfo[] = []
  try {
    for (const shape of shapes) results.push(heap.makeOutput(shape, 'float32'))
    const outputs = results.map((result) => ({ data: heap.typedArrayFromHeap(result), shape: result.shape }))
    for (const { data, shape } of outputs) {
      // malloc returns 0 if the heap cannot grow, and the backend does not check it.
      if (data.byteOffset > 0 || data.length === 0) continue
      throw new LilyError('ERR_LILY_OUT_OF_MEMORY', `the heap of the wasm backend has no room for ${shapeText(shape)}`)
    }
    compute(outputs, ...inputs.map((input) => numbersOf(heap, input)))
  } catch (cause) {
    for (const { dataId } of results) backend().disposeData(dataId)
    throw cause
  }
  return results
}

/** The tensor that a computation outside of a kernel has made. */
export function newTensor(info: TensorInfo): Tensor {
  return engine().makeTensorFromTensorInfo(info)
}

/** Calls on the host. */
export const hostPlace: Place = {
  read(inputs, read) {
    const heap = heapBackend()
    if (heap !== null) moveToHeap(heap, inputs)
    read(...inputs.map((input) => numbersOf(heap, input)))
  },
  compute: (shape, start, inputs, compute) =>
    computeTensor(start === null ? inputs : [start, ...inputs], shape, (output, ...given) => {
      const rest = start === null ? given : given.slice(1)
      if (start !== null) output.data.set(given[0].data)
      compute(output, ...rest)
    }),
  // The call copies it.
  small: (_, tensor) => ({ operand: { data: dataOf(tensor), shape: tensor.shape }, tensor: null }),
  variable: (variable) => new HostVariable(variable),
}

class HostVariable implements VariableParameter {
  readonly value: HostTensor
  readonly grad: HostTensor

  constructor(readonly variable: Variable) {
    const shape = variable.rank === 0 ? [1] : variable.shape
    this.value = { data: new Float32Array(variable.size), shape }
    this.grad = { data: new Float32Array(variable.size), shape }
  }

  begin(gradient: Tensor): void {
    this.value.data.set(this.variable.dataSync())
    this.grad.data.set(gradient.dataSync())
  }

  end(isDone: boolean): void {
    if (!isDone) return
    tidy(() => {
      this.variable.assign(tensor(this.value.data.slice(), this.variable.shape, 'float32'))
    })
  }
}

/** Another tensor over the same numbers. `tf.clone` copies them on the wasm backend, and `tf.reshape` on none. */
export function share(tensor: Tensor): Tensor {
  return reshape(tensor, tensor.shape)
}

/** The first look at a tensor of another backend moves it here, which allocates. */
function moveToHeap(heap: HeapBackend, tensors: readonly TensorInfo[]): void {
  for (const tensor of tensors) heap.typedArrayFromHeap(tensor)
}

function numbersOf(heap: HeapBackend | null, tensor: TensorInfo): HostTensor {
  return { data: heap === null ? floatsOf(tensor) : heap.typedArrayFromHeap(tensor), shape: tensor.shape }
}

/** The numbers of a float32 tensor. On the cpu backend it shares them with the int32 or bool that `tf.cast` was given. */
export function floatsOf({ dataId }: TensorInfo): Float32Array {
  const numbers = engine().readSync(dataId)
  return numbers instanceof Float32Array ? numbers : Float32Array.from(numbers as Int32Array | Uint8Array)
}

/** The numbers of a tensor in the type that it has. They may be memory of the backend. */
export function dataOf(tensor: Tensor): HostData {
  if (tensor.dtype === 'float32') return floatsOf(tensor)
  const numbers = tensor.dataSync() as Int32Array | Uint8Array
  return tensor.dtype === 'int32' ? Int32Array.from(numbers) : numbers
}

export function isTensor(value: unknown): value is Tensor {
  return typeof value === 'object' && value !== null && 'dataId' in value
}

/**
 * Checks a tensor of TensorFlow.js that is not disposed of.
 *
 * @param dtypes the types that it may have
 */
export function checkTensor(
  argument: string,
  value: unknown,
  dtypes: readonly [DataType, ...DataType[]],
): asserts value is Tensor {
  const { dataId, shape, dtype, isDisposed } = (value ?? {}) as Partial<Tensor>
  if (dataId == null || !Array.isArray(shape) || dtype === undefined) {
    fail('ERR_LILY_ARGUMENT', argument, `expected a tensor of TensorFlow.js, got ${describe(value)}`)
  }
  if (isDisposed === true) {
    fail('ERR_LILY_DISPOSED', argument, 'this tensor is disposed of; keep it with tf.keep, or use it in the same tidy')
  }
  if (dtypes.includes(dtype)) return
  fail('ERR_LILY_DTYPE', argument, `expected ${dtypes.join(' or ')}, got ${dtype}; convert it with tf.cast`)
}

/** Checks a tensor of activations. */
export function checkFloat32(argument: string, value: unknown): asserts value is Tensor {
  checkTensor(argument, value, ['float32'])
}
