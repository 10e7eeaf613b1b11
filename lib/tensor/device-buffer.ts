/** Memory of a CUDA device, as a tensor that anyone can read and write. */
import { bytesOf, bytesPerElement, type DType, type HostData, readDType } from '../base/dtype.js'
import { describe, fail, LilyError } from '../base/errors.js'
import { checkKeys, type Known } from '../base/options.js'
import { readIntegers, shapeText } from '../base/shape.js'
import { deviceTensor, disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { native } from '../binding/native.js'
import { allocateOnHost } from '../memory/allocate.js'
import { readCudaDevice } from '../memory/backends.js'
import { DeviceMemory } from '../memory/device-memory.js'
import type { Device } from '../memory/device.js'
import { checkMemory, isDeviceMemory, layOutOnDevice, type Operand } from '../memory/operand.js'
import { StreamState } from '../memory/stream-state.js'
import { type CudaDevice, type Stream, streamStateOf } from './stream.js'
import { type Tensor, tensorOf } from './tensor.js'
import { download, placementOn } from './transfer.js'

const ALLOCATE_OPTIONS: Known = new Set(['stream'])

/** The operand behind a buffer; null once it is disposed of. */
export let bufferOperand: (buffer: DeviceBuffer) => Operand | null

/**
 * A contiguous row-major array in device memory of the package's pool. It is an operand of every call, and has the fields
 * that other libraries read device memory by (`ptr`, `shape`, `dtype`, `device`, `byteLength`, `stream`).
 *
 * Its work is enqueued in its stream, in order with the calls that use it. One that is not disposed of is given back when
 * it is garbage-collected.
 */
export class DeviceBuffer {
  #operand: Operand | null

  private constructor(operand: Operand) {
    this.#operand = operand
  }

  static {
    bufferOperand = (buffer) => buffer.#operand
  }

  /**
   * Memory whose contents are undefined until something is written.
   *
   * @param options.stream the stream that the buffer belongs to; default: that of the device
   * @throws LilyError ERR_LILY_OUT_OF_MEMORY, ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_SHAPE, ERR_LILY_DTYPE
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
    const stream = options.stream === undefined ? StreamState.own(place.id) : streamStateOf('stream', options.stream)
    if (stream.device !== place.id) {
      fail('ERR_LILY_DEVICE', 'stream', `is of cuda:${stream.device}, but the buffer is to be on cuda:${place.id}`)
    }
    const elements = sizes.reduce((product, size) => product * size, 1)
    const bytes = elements * bytesPerElement(type)
    if (!Number.isSafeInteger(bytes)) {
      fail('ERR_LILY_SHAPE', 'shape', `${shapeText(sizes)} has more bytes than a number can count`)
    }
    return new DeviceBuffer(layOutOnDevice('shape', new DeviceMemory('shape', place, bytes, stream), 0, type, sizes))
  }

  /** The address. */
  get ptr(): bigint {
    return BigInt(memoryOf(this.#open()).address)
  }

  get shape(): readonly number[] {
    return Object.freeze(this.#open().shape)
  }

  get dtype(): DType {
    return this.#open().dtype
  }

  get device(): Device & { readonly type: 'cuda' } {
    return this.#open().device as Device & { readonly type: 'cuda' }
  }

  get byteLength(): number {
    return this.#open().byteLength
  }

  /** CUDA's handle of the stream in which the memory may be used without waiting. */
  get stream(): bigint {
    return BigInt(memoryOf(this.#open()).stream.number)
  }

  get isDisposed(): boolean {
    return this.#operand === null
  }

  /**
   * Enqueues a copy of host memory into the buffer. `data` has been read when it returns.
   *
   * @param data a typed array of the buffer's dtype (a Uint16Array or Float16Array for 16-bit types)
   * @param offset the element of the buffer at which it begins
   */
  upload(data: HostData, offset = 0): this {
    const operand = this.#open()
    const byteOffset = checkRange(operand, 'data', data, offset)
    const placement = placementOn(operand.device, operand)
    const { device, number } = placement.stream
    placement.run(() => {
      native.upload(device, memoryOf(operand).handle, byteOffset, bytesOf(data), number)
    })
    return this
  }

  /**
   * The contents, once the work on the buffer that has been enqueued is done.
   *
   * @param into a typed array to fill, and to return; default: a new one with all elements
   * @param offset the element of the buffer at which it begins
   */
  async download<T extends HostData = HostData>(into?: T, offset = 0): Promise<T> {
    const operand = this.#open()
    checkOffset(offset)
    const elements = operand.rows * operand.columns
    const data = into ?? (allocateOnHost('download', operand.dtype, Math.max(elements - offset, 0)) as T)
    const byteOffset = checkRange(operand, 'into', data, offset)
    await download(operand, bytesOf(data), byteOffset)
    return data
  }

  /** Enqueues a copy of another buffer of the same number of bytes, on any device, into this one. */
  copyFrom(source: DeviceBuffer): this {
    const to = this.#open()
    if (!(source instanceof DeviceBuffer)) {
      fail(
        'ERR_LILY_ARGUMENT',
        'source',
        `expected a DeviceBuffer, got ${describe(source)}; use upload for host memory`,
      )
    }
    const from = source.#open()
    if (from.byteLength !== to.byteLength) {
      fail('ERR_LILY_SHAPE', 'source', `expected ${to.byteLength} bytes, got ${from.byteLength}`)
    }
    const placement = placementOn(to.device, to)
    placement.use(from)
    const { device, number } = placement.stream
    const [target, origin] = [memoryOf(to), memoryOf(from)]
    placement.run(() => {
      native.copy(device, target.handle, 0, from.device.id, origin.handle, 0, to.byteLength, number)
    })
    return this
  }

  /** Enqueues the writing of one byte, 0 to 255, to all of the buffer. */
  fill(byte: number): this {
    const operand = this.#open()
    if (!Number.isInteger(byte) || byte < 0 || byte > 255) {
      fail('ERR_LILY_ARGUMENT', 'byte', `expected an integer from 0 to 255, got ${describe(byte)}`)
    }
    const placement = placementOn(operand.device, operand)
    const { device, number } = placement.stream
    placement.run(() => {
      native.fill(device, memoryOf(operand).handle, 0, operand.byteLength, byte, number)
    })
    return this
  }

  /** A tensor over the same memory, which lives until both are disposed of. */
  tensor(): Tensor {
    return tensorOf(this.#open().share())
  }

  /** The memory in the form that other libraries understand. */
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

  /** Gives the memory back when the work that uses it, and that has been enqueued, is done. */
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
    throw new LilyError('ERR_LILY_DISPOSED', 'this buffer has been disposed of; use it before dispose()')
  }
}

function memoryOf(operand: Operand): DeviceMemory {
  if (isDeviceMemory(operand.memory)) return operand.memory
  throw new Error('a buffer has memory of the package')
}

/** The byte at which `data` begins in the buffer, which holds all of it and has its type. */
function checkRange(operand: Operand, argument: string, data: unknown, offset: number): number {
  checkMemory('buffer', operand)
  const { dtype, byteLength } = operand
  if (
    !ArrayBuffer.isView(data) ||
    (data as HostData).BYTES_PER_ELEMENT !== bytesPerElement(dtype) ||
    !holds(data, dtype)
  ) {
    fail('ERR_LILY_DTYPE', argument, `expected a typed array for ${dtype}, got ${describe(data)}`)
  }
  checkOffset(offset)
  const byteOffset = offset * bytesPerElement(dtype)
  if (byteOffset + data.byteLength <= byteLength) return byteOffset
  return fail(
    'ERR_LILY_SHAPE',
    argument,
    `has ${data.byteLength} bytes, but the buffer has ${Math.max(byteLength - byteOffset, 0)} from element ${offset} on`,
  )
}

function checkOffset(offset: number): void {
  if (Number.isSafeInteger(offset) && offset >= 0) return
  fail('ERR_LILY_ARGUMENT', 'offset', `expected an element's number, an integer from 0, got ${describe(offset)}`)
}

function holds(data: ArrayBufferView, dtype: DType): boolean {
  const tag = (data as HostData)[Symbol.toStringTag]
  switch (dtype) {
    case 'float32':
      return tag === 'Float32Array'
    case 'bfloat16':
      return tag === 'Uint16Array'
    case 'float16':
      return tag === 'Uint16Array' || tag === 'Float16Array'
    case 'uint8':
      return tag === 'Uint8Array'
    case 'int32':
      return tag === 'Int32Array'
  }
}
