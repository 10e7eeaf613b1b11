/** Where the page computes: on a GPUDevice, or on WebAssembly. */
import { backends, type Device, type Tensor } from 'lily-kernels'
import { createLily } from 'lily-kernels/webgpu'
import { openGpu } from './gpu.js'

export interface Backend {
  readonly kind: 'webgpu' | 'wasm'
  readonly name: string
  /** Whether it is a software adapter, whose times say nothing about a GPU. */
  readonly isSoftware: boolean
  /** Null on WebAssembly. */
  readonly device: GPUDevice | null
  /** Where its operands lie. */
  readonly memory: Device
  /** Copies a tensor to where the backend computes. */
  readonly place: (tensor: Tensor) => Tensor
  /** Copies the numbers of a tensor to the page. */
  readonly read: (tensor: Tensor) => Promise<Float32Array>
  /** Why the device was lost; null while it is not. WebAssembly is never lost. */
  readonly loss: () => string | null
}

const read = async (tensor: Tensor): Promise<Float32Array> => (await tensor.toHost()).data as Float32Array

export const wasm: Backend = {
  kind: 'wasm',
  name: wasmName(),
  isSoftware: false,
  device: null,
  memory: { type: 'cpu', id: 0 },
  place: (tensor) => tensor,
  read,
  loss: () => null,
}

function wasmName(): string {
  const [{ devices }] = backends()
  const threads = devices[0].threads ?? 1
  return threads === 1 ? 'one thread' : `${threads} threads`
}

/**
 * Opens a device of WebGPU.
 *
 * @param onLost called with the reason when the device is lost
 * @throws NoGpu
 */
export async function openWebGpu(onLost: (reason: string) => void): Promise<Backend> {
  const { device, name, isSoftware } = await openGpu()
  const lily = createLily(device)
  let loss: string | null = null
  void device.lost.then(({ message }) => {
    loss = message === '' ? 'the browser gives no reason' : message
    onLost(loss)
  })
  return {
    kind: 'webgpu',
    name,
    isSoftware,
    device,
    memory: lily.device,
    read,
    place: (tensor) => tensor.to(lily.device),
    loss: () => loss,
  }
}
