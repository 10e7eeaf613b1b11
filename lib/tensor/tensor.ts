/** Tensors: memory with a shape and a type. */
import { CREATE, checkCreate } from '../base/create.js'
import { type DType, dtypeOf, type HostData, is16Bit, leaveOutAndCast, proxyAdvice, readDType } from '../base/dtype.js'
import { describe, fail, LilyError } from '../base/errors.js'
import type { GpuBuffer } from '../base/gpu-types.js'
import { elementsOf } from '../base/options.js'
import { readIntegers, shapeText } from '../base/shape.js'
import { firstNumbers } from '../base/summary.js'
import { deviceTensor, disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { allocateOnHost } from '../memory/allocate.js'
import { readDevice } from '../memory/backends.js'
import { CPU, type Device, deviceText } from '../memory/device.js'
import { gpuBufferOf, isDeviceMemory, isHostMemory } from '../memory/operand-memory.js'
import { checkMemory, checkNotLonger, layOutOnHost, type Operand } from '../memory/operand.js'
import { contiguousStrides } from './layout.js'
import { copyToDevice, copyToHost } from './transfer.js'

/** The operand of a tensor; null once the tensor is disposed of. */
export let operandOf: (tensor: Tensor) => Operand | null

/** Creates a tensor over an operand, which it then owns. */
export let tensorOf: (operand: Operand) => Tensor

/**
 * A row-major array of numbers in host or device memory. Its rows may have a pitch. A tensor wraps memory without a
 * copy; {@link tensor} creates one, and operations return their results as tensors. Device memory of a tensor that is
 * not disposed of is freed when the tensor is garbage-collected.
 *
 * @example
 * const x = tensor([1, 2, 3, 4], [2, 2])
 * console.log(x.shape, x.dtype, x.data)
 * const onDevice = x.to({ type: 'cuda', id: 0 })
 * const copy = await onDevice.toHost()
 */
export class Tensor {
  #operand: Operand | null

  private constructor(key: symbol, operand: Operand) {
    checkCreate(key, 'Tensor', 'tensor(data, shape)')
    this.#operand = operand
  }

  static {
    operandOf = (tensor) => tensor.#operand
    tensorOf = (operand) => new Tensor(CREATE, operand)
  }

  /**
   * Dimensions, outermost first: a copy, which other libraries accept as theirs.
   *
   * @throws LilyError ERR_LILY_DISPOSED, like all properties except `isDisposed`
   */
  get shape(): number[] {
    return this.#open().shape.slice()
  }

  /** Data type of the elements. */
  get dtype(): DType {
    return this.#open().dtype
  }

  /** The device of the memory; `{ type: 'cpu', id: 0 }` for host memory. */
  get device(): Device {
    return this.#open().device
  }

  /** Stride of each dimension, in elements: a copy. */
  get strides(): number[] {
    const { shape, strides } = this.#open()
    return strides?.slice() ?? contiguousStrides(shape)
  }

  /**
   * The host memory from the first element on, not a copy: a Float32Array for float32, a Uint16Array of bit patterns
   * for bfloat16 and float16 (or the Float16Array that was passed). If the rows have a pitch, it includes the gaps
   * between them. Its length is the product of `shape`, plus these gaps. It is the typed array that was passed, if that has
   * this length, otherwise a part of it.
   *
   * @throws LilyError ERR_LILY_DEVICE for a tensor in device memory, ERR_LILY_DISPOSED; ERR_LILY_ARGUMENT if the memory was
   *   transferred, ERR_LILY_SHAPE if it has shrunk
   */
  get data(): HostData {
    const operand = this.#open()
    const { memory, byteOffset, byteLength } = operand
    if (!isHostMemory(memory)) {
      return fail('ERR_LILY_DEVICE', 'data', 'is not available for a tensor in device memory; await its toHost() first')
    }
    if (memory.byteLength === byteLength) return memory
    checkMemory('data', operand)
    const bytes = memory.BYTES_PER_ELEMENT
    return memory.subarray(byteOffset / bytes, (byteOffset + byteLength) / bytes)
  }

  /**
   * The buffer of a tensor on a GPUDevice, for other libraries: the elements begin at {@link byteOffset}, and rows lie
   * `strides` apart. The buffer may be larger than the tensor. It is valid as long as the tensor is; do not destroy it.
   *
   * @throws LilyError ERR_LILY_DEVICE for a tensor that is not on a GPUDevice, ERR_LILY_DISPOSED
   */
  get buffer(): GpuBuffer {
    const { memory, device } = this.#open()
    const buffer = gpuBufferOf(memory)
    if (buffer !== null) return buffer
    return fail(
      'ERR_LILY_DEVICE',
      'buffer',
      `is available for tensors on a GPUDevice only, got one on ${deviceText(device)}`,
    )
  }

  /** Bytes from the start of the memory to the first element. */
  get byteOffset(): number {
    return this.#open().byteOffset
  }

  /** Whether `dispose()` has been called. */
  get isDisposed(): boolean {
    return this.#operand === null
  }

  /**
   * This tensor on a device: itself if it is there already, otherwise a contiguous copy of the same shape. The copy is
   * enqueued, and belongs to `Stream.default(device)`. Host memory may be changed as soon as this returns.
   *
   * @throws LilyError ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA, ERR_LILY_DISPOSED,
   *   ERR_LILY_DEVICE for `{ type: 'cpu' }` on a tensor in device memory: use `toHost`, which is asynchronous
   */
  to(device: { readonly type: Device['type']; readonly id?: number | undefined }): Tensor {
    const target = readDevice('device', device)
    const operand = this.#open()
    if (operand.device === target) return this
    if (target === CPU) {
      fail(
        'ERR_LILY_DEVICE',
        'device',
        "expected a device other than the host for a tensor in device memory, got 'cpu'; copies to the host are asynchronous: await toHost()",
      )
    }
    checkMemory('this tensor', operand)
    return tensorOf(copyToDevice(operand, target))
  }

  /**
   * This tensor in host memory: itself if it is there already, otherwise a contiguous copy of the same shape,
   * made once the work enqueued on it so far is complete.
   *
   * @throws LilyError (as a rejection) ERR_LILY_CUDA, ERR_LILY_OUT_OF_MEMORY, ERR_LILY_DISPOSED
   */
  async toHost(): Promise<Tensor> {
    const operand = this.#open()
    if (operand.device === CPU) return this
    checkMemory('this tensor', operand)
    return tensorOf(await copyToHost(operand))
  }

  /**
   * The device memory as a {@link DeviceTensorLike}, or a {@link GpuTensorLike} on a GPUDevice, for other libraries.
   *
   * @throws LilyError ERR_LILY_DEVICE for a tensor in host memory, ERR_LILY_DISPOSED
   */
  [deviceTensor](): DeviceTensor | GpuTensor {
    const operand = this.#open()
    const { memory, byteOffset, byteLength, dtype, device, stream } = operand
    if (isHostMemory(memory)) {
      return fail('ERR_LILY_DEVICE', 'this tensor', "is in host memory; move it with to({ type: 'cuda', id }) first")
    }
    const buffer = gpuBufferOf(memory)
    if (buffer !== null) {
      const { shape, strides } = this
      return { buffer, byteOffset, shape, strides, dtype, device: device as GpuTensor['device'] }
    }
    return {
      ptr: BigInt(isDeviceMemory(memory) ? memory.address : (memory as bigint)) + BigInt(byteOffset),
      shape: this.shape,
      dtype,
      device: device as DeviceTensor['device'],
      strides: this.strides,
      byteLength,
      stream: stream === null ? undefined : BigInt(stream.cudaStream),
      owner: this,
    }
  }

  /**
   * Releases the memory; enqueued work on it still runs. Later uses of this tensor throw ERR_LILY_DISPOSED. Calling it
   * again has no effect. Throws nothing.
   */
  dispose(): void {
    this.#operand?.dispose()
    this.#operand = null
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  /**
   * Shape, dtype and device, without the values.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  toJSON(): { shape: number[]; dtype: DType; device: Device } {
    return { shape: this.shape, dtype: this.dtype, device: this.device }
  }

  [inspectSymbol](): string {
    return `Tensor { ${this.summary()} }`
  }

  /** @internal Type, shape, device and first numbers, in the console. */
  summary(): string {
    const operand = this.#operand
    if (operand === null) return 'disposed'
    const { dtype, shape, device } = operand
    return `${dtype} ${shapeText(shape)} on ${deviceText(device)}${this.#firstValues(operand)}`
  }

  #firstValues({ dtype, memory, byteOffset, byteLength, rows, columns }: Operand): string {
    if (!isHostMemory(memory) || is16Bit(dtype) || byteLength === 0) return ''
    if (byteOffset + byteLength > memory.byteLength) return '' // transferred, or shrunk
    return `: ${firstNumbers(this.data.subarray(0, columns), rows * columns)}`
  }

  #open(): Operand {
    if (this.#operand !== null) return this.#operand
    throw new LilyError('ERR_LILY_DISPOSED', 'this tensor is disposed of; use it before dispose()')
  }
}

/** What `Tensor[deviceTensor]` returns. */
interface DeviceTensor {
  readonly ptr: bigint
  readonly shape: readonly number[]
  readonly dtype: DType
  readonly device: { readonly type: 'cuda'; readonly id: number }
  readonly strides: readonly number[]
  readonly byteLength: number
  readonly stream: bigint | undefined
  readonly owner: unknown
}

/** What `Tensor[deviceTensor]` returns on a GPUDevice. */
interface GpuTensor {
  readonly buffer: GpuBuffer
  readonly byteOffset: number
  readonly shape: readonly number[]
  readonly strides: readonly number[]
  readonly dtype: DType
  readonly device: { readonly type: 'webgpu'; readonly id: number }
}

/** The argument `dtype` of {@link tensor}: required where `data` is a Uint16Array, whose class does not tell its type. */
export type DTypeArgument<D> = [D] extends [never]
  ? [dtype?: DType]
  : D extends { readonly [Symbol.toStringTag]: 'Uint16Array' }
    ? [dtype: DType]
    : [dtype?: DType]

/**
 * Creates a contiguous host tensor over a typed array, without a copy. An array of numbers is copied to a Float32Array.
 *
 * @param data of as many elements as `shape` has: a Float32Array; a Float16Array; a Uint16Array of bit patterns, with
 *   `dtype` 'bfloat16' or 'float16'; a Uint8Array for a mask or an Int32Array for offsets; or an array of numbers
 * @param shape dimensions in elements, outermost first, whose product is the length of `data`
 * @param dtype the type of `data`: required for a Uint16Array, otherwise optional
 * @returns a tensor of this shape over `data`
 * @throws LilyError ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_ARGUMENT
 * @example
 * const x = tensor(new Float32Array([1, 2, 3, 4]), [2, 2])
 * const half = tensor(new Uint16Array([0x3f80, 0x4000]), [2], 'bfloat16') // 1 and 2
 */
export function tensor<D extends HostData | readonly number[]>(
  data: D,
  shape: readonly number[],
  ...dtype: DTypeArgument<D>
): Tensor
export function tensor(data: HostData | readonly number[], shape: readonly number[], dtype?: DType): Tensor {
  const numbers = elementsOf(data)
  const memory = numbers !== null ? numbersToFloat32(numbers, dtype) : (data as HostData)
  if (!ArrayBuffer.isView(memory)) {
    fail(
      'ERR_LILY_ARGUMENT',
      'data',
      `expected a typed array or an array of numbers, got ${describe(data)}${proxyAdvice(data)}`,
    )
  }
  const type = dtypeOf('data', memory, dtype === undefined ? undefined : readDType('dtype', dtype))
  const operand = layOutOnHost('shape', memory, type, readIntegers('shape', 'shape', shape))
  if (numbers !== null && operand.byteLength !== memory.byteLength) {
    const expected = `expected a length of ${operand.byteLength / 4} for shape ${shapeText(operand.shape)}`
    fail('ERR_LILY_SHAPE', 'data', `${expected}, got ${numbers.length}`)
  }
  checkMemory('data', operand)
  checkNotLonger('data', memory, operand)
  return tensorOf(operand)
}

function numbersToFloat32(numbers: readonly unknown[], dtype: unknown): Float32Array {
  const given = dtype === undefined ? 'float32' : readDType('dtype', dtype)
  if (given !== 'float32') {
    const remedy = is16Bit(given) ? leaveOutAndCast(given) : 'pass a typed array'
    fail('ERR_LILY_DTYPE', 'dtype', `expected 'float32' for an array of numbers, got '${given}'; ${remedy}`)
  }
  const copy = allocateOnHost('data', 'float32', numbers.length) as Float32Array
  for (let i = 0; i < copy.length; i++) {
    const number = numbers[i]
    if (typeof number !== 'number') {
      const remedy = Array.isArray(number) ? '; pass data.flat(Infinity)' : ''
      fail('ERR_LILY_ARGUMENT', 'data', `expected data[${i}] to be a number, got ${describe(number)}${remedy}`)
    }
    copy[i] = number
  }
  return copy
}
