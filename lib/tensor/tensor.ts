/** Tensors: memory with a shape. */
import { type DType, dtypeOf, type HostData, is16Bit, readDType } from '../base/dtype.js'
import { describe, fail, LilyError } from '../base/errors.js'
import { readIntegers, shapeText } from '../base/shape.js'
import { deviceTensor, disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { readCudaDevice } from '../memory/backends.js'
import { CPU, type Device } from '../memory/device.js'
import { checkMemory, checkNotLonger, isDeviceMemory, isHostMemory, layOut, type Operand } from '../memory/operand.js'
import { copyToDevice, copyToHost } from './transfer.js'

/** The operand behind a tensor; null once it is disposed of. */
export let operandOf: (tensor: Tensor) => Operand | null

/** A tensor over an operand. */
export let tensorOf: (operand: Operand) => Tensor

/**
 * A row-major array of numbers, whose rows may have a pitch, on the host or on a device. It wraps memory and never copies
 * it. Device memory that is not disposed of is given back when the tensor is garbage-collected. Make one with
 * {@link tensor}; results of operations are tensors too.
 */
export class Tensor {
  #operand: Operand | null

  private constructor(operand: Operand) {
    this.#operand = operand
  }

  static {
    operandOf = (tensor) => tensor.#operand
    tensorOf = (operand) => new Tensor(operand)
  }

  get shape(): readonly number[] {
    return Object.freeze(this.#open().shape)
  }

  get dtype(): DType {
    return this.#open().dtype
  }

  get device(): Device {
    return this.#open().device
  }

  /** Elements from one index to the next, for each dimension. */
  get strides(): readonly number[] {
    const { shape, strides } = this.#open()
    if (strides !== null) return Object.freeze(strides)
    return shape.map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1))
  }

  /**
   * The host memory from the first element on: a Float32Array for float32, for bfloat16 and float16 a Uint16Array of
   * bits (or the Float16Array that was given). It is not a copy; with a row pitch it holds the gaps between rows too.
   *
   * @throws LilyError ERR_LILY_DEVICE for a tensor in device memory
   */
  get data(): HostData {
    const { memory, byteOffset } = this.#open()
    if (!isHostMemory(memory)) {
      return fail('ERR_LILY_DEVICE', 'data', 'this tensor is in device memory; await its toHost() first')
    }
    return byteOffset === 0 ? memory : memory.subarray(byteOffset / memory.BYTES_PER_ELEMENT)
  }

  get isDisposed(): boolean {
    return this.#operand === null
  }

  /**
   * This tensor on a device: itself where it is there already, else a contiguous copy. The copy is enqueued in the
   * device's default stream; host memory has been read when this returns.
   *
   * @throws LilyError ERR_LILY_BACKEND_UNAVAILABLE for a device that this machine does not have, ERR_LILY_OUT_OF_MEMORY,
   *   ERR_LILY_DEVICE for `{ type: 'cpu' }` on a tensor in device memory, which `toHost` is for
   */
  to(device: { readonly type: 'cpu' | 'cuda'; readonly id?: number | undefined }): Tensor {
    const operand = this.#open()
    if ((device as Partial<Device> | null | undefined)?.type === 'cpu') {
      if (operand.device === CPU) return this
      fail('ERR_LILY_DEVICE', 'device', 'this tensor is in device memory, which takes time to copy; await its toHost()')
    }
    const target = readCudaDevice('device', device)
    if (operand.device === target) return this
    checkMemory('this tensor', operand)
    return tensorOf(copyToDevice(operand, target))
  }

  /** This tensor in host memory, once the work on it is done: itself where it is there already, else a copy. */
  async toHost(): Promise<Tensor> {
    const operand = this.#open()
    if (operand.device === CPU) return this
    checkMemory('this tensor', operand)
    return tensorOf(await copyToHost(operand))
  }

  /** Device memory in the form that other libraries understand. */
  [deviceTensor](): DeviceTensor {
    const operand = this.#open()
    const { memory, byteOffset, byteLength, dtype, device, stream } = operand
    if (isHostMemory(memory)) {
      return fail('ERR_LILY_DEVICE', 'this tensor', "is in host memory; move it with to({ type: 'cuda', id }) first")
    }
    return {
      ptr: BigInt(isDeviceMemory(memory) ? memory.address : memory) + BigInt(byteOffset),
      shape: this.shape,
      dtype,
      device: device as DeviceTensor['device'],
      strides: this.strides,
      byteLength,
      stream: stream === null ? undefined : BigInt(stream.number),
      owner: this,
    }
  }

  /** Lets go of the memory. A later use of this tensor throws ERR_LILY_DISPOSED; disposing of it again does nothing. */
  dispose(): void {
    this.#operand?.dispose()
    this.#operand = null
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  /** Shape, dtype and device, without the numbers. */
  toJSON(): { shape: readonly number[]; dtype: DType; device: Device } {
    return { shape: this.shape, dtype: this.dtype, device: this.device }
  }

  [inspectSymbol](): string {
    const operand = this.#operand
    if (operand === null) return 'Tensor { disposed }'
    const { dtype, shape, device } = operand
    return `Tensor { ${dtype} ${shapeText(shape)} on ${device.type}:${device.id}${this.#firstValues(operand)} }`
  }

  #firstValues({ dtype, memory, rows, columns }: Operand): string {
    if (!isHostMemory(memory) || is16Bit(dtype) || rows === 0) return ''
    const shown = Math.min(columns, 6)
    const values = Array.from(this.data.subarray(0, shown), (value) => Number(value.toPrecision(4)))
    return `: ${values.join(', ')}${rows * columns > shown ? ', ...' : ''}`
  }

  #open(): Operand {
    if (this.#operand !== null) return this.#operand
    throw new LilyError('ERR_LILY_DISPOSED', 'this tensor has been disposed of; use it before dispose()')
  }
}

/** Device memory in the form that other libraries understand. */
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

/**
 * A contiguous tensor over memory, without a copy; an array of numbers is copied to float32.
 *
 * @param data a Float32Array; a Uint16Array of 16-bit numbers (`dtype` says which) or a Float16Array; a Uint8Array or
 *   Int32Array for masks and offsets; or an array of numbers
 * @param shape its dimensions, whose product is the length of `data`
 * @throws LilyError ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_ARGUMENT
 */
export function tensor(data: HostData | readonly number[], shape: readonly number[], dtype?: DType): Tensor {
  const memory = Array.isArray(data) ? numbersToFloat32(data, dtype) : (data as HostData)
  if (!ArrayBuffer.isView(memory)) {
    fail('ERR_LILY_ARGUMENT', 'data', `expected a typed array or an array of numbers, got ${describe(data)}`)
  }
  const type = dtypeOf('data', memory, dtype === undefined ? undefined : readDType('dtype', dtype))
  const operand = layOut('shape', memory, 0, type, CPU, readIntegers('shape', 'shape', shape), null)
  checkMemory('data', operand)
  checkNotLonger('data', memory, operand)
  return tensorOf(operand)
}

function numbersToFloat32(numbers: readonly unknown[], dtype: unknown): Float32Array {
  if (dtype !== undefined && dtype !== 'float32') {
    fail(
      'ERR_LILY_DTYPE',
      'dtype',
      `an array of numbers becomes float32, got dtype ${describe(dtype)}; pass a typed array`,
    )
  }
  const copy = new Float32Array(numbers.length)
  for (let i = 0; i < copy.length; i++) {
    const number = numbers[i]
    if (typeof number !== 'number') {
      fail('ERR_LILY_ARGUMENT', 'data', `data[${i}] must be a number, got ${describe(number)}`)
    }
    copy[i] = number
  }
  return copy
}
