/** Memory of the caller on the device under test: a DeviceBuffer on a CUDA device, a GPUBuffer with WebGPU. */
import { type Device, DeviceBuffer, type DType, type TensorLike } from '../../lib/index.js'
import { testGpu } from './gpu-device.js'

/** What an operand over the memory has beside it. */
interface Layout {
  readonly shape: readonly number[]
  readonly dtype: DType
  readonly byteOffset?: number | undefined
  readonly strides?: readonly number[] | undefined
  /** Bytes from the start of the memory that the operand may use. Default: all. */
  readonly byteLength?: number | undefined
}

export interface DeviceArray {
  /** Replaces all bytes. */
  upload(bytes: Uint8Array): void
  download(): Promise<Uint8Array>
  operand(layout: Layout): TensorLike
}

/** The device under test; the host for the cpu backend. */
export function testDevice(backend: 'cpu' | 'cuda' | 'webgpu'): Device {
  return backend === 'webgpu' ? testGpu().lily.device : { type: backend, id: 0 }
}

export function deviceArray(backend: 'cuda' | 'webgpu', byteLength: number): DeviceArray {
  return backend === 'cuda' ? new CudaArray(byteLength) : new GpuArray(byteLength)
}

class CudaArray implements DeviceArray {
  readonly #buffer: DeviceBuffer

  constructor(private readonly byteLength: number) {
    this.#buffer = DeviceBuffer.allocate([byteLength], 'uint8')
  }

  upload(bytes: Uint8Array): void {
    this.#buffer.upload(bytes)
  }

  async download(): Promise<Uint8Array> {
    return this.#buffer.download<Uint8Array>()
  }

  operand(layout: Layout): TensorLike {
    const { ptr, device, stream } = this.#buffer
    return { byteLength: this.byteLength, ...layout, ptr, device, stream, owner: this.#buffer }
  }
}

class GpuArray implements DeviceArray {
  readonly #buffer: GPUBuffer

  constructor(private readonly byteLength: number) {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST
    this.#buffer = testGpu().device.createBuffer({ size: Math.max(Math.ceil(byteLength / 4) * 4, 4), usage })
  }

  upload(bytes: Uint8Array): void {
    const padded = new Uint8Array(this.#buffer.size)
    padded.set(bytes)
    testGpu().device.queue.writeBuffer(this.#buffer, 0, padded)
  }

  async download(): Promise<Uint8Array> {
    const { device } = testGpu()
    const { size } = this.#buffer
    const staging = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST })
    const encoder = device.createCommandEncoder()
    encoder.copyBufferToBuffer(this.#buffer, 0, staging, 0, size)
    device.queue.submit([encoder.finish()])
    await staging.mapAsync(GPUMapMode.READ)
    const bytes = new Uint8Array(staging.getMappedRange()).slice(0, this.byteLength)
    staging.destroy()
    return bytes
  }

  operand({ byteLength: _, ...layout }: Layout): TensorLike {
    return { ...layout, buffer: this.#buffer, device: testGpu().lily.device as { type: 'webgpu'; id: number } }
  }
}
