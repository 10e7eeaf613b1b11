/** Device memory that the caller can write, read and pass to other libraries. */
import { CREATE, checkCreate } from '../base/create.js'
import { bytesOf, bytesPerElement, type DType, type HostData, is16Bit, readDType } from '../base/dtype.js'
import { describe, describeOther, fail, LilyError } from '../base/errors.js'
import { checkCount, checkKeys, type Known } from '../base/options.js'
import { readIntegers, shapeText } from '../base/shape.js'
import { deviceTensor, disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { classNameOf } from '../base/views.js'
import { native } from '../binding/native.js'
import { allocateOnHost } from '../memory/allocate.js'
import { readCudaDevice } from '../memory/backends.js'
import { DeviceMemory } from '../memory/device-memory.js'
import { type Device, deviceText } from '../memory/device.js'
import { refuseShrinking } from '../memory/host-memory.js'
import { checkMemory, layOutOnDevice, type Operand } from '../memory/operand.js'
import { StreamState } from '../memory/stream-state.js'
import { type CudaDevice, openStream, type Stream } from './stream.js'
import { type Tensor, tensorOf } from './tensor.js'
import { download, placementOn } from './transfer.js'

const ALLOCATE_OPTIONS: Known = new Set(['stream'])

/** The operand of a buffer; null once the buffer is disposed of. */
export let bufferOperand: (buffer: DeviceBuffer) => Operand | null

/**
 * A contiguous row-major array in device memory of the package's pool. Every call accepts it as an operand, and it has
 * the properties of a {@link DeviceTensorLike} (`ptr`, `shape`, `dtype`, `device`, `byteLength`, `stream`), for other
 * libraries.
 *
 * Copies and fills are enqueued in the buffer's stream, in order with the calls that use the buffer. A buffer that is
 * not disposed of frees its memory when it is garbage-collected.
 *
 * @example
 * const x = DeviceBuffer.allocate([2, 2], 'float32', { type: 'cuda', id: 0 }).upload(Float32Array.of(1, 2, 3, 4))
 * console.log(await x.download())
 * x.dispose()
 */
export class DeviceBuffer {
  #operand: Operand | null

  private constructor(key: symbol, operand: Operand) {
    checkCreate(key, 'DeviceBuffer', 'DeviceBuffer.allocate(shape)')
    this.#operand = operand
  }

  static {
    bufferOperand = (buffer) => buffer.#operand
  }

  /**
   * Allocates a buffer. Its contents are undefined.
   *
   * @param shape dimensions, outermost first, in elements; their product is at least 0 and takes less than 2^53 bytes
   * @param dtype type of the elements. Default 'float32'
   * @param device default: cuda:0
   * @param options.stream the stream to which the buffer belongs. Default: `Stream.default(device)`
   * @returns a buffer of this shape
   * @throws LilyError ERR_LILY_OUT_OF_MEMORY, ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_SHAPE, ERR_LILY_DTYPE,
   *   ERR_LILY_DEVICE, ERR_LILY_DISPOSED, ERR_LILY_ARGUMENT
   */
  static allocate(
    shape: readonly number[],
    dtype: DType = 'float32',
    device: CudaDevice = { type: 'cuda' },
    options: { readonly stream?: Stream | undefined } = {},
  ): DeviceBuffer {
    const sizes = readIntegers('shape', 'shape', shape)
    const type = readDType('dtype', dtype)
    const place = readCudaDevice('device', device)
    checkKeys('options', options, ALLOCATE_OPTIONS)
    const stream = options.stream === undefined ? StreamState.default(place) : openStream('stream', options.stream)
    if (stream.device !== place) {
      fail(
        'ERR_LILY_DEVICE',
        'stream',
        `expected a stream of ${deviceText(place)}, the device of the buffer, got one of ${deviceText(stream.device)}`,
      )
    }
    const elements = sizes.reduce((product, size) => product * size, 1)
    const bytes = elements * bytesPerElement(type)
    if (!Number.isSafeInteger(bytes)) {
      fail('ERR_LILY_SHAPE', 'shape', `expected at most 2^53 - 1 bytes, got ${shapeText(sizes)} of ${type}`)
    }
    return new DeviceBuffer(
      CREATE,
      layOutOnDevice('shape', new DeviceMemory('shape', place, bytes, stream), 0, type, sizes),
    )
  }

  /** Device address. */
  get ptr(): bigint {
    return BigInt(memoryOf(this.#open()).address)
  }

  /**
   * Dimensions, outermost first.
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

  /** The CUDA device of the memory. */
  get device(): Device & { readonly type: 'cuda' } {
    return this.#open().device as Device & { readonly type: 'cuda' }
  }

  /** Size in bytes. */
  get byteLength(): number {
    return this.#open().byteLength
  }

  /** Handle of the stream (a cudaStream_t) in whose order the memory may be used without further synchronisation. */
  get stream(): bigint {
    return BigInt(memoryOf(this.#open()).stream.cudaStream)
  }

  /** Whether `dispose()` has been called. */
  get isDisposed(): boolean {
    return this.#operand === null
  }

  /**
   * Enqueues a copy of host memory into the buffer. `data` may be changed as soon as this returns.
   *
   * @param data a typed array of the buffer's dtype (a Uint16Array or Float16Array for 16-bit types), of any shape with at
   *   most as many elements as the buffer has from `offset` on
   * @param offset index of the first element of the buffer to write
   * @throws LilyError ERR_LILY_DTYPE, ERR_LILY_SHAPE, ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED, ERR_LILY_CUDA
   */
  upload(data: HostData, offset = 0): this {
    const operand = this.#open()
    const byteOffset = checkRange(operand, 'data', data, offset)
    const placement = placementOn(operand.device, operand)
    const { device, cudaStream } = placement.stream
    placement.run(() => {
      native.upload(device.id, memoryOf(operand).handle, byteOffset, bytesOf(data), cudaStream)
    })
    return this
  }

  /**
   * Copies the contents to the host once the work enqueued on the buffer so far is complete.
   *
   * @param into typed array to fill, in memory that is neither resized nor transferred before the promise is settled.
   *   Default: a new one for all elements from `offset` on
   * @param offset index of the first element of the buffer to read
   * @returns `into`, or the new typed array
   * @throws LilyError (as a rejection) ERR_LILY_DTYPE, ERR_LILY_SHAPE, ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED,
   *   ERR_LILY_CUDA
   */
  async download<T extends HostData = HostData>(into?: T, offset = 0): Promise<T> {
    const operand = this.#open()
    checkOffset(offset)
    const elements = operand.rows * operand.columns
    const data =
      into === undefined ? (allocateOnHost('download', operand.dtype, Math.max(elements - offset, 0)) as T) : into
    const byteOffset = checkRange(operand, 'into', data, offset)
    refuseShrinking('into', data)
    await download(operand, bytesOf(data), byteOffset)
    return data
  }

  /**
   * Enqueues a copy of another buffer of the same size in bytes, on any device, into this one.
   *
   * @param source a buffer of any shape with as many bytes
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DISPOSED, ERR_LILY_CUDA
   */
  copyFrom(source: DeviceBuffer): this {
    const to = this.#open()
    if (!(source instanceof DeviceBuffer)) {
      fail(
        'ERR_LILY_ARGUMENT',
        'source',
        `expected a DeviceBuffer, got ${describeOther(source, 'DeviceBuffer')}; use upload() for host memory`,
      )
    }
    const from = bufferOperand(source)
    if (from === null) fail('ERR_LILY_DISPOSED', 'source', 'this buffer is disposed of; use it before dispose()')
    if (from.byteLength !== to.byteLength) {
      fail('ERR_LILY_SHAPE', 'source', `expected ${to.byteLength} bytes, got ${from.byteLength}`)
    }
    const placement = placementOn(to.device, to)
    placement.use(from)
    const { device, cudaStream } = placement.stream
    const [target, origin] = [memoryOf(to), memoryOf(from)]
    placement.run(() => {
      native.copy(device.id, target.handle, 0, from.device.id, origin.handle, 0, to.byteLength, cudaStream)
    })
    return this
  }

  /**
   * Enqueues a memset of the whole buffer, as cudaMemsetAsync does.
   *
   * @param byte value of every byte, from 0 to 255
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED, ERR_LILY_CUDA
   */
  fill(byte: number): this {
    const operand = this.#open()
    checkCount('byte', byte, 0, 255)
    const placement = placementOn(operand.device, operand)
    const { device, cudaStream } = placement.stream
    placement.run(() => {
      native.fill(device.id, memoryOf(operand).handle, 0, operand.byteLength, byte, cudaStream)
    })
    return this
  }

  /**
   * A tensor of the same shape over the same memory. The memory is freed once both are disposed of.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  tensor(): Tensor {
    return tensorOf(this.#open().share())
  }

  /**
   * The memory as a {@link DeviceTensorLike}.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  [deviceTensor](): {
    ptr: bigint
    shape: readonly number[]
    dtype: DType
    device: Device & { readonly type: 'cuda' }
    byteLength: number
    stream: bigint
    owner: unknown
  } {
    const { ptr, shape, dtype, device, byteLength, stream } = this
    return { ptr, shape, dtype, device, byteLength, stream, owner: this }
  }

  /** Frees the memory once the enqueued work that uses it is complete. Calling it again has no effect. Throws nothing. */
  dispose(): void {
    this.#operand?.dispose()
    this.#operand = null
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  [inspectSymbol](): string {
    if (this.#operand === null) return 'DeviceBuffer { disposed }'
    const { dtype, shape, device } = this.#operand
    return `DeviceBuffer { ${dtype} ${shapeText(shape)} on ${device.type}:${device.id} }`
  }

  #open(): Operand {
    if (this.#operand !== null) return this.#operand
    throw new LilyError('ERR_LILY_DISPOSED', 'this buffer is disposed of; use it before dispose()')
  }
}

/** The memory of a buffer is of the package. */
function memoryOf({ memory }: Operand): DeviceMemory {
  return memory as DeviceMemory
}

/** Checks the type and length of `data`. Returns the byte offset in the buffer of the element at `offset`. */
function checkRange(operand: Operand, argument: string, data: unknown, offset: number): number {
  checkMemory('buffer', operand)
  const { dtype, byteLength } = operand
  if (!ArrayBuffer.isView(data) || !holds(data, dtype)) {
    fail('ERR_LILY_DTYPE', argument, `expected a typed array for ${dtype}, got ${describe(data)}`)
  }
  checkOffset(offset)
  const byteOffset = offset * bytesPerElement(dtype)
  const given = data.byteLength
  if (byteOffset + given <= byteLength) return byteOffset
  return fail(
    'ERR_LILY_SHAPE',
    argument,
    `expected at most ${Math.max(byteLength - byteOffset, 0)} bytes, the size of the buffer from element ${offset} on, ` +
      `got ${given}`,
  )
}

function checkOffset(offset: number): void {
  if (Number.isSafeInteger(offset) && offset >= 0) return
  fail('ERR_LILY_ARGUMENT', 'offset', `expected an element index, an integer from 0, got ${describe(offset)}`)
}

/** Whether a typed array is of a class that holds elements of `dtype`. */
function holds(data: ArrayBufferView, dtype: DType): boolean {
  const name = classNameOf(data)
  if (is16Bit(dtype)) return name === 'Uint16Array' || (name === 'Float16Array' && dtype === 'float16')
  return name === { float32: 'Float32Array', uint8: 'Uint8Array', int32: 'Int32Array' }[dtype as 'float32']
}
