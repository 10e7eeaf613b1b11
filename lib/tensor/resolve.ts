/**
 * Resolves the tensors that the caller passes, in any of their forms, to operands. Getters and `deviceTensor` methods
 * of the caller run here and only here, each once, so they cannot change an operand after it has been checked.
 */
import {
  type DType,
  dtypeOf,
  type DTypes,
  FLOATS,
  type HostData,
  proxyAdvice,
  readDType,
  type TypedData,
} from '../base/dtype.js'
import { describe, describeOther, fail, failedToRead } from '../base/errors.js'
import type { GpuBuffer } from '../base/gpu-types.js'
import type { Known } from '../base/options.js'
import { readIntegers } from '../base/shape.js'
import { deviceTensor } from '../base/symbols.js'
import { CPU } from '../memory/device.js'
import { checkNotLonger, layOut, type Operand } from '../memory/operand.js'
import { readCudaMemory } from './cuda-memory.js'
import { bufferOperand, DeviceBuffer } from './device-buffer.js'
import { refuseFramework } from './frameworks.js'
import { checkGpuBuffer, gpuOf, isGpuBuffer } from './gpu-buffer.js'
import { checkFields, contiguousStrides, readByteOffset, readLayout, readStrides, type Unknown } from './layout.js'
import { operandOf, Tensor } from './tensor.js'

/** Host memory with a shape. It is used in place and never copied. */
export interface HostTensorLike {
  /**
   * At least the elements of `shape`: a Float32Array for float32; Uint16Array for `dtype` bfloat16 or float16; Float16Array
   * for float16.
   */
  readonly data: HostData
  /** Dimensions in elements, outermost first. */
  readonly shape: readonly number[]
  /** Type of the elements; required for a Uint16Array. */
  readonly dtype?: DType | undefined
  /** Strides in elements, the last one 1; all other dimensions must be evenly spaced rows. Default: contiguous. */
  readonly strides?: readonly number[] | undefined
  /** Bytes from the start of `data` to the first element. */
  readonly byteOffset?: number | undefined
  /** The host. */
  readonly device?: { readonly type: 'cpu'; readonly id?: number | undefined } | undefined
}

/**
 * A host tensor with the property names of ndarray, which @stdlib/ndarray shares but for `strides`. Its views are accepted
 * where the rows are evenly spaced: columns cut out of a larger array, but no transposed view and no negative step.
 */
export interface NdArrayLike {
  /** At least the elements that `shape`, `stride` and `offset` reach. */
  readonly data: HostData
  /** Dimensions in elements, outermost first. */
  readonly shape: readonly number[]
  /** Type of the elements, such as 'float32'; required for a Uint16Array. */
  readonly dtype?: string | undefined
  /** Strides in elements. */
  readonly stride: readonly number[]
  /** Elements from the start of `data` to the first one. */
  readonly offset?: number | undefined
}

/** A host tensor with the property names of ONNX Runtime (`ort.Tensor`), which Transformers.js also uses. */
export interface OnnxTensorLike {
  /** The elements of `dims`. */
  readonly data: ArrayBufferView | readonly unknown[]
  /** Dimensions in elements, outermost first. */
  readonly dims: readonly number[]
  /** 'float32', 'float16' or 'bfloat16' ('uint8' and 'bool' for masks, 'int32' for offsets). */
  readonly type: string
}

/** Device memory that another library owns. */
export interface DeviceTensorLike {
  /** Device address. */
  readonly ptr: bigint | number
  /** Dimensions in elements, outermost first. */
  readonly shape: readonly number[]
  /** Type of the elements. */
  readonly dtype: DType
  /** The CUDA device of the memory. */
  readonly device: { readonly type: 'cuda'; readonly id: number }
  /** Strides in elements, the last one 1; all other dimensions must be evenly spaced rows. Default: contiguous. */
  readonly strides?: readonly number[] | undefined
  /** Bytes from `ptr` to the first element. */
  readonly byteOffset?: number | undefined
  /** Bytes from `ptr` to the end of the allocation, if known; the shape is checked against it. */
  readonly byteLength?: number | undefined
  /**
   * Handle of the stream (a cudaStream_t) in which the memory was last written; 1 is cudaStreamLegacy, 2 is
   * cudaStreamPerThread. Default: the memory is ready to use.
   */
  readonly stream?: bigint | number | undefined
  /** Object that keeps the memory alive. It is kept reachable until all enqueued work on the memory is complete. */
  readonly owner?: unknown
}

/** A buffer of a GPUDevice that was passed to `createLily` of lily-kernels/webgpu. It is used in place and never copied. */
export interface GpuTensorLike {
  /** Its usages include STORAGE. */
  readonly buffer: GpuBuffer
  /** Dimensions in elements, outermost first. */
  readonly shape: readonly number[]
  /** Type of the elements. */
  readonly dtype: DType
  /** Bytes from the start of the buffer to the first element, a multiple of the size of an element. Default 0. */
  readonly byteOffset?: number | undefined
  /** Elements from the start of one row to the start of the next. Default: contiguous. */
  readonly pitch?: number | undefined
  /** Strides in elements, in the place of `pitch`; the last one 1, all other dimensions evenly spaced rows. */
  readonly strides?: readonly number[] | undefined
  /**
   * The `device` of the createLily object. Default: the device of the createLily object whose function is called, or
   * the only one.
   */
  readonly device?: { readonly type: 'webgpu'; readonly id: number } | undefined
}

/** An object that provides device memory. */
export interface DeviceTensorProvider {
  /**
   * Returns the memory, with its shape. `request` is currently empty.
   *
   * @throws anything; the call throws a LilyError as it is, and any other error as the cause of ERR_LILY_ARGUMENT
   */
  [deviceTensor](request: { readonly stream?: bigint | number | undefined }): DeviceTensorLike | GpuTensorLike
}

/** The class of the data tells the type of the elements, or `dtype` does, which a Uint16Array requires. */
type TypeKnown = { readonly data: TypedData } | { readonly dtype: DType }

/** Every form of tensor that a call accepts as an operand. */
export type TensorLike =
  | Tensor
  | DeviceBuffer
  | OnnxTensorLike
  | ((HostTensorLike | NdArrayLike) & TypeKnown)
  | DeviceTensorLike
  | GpuTensorLike
  | DeviceTensorProvider

/**
 * Resolves a tensor that the caller passed. The bounds of its memory are checked later, by `checkMemory`.
 *
 * @param dtypes to which errors advise to convert
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED
 */
export function resolve(argument: string, value: unknown, dtypes = FLOATS): Operand {
  if (typeof value !== 'object' || value === null) {
    if (value === undefined) fail('ERR_LILY_ARGUMENT', argument, 'is required, got undefined; pass a tensor')
    fail('ERR_LILY_ARGUMENT', argument, `expected a tensor, such as { data, shape }, got ${describe(value)}`)
  }
  try {
    const provide = (value as Unknown)[deviceTensor]
    if (provide !== undefined) {
      if (value instanceof Tensor) return operandOf(value) ?? failDisposed(argument)
      if (value instanceof DeviceBuffer) return bufferOperand(value) ?? failDisposed(argument)
    }
    return read(argument, value as Unknown, provide, dtypes)
  } catch (cause) {
    throw failedToRead(argument, cause)
  }
}

/** Like {@link resolve}; null if there is no value. */
export function resolveIfGiven(argument: string, value: unknown): Operand | null {
  return value === undefined ? null : resolve(argument, value)
}

function failDisposed(argument: string): never {
  fail('ERR_LILY_DISPOSED', argument, 'this tensor is disposed of; use it before dispose()')
}

/** @param provide the value's method `deviceTensor`, if it has one */
function read(argument: string, value: Unknown, provide: unknown, dtypes: DTypes): Operand {
  const device = value.device
  if (provide !== undefined) return readProvided(argument, value, provide)
  const ptr = value.ptr
  if (ptr !== undefined) return readCudaMemory(argument, value, ptr, device, value)

  if (!ArrayBuffer.isView(value) && isGpuBuffer(value.buffer)) return readGpuBuffer(argument, value)

  const wrapped = wrappedIn(value)
  if (wrapped !== null) return read(argument, wrapped, wrapped[deviceTensor], dtypes)
  refuseFramework(argument, value)
  const data = value.data
  if (!ArrayBuffer.isView(data)) {
    const got = 'data' in value ? `data as ${describe(data)}${proxyAdvice(data)}` : describe(value)
    fail('ERR_LILY_ARGUMENT', argument, `expected a tensor, such as { data: Float32Array, shape }, got ${got}`)
  }
  checkFields(argument, value, HOST_FIELDS)
  // An object has either shape and dtype, or ONNX Runtime's dims and type.
  const shape = value.shape
  const given = dtypeName(shape === undefined ? value.type : value.dtype)
  const dtype = dtypeOf(argument, data as HostData, given, dtypes)
  const sizes = readIntegers(argument, 'shape', shape === undefined ? value.dims : shape)
  const { strides, byteOffset, isWindow } = readLayout(argument, value, sizes.length, dtype)
  if (device !== undefined) checkHost(argument, device)
  const operand = layOut(argument, data as HostData, byteOffset, dtype, CPU, sizes, strides)
  if (!isWindow) checkNotLonger(argument, data, operand)
  return operand
}

const HOST_FIELDS: Known = new Set([
  'data',
  'shape',
  'dtype',
  'strides',
  'byteOffset',
  'device',
  // Names of ONNX Runtime, ndarray and @stdlib/ndarray.
  'dims',
  'type',
  'stride',
  'offset',
])
const GPU_FIELDS: Known = new Set(['buffer', 'shape', 'dtype', 'byteOffset', 'pitch', 'strides', 'device'])

function isHost(device: unknown): boolean {
  return (device as Unknown | null | undefined)?.type === 'cpu'
}

/** Checks the device of data in host memory. There is one host, whose ID is 0. */
function checkHost(argument: string, device: unknown): void {
  const id = isHost(device) ? ((device as Unknown).id ?? 0) : null
  if (id === 0) return
  const got = id === null ? describe(device) : `id ${describe(id)}`
  fail(
    'ERR_LILY_DEVICE',
    argument,
    `expected device { type: 'cpu' } for data in host memory, got ${got}; leave the device out`,
  )
}

/** The tensor that an object of another library wraps; null if it wraps none. */
function wrappedIn(value: Unknown): Unknown | null {
  const has = (inner: unknown, layout: string): inner is Unknown =>
    typeof inner === 'object' && inner !== null && 'data' in inner && layout in inner
  const { selection, ort_tensor: ortTensor } = value
  if (has(selection, 'stride')) return selection // numjs: an ndarray
  return has(ortTensor, 'dims') ? ortTensor : null // Transformers.js: a tensor of ONNX Runtime
}

/** @stdlib/ndarray has objects for data types. */
function dtypeName(dtype: unknown): unknown {
  return typeof dtype === 'object' && dtype !== null ? (dtype as { toString(): unknown }).toString() : dtype
}

function readProvided(argument: string, owner: Unknown, provide: unknown): Operand {
  if (typeof provide !== 'function') {
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      `expected [Symbol.for('lily.deviceTensor')] to be a method, got ${describe(provide)}`,
    )
  }
  // A tensor of another copy of the package has the method, which throws if the tensor is in host memory.
  if (isHost(owner.device)) {
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      `expected a tensor of this copy of lily-kernels, got ${describeOther(owner, 'Tensor')}, or pass { data, shape, dtype }`,
    )
  }
  const provided: unknown = Reflect.apply(provide, owner, [{}])
  if (typeof provided !== 'object' || provided === null) {
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      `expected [Symbol.for('lily.deviceTensor')]() to return { ptr, shape, dtype, device }, got ${describe(provided)}`,
    )
  }
  const { ptr, device, buffer } = provided as Unknown
  if (ptr === undefined && buffer !== undefined) return readGpuBuffer(argument, provided as Unknown)
  return readCudaMemory(argument, provided as Unknown, ptr, device, owner)
}

function readGpuBuffer(argument: string, value: Unknown): Operand {
  const { buffer, device } = value
  checkGpuBuffer(argument, buffer)
  checkFields(argument, value, GPU_FIELDS)
  const dtype = readDType(argument, value.dtype)
  const shape = readIntegers(argument, 'shape', value.shape)
  const strides = readPitch(argument, value, shape) ?? readStrides(argument, value.strides, shape.length)
  const byteOffset = readByteOffset(argument, value.byteOffset, dtype)
  const gpu = gpuOf(argument, device)
  return layOut(argument, buffer, byteOffset, dtype, gpu.device, shape, strides)
}

/** The strides of rows that lie `pitch` elements apart; null without a pitch. */
function readPitch(argument: string, { pitch, strides }: Unknown, shape: readonly number[]): number[] | null {
  if (pitch === undefined) return null
  if (strides !== undefined) {
    fail('ERR_LILY_ARGUMENT', argument, 'expected pitch or strides, got both; leave one of them out')
  }
  const columns = shape.at(-1) ?? 0
  if (!Number.isSafeInteger(pitch) || (pitch as number) < columns) {
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `expected pitch to be an integer from ${columns}, the length of a row, got ${describe(pitch)}`,
    )
  }
  return contiguousStrides([...shape.slice(0, -1), pitch as number])
}
