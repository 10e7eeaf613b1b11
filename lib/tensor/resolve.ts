/**
 * From what a caller passes to what a call needs. Every getter and provider of the caller's runs here, once; nothing of
 * the caller's runs after it, so what is checked afterwards stays true.
 */
import { bytesPerElement, type DType, dtypeOf, type HostData, readDType } from '../base/dtype.js'
import { describe, fail, failedToRead } from '../base/errors.js'
import { get } from '../base/options.js'
import { readIntegers, shapeText } from '../base/shape.js'
import { deviceTensor } from '../base/symbols.js'
import { CPU, cudaDevice, type Device } from '../memory/device.js'
import { checkNotLonger, layOut, type Operand } from '../memory/operand.js'
import { StreamState } from '../memory/stream-state.js'
import { bufferOperand, DeviceBuffer } from './device-buffer.js'
import { readStreamHandle } from './stream-option.js'
import { operandOf, Tensor } from './tensor.js'

/** Host memory with a shape; never copied. */
export interface HostTensorLike {
  /** Float32Array for float32; Uint16Array for `dtype` bfloat16 or float16; Float16Array for float16. */
  readonly data: HostData
  readonly shape: readonly number[]
  readonly dtype?: DType | undefined
  /** In elements; the last is 1. Default: contiguous. */
  readonly strides?: readonly number[] | undefined
  /** Bytes from the start of `data` to the first element. */
  readonly byteOffset?: number | undefined
  readonly device?: { readonly type: 'cpu'; readonly id?: number | undefined } | undefined
}

/** A tensor with the names of ONNX Runtime, in host memory. */
export interface OnnxTensorLike {
  readonly data: ArrayBufferView | readonly unknown[]
  readonly dims: readonly number[]
  /** 'float32', 'float16' or 'bfloat16' ('uint8' and 'bool' for masks, 'int32' for offsets). */
  readonly type: string
}

/** Device memory that someone else owns. */
export interface DeviceTensorLike {
  readonly ptr: bigint | number
  readonly shape: readonly number[]
  readonly dtype: DType
  readonly device: { readonly type: 'cuda'; readonly id: number }
  /** In elements; the last is 1. Default: contiguous. */
  readonly strides?: readonly number[] | undefined
  /** Bytes from `ptr` to the first element. */
  readonly byteOffset?: number | undefined
  /** Bytes from `ptr` to the end of the allocation, where known; used to check the shape. */
  readonly byteLength?: number | undefined
  /** The stream that last wrote the memory: 1 the legacy one, 2 the per-thread one, larger a handle. */
  readonly stream?: bigint | number | undefined
  /** Kept alive as long as the memory is in use. */
  readonly owner?: unknown
}

/** An object that can offer device memory. */
export interface DeviceTensorProvider {
  [deviceTensor](request: { readonly stream?: bigint | number | undefined }): DeviceTensorLike
}

/** Anything that can be an operand. */
export type TensorLike =
  Tensor | DeviceBuffer | HostTensorLike | OnnxTensorLike | DeviceTensorLike | DeviceTensorProvider

/** What a caller's object might have; nothing about it is known. */
type Unknown = Readonly<Record<string | symbol, unknown>>

/** The operand that `value` stands for. Memory bounds are not checked yet: see checkMemory. */
export function resolve(argument: string, value: unknown): Operand {
  if (typeof value !== 'object' || value === null) {
    if (value === undefined) fail('ERR_LILY_ARGUMENT', argument, 'is required, got undefined; pass a tensor')
    fail('ERR_LILY_ARGUMENT', argument, `expected a tensor, such as { data, shape }, got ${describe(value)}`)
  }
  try {
    if (value instanceof Tensor) return readOperand(argument, operandOf(value))
    return value instanceof DeviceBuffer
      ? readOperand(argument, bufferOperand(value))
      : read(argument, value as Unknown)
  } catch (cause) {
    throw failedToRead(argument, cause)
  }
}

/** The operand of that name. */
export function resolveFrom(operands: object, name: string): Operand {
  return resolve(name, get('operands', operands, name))
}

function readOperand(argument: string, operand: Operand | null): Operand {
  if (operand !== null) return operand
  return fail('ERR_LILY_DISPOSED', argument, 'this tensor has been disposed of; use it before dispose()')
}

function read(argument: string, value: Unknown): Operand {
  const provide = value[deviceTensor]
  if (provide !== undefined) return readProvided(argument, value, provide)
  const ptr = value.ptr
  if (ptr !== undefined) return readDeviceMemory(argument, value, ptr, value)

  const data = value.data
  if (!ArrayBuffer.isView(data)) {
    const got = ArrayBuffer.isView(value) || Array.isArray(value) ? describe(value) : `data as ${describe(data)}`
    fail('ERR_LILY_ARGUMENT', argument, `expected a tensor, such as { data: Float32Array, shape }, got ${got}`)
  }
  // ONNX Runtime's names go together: dims with type.
  const shape = value.shape
  const dtype = dtypeOf(argument, data as HostData, shape === undefined ? value.type : value.dtype)
  const sizes = readIntegers(argument, 'shape', shape === undefined ? value.dims : shape)
  const strides = readStrides(argument, value.strides, sizes.length)
  const givenOffset = value.byteOffset
  const byteOffset = readByteOffset(argument, givenOffset, dtype)
  const device = value.device
  if (device !== undefined && (device as Unknown | null)?.type !== 'cpu') {
    fail('ERR_LILY_DEVICE', argument, "its data is in host memory, but its device is not of type 'cpu'; leave it out")
  }
  const operand = layOut(argument, data as HostData, byteOffset, dtype, CPU, sizes, strides)
  // Whoever says where the elements lie may leave room around them.
  if (strides === null && givenOffset === undefined) checkNotLonger(argument, data, operand)
  return operand
}

function readProvided(argument: string, owner: Unknown, provide: unknown): Operand {
  if (typeof provide !== 'function') {
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      `its [Symbol.for('lily.deviceTensor')] must be a method, got ${describe(provide)}`,
    )
  }
  const provided: unknown = Reflect.apply(provide, owner, [{}])
  if (typeof provided !== 'object' || provided === null) {
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      `its [Symbol.for('lily.deviceTensor')] must return { ptr, shape, dtype, device }, got ${describe(provided)}`,
    )
  }
  return readDeviceMemory(argument, provided as Unknown, (provided as Unknown).ptr, owner)
}

/** @param keeper the caller's object, which may be what keeps the memory */
function readDeviceMemory(argument: string, value: Unknown, ptr: unknown, keeper: unknown): Operand {
  if (typeof ptr !== 'bigint' && !Number.isSafeInteger(ptr)) {
    fail('ERR_LILY_ARGUMENT', argument, `ptr must be an address as a bigint or an integer, got ${describe(ptr)}`)
  }
  const address = BigInt(ptr as bigint | number)
  if (address < 0n || address >= 1n << 64n) fail('ERR_LILY_ARGUMENT', argument, `ptr ${address} is not an address`)
  const dtype = readDType(argument, value.dtype)
  const shape = readIntegers(argument, 'shape', value.shape)
  const strides = readStrides(argument, value.strides, shape.length)
  const byteOffset = readByteOffset(argument, value.byteOffset, dtype)
  const device = readDevice(argument, value.device)
  const byteLength = value.byteLength
  const stream = value.stream
  const owner = value.owner
  const operand = layOut(argument, address, byteOffset, dtype, device, shape, strides)
  if (stream !== undefined) operand.stream = StreamState.of(device.id, readStreamHandle(argument, stream))
  operand.owner = owner === undefined ? keeper : [keeper, owner]

  if (address % BigInt(bytesPerElement(dtype)) !== 0n) {
    fail('ERR_LILY_ARGUMENT', argument, `ptr must be aligned to one ${dtype}, ${bytesPerElement(dtype)} bytes`)
  }
  if (byteLength !== undefined && !(byteOffset + operand.byteLength <= Number(byteLength))) {
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `shape ${shapeText(shape)} of ${dtype} ends ${byteOffset + operand.byteLength} bytes after ptr, ` +
        `but byteLength is ${describe(byteLength)}`,
    )
  }
  return operand
}

function readDevice(argument: string, device: unknown): Device {
  const { type, id } = (typeof device === 'object' && device !== null ? device : {}) as Unknown
  if (type !== 'cuda' || !Number.isSafeInteger(id) || (id as number) < 0) {
    fail(
      'ERR_LILY_DEVICE',
      argument,
      `memory given by ptr needs a device { type: 'cuda', id }, got type ${describe(type)} and id ${describe(id)}`,
    )
  }
  return cudaDevice(id as number)
}

function readStrides(argument: string, value: unknown, rank: number): number[] | null {
  if (value === undefined) return null
  const strides = readIntegers(argument, 'strides', value)
  if (strides.length === rank) return strides
  return fail('ERR_LILY_SHAPE', argument, `expected one stride for each of ${rank} dimensions, got ${strides.length}`)
}

function readByteOffset(argument: string, value: unknown, dtype: DType): number {
  if (value === undefined) return 0
  if (Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) % bytesPerElement(dtype) === 0) {
    return value as number
  }
  return fail(
    'ERR_LILY_ARGUMENT',
    argument,
    `byteOffset must be a non-negative multiple of ${bytesPerElement(dtype)}, the bytes of one ${dtype}, ` +
      `got ${describe(value)}`,
  )
}
