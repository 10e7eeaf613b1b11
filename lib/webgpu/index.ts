/**
 * Lily, LoRA and frozen linear layers on the buffers of a GPUDevice, in browsers and wherever else there is WebGPU. It loads no
 * native code.
 *
 * @module lily-kernels/webgpu
 * @packageDocumentation
 */
import type { DType, HostData } from '../base/dtype.js'
import { describe, fail, LilyError } from '../base/errors.js'
import type { GpuCommandEncoder, GpuDevice } from '../base/gpu-types.js'
import { disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { webGpu, type WebGpuBinding } from '../binding/devices.js'
import type { Device } from '../memory/device.js'
import type { PoolStats } from '../memory/memory-stats.js'
import { lilyBackward, lilyBackwardAsync } from '../operations/backward.js'
import { foldB } from '../operations/fold.js'
import { lilyForward, lilyForwardAsync } from '../operations/forward.js'
import { linearBackward, linearBackwardAsync, linearForward, linearForwardAsync } from '../operations/linear.js'
import { loraBackward, loraBackwardAsync, loraForward, loraForwardAsync } from '../operations/lora.js'
import { hasMembers } from '../tensor/gpu-buffer.js'
import { checkEncoder } from '../tensor/stream-option.js'
import { type DTypeArgument, type Tensor, tensor } from '../tensor/tensor.js'
import { GpuBinding } from './binding.js'

export type { DType, HostData } from '../base/dtype.js'
export type { GpuBuffer, GpuCommandEncoder, GpuDevice } from '../base/gpu-types.js'
export type { Exact } from '../base/options.js'
export { LilyError, type LilyErrorCode, type LilyErrorDetails } from '../base/errors.js'
export type { Device } from '../memory/device.js'
export type { PoolStats } from '../memory/memory-stats.js'
export type { LilyBackwardOperands, LilyBackwardOptions, LilyGradients, LilyNeeds } from '../operations/backward.js'
export { type DropoutOptions, dropoutState } from '../operations/dropout.js'
export type { FoldOptions } from '../operations/fold.js'
export type { LilyForwardOperands, LilyForwardOptions, LilyForwardResult } from '../operations/forward.js'
export type {
  LinearBackwardOperands,
  LinearBackwardResult,
  LinearForwardOperands,
  LinearForwardResult,
  LinearOptions,
} from '../operations/linear.js'
export type {
  LoraBackwardOperands,
  LoraBackwardOptions,
  LoraForwardOperands,
  LoraForwardOptions,
  LoraForwardResult,
  LoraGradients,
} from '../operations/lora.js'
export type { Activation, Pool, Precision, Routing } from '../operations/problem.js'
export type { LilySaved, LoraSaved, RowsSaved } from '../operations/saved.js'
export type { MaskLike, OffsetsLike, WeightsLike } from '../operations/small-operands.js'
export type { GpuTensorLike, TensorLike } from '../tensor/resolve.js'
export { Tensor } from '../tensor/tensor.js'

/**
 * The operations of the package on one GPUDevice. Operands are tensors of the package on the device, or
 * `{ buffer, shape, dtype }` over a GPUBuffer; mask, sequence offsets and weights may also be on the host. A call encodes
 * its kernels and submits them to the device's queue, in order with all other work there; it reads nothing back. The
 * option `encoder` encodes into an encoder of the caller instead.
 *
 * The Async forms compile the pipelines of a call off the main thread, if no call before used them, and resolve when its
 * work is done.
 *
 * @example
 * const lily = createLily(device)
 * const { y, saved } = lily.lilyForward({ x, a, router, b })
 * const { dx, da, dRouter, db } = lily.lilyBackward({ dy }, saved)
 */
export class Lily {
  #binding: WebGpuBinding | null

  /**
   * Forward of the Lily adapter: {@link lilyForward} on this device, with the option `encoder`.
   *
   * @throws LilyError as lilyForward
   */
  readonly lilyForward = this.#on(lilyForward)
  /**
   * The same, once its pipelines are compiled off the main thread; it resolves when the work is done.
   *
   * @throws LilyError (as a rejection) as lilyForwardAsync
   */
  readonly lilyForwardAsync = this.#on(lilyForwardAsync)
  /**
   * The gradients of Lily: {@link lilyBackward} on this device, with the option `encoder`.
   *
   * @throws LilyError as lilyBackward
   */
  readonly lilyBackward = this.#on(lilyBackward)
  /**
   * The same, once its pipelines are compiled off the main thread; it resolves when the work is done.
   *
   * @throws LilyError (as a rejection) as lilyBackwardAsync
   */
  readonly lilyBackwardAsync = this.#on(lilyBackwardAsync)
  /**
   * Forward of the LoRA adapter: {@link loraForward} on this device, with the option `encoder`.
   *
   * @throws LilyError as loraForward
   */
  readonly loraForward = this.#on(loraForward)
  /**
   * The same, once its pipelines are compiled off the main thread; it resolves when the work is done.
   *
   * @throws LilyError (as a rejection) as loraForwardAsync
   */
  readonly loraForwardAsync = this.#on(loraForwardAsync)
  /**
   * The gradients of LoRA: {@link loraBackward} on this device, with the option `encoder`.
   *
   * @throws LilyError as loraBackward
   */
  readonly loraBackward = this.#on(loraBackward)
  /**
   * The same, once its pipelines are compiled off the main thread; it resolves when the work is done.
   *
   * @throws LilyError (as a rejection) as loraBackwardAsync
   */
  readonly loraBackwardAsync = this.#on(loraBackwardAsync)
  /**
   * A frozen linear layer: {@link linearForward} on this device, with the option `encoder`.
   *
   * @throws LilyError as linearForward
   */
  readonly linearForward = this.#on(linearForward)
  /**
   * The same, once its pipelines are compiled off the main thread; it resolves when the work is done.
   *
   * @throws LilyError (as a rejection) as linearForwardAsync
   */
  readonly linearForwardAsync = this.#on(linearForwardAsync)
  /**
   * The gradient of a frozen linear layer: {@link linearBackward} on this device, with the option `encoder`.
   *
   * @throws LilyError as linearBackward
   */
  readonly linearBackward = this.#on(linearBackward)
  /**
   * The same, once its pipelines are compiled off the main thread; it resolves when the work is done.
   *
   * @throws LilyError (as a rejection) as linearBackwardAsync
   */
  readonly linearBackwardAsync = this.#on(linearBackwardAsync)
  /**
   * The fold of deferred gradients: {@link foldB} on this device, with the option `encoder`.
   *
   * @throws LilyError as foldB
   */
  readonly foldB = this.#on(foldB)

  /** @internal */
  constructor(binding: WebGpuBinding) {
    this.#binding = binding
    binding.retain()
  }

  /**
   * The device, for `model.to(device)` of the main package, and for operands where several devices are in use.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  get device(): Device & { readonly type: 'webgpu' } {
    return this.#open().device
  }

  /**
   * Copies numbers to the device, to a contiguous tensor of this shape. They may be changed as soon as this returns.
   *
   * @param data of as many elements as `shape` has: a Float32Array; a Float16Array; a Uint16Array of bit patterns, with
   *   `dtype` 'bfloat16' or 'float16'; a Uint8Array for a mask or an Int32Array for offsets; or an array of numbers
   * @param shape dimensions in elements, outermost first, whose product is the length of `data`
   * @param dtype the type of `data`: required for a Uint16Array, otherwise optional
   * @returns a tensor of `shape` on the device
   * @throws LilyError ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_ARGUMENT, ERR_LILY_DEVICE, ERR_LILY_OUT_OF_MEMORY,
   *   ERR_LILY_DISPOSED
   */
  tensor<D extends HostData | readonly number[]>(data: D, shape: readonly number[], ...dtype: DTypeArgument<D>): Tensor
  tensor(data: HostData | readonly number[], shape: readonly number[], dtype?: DType): Tensor {
    return tensor(data, shape, dtype).to(this.device)
  }

  /**
   * Says that the commands of an encoder, which calls got as their option `encoder`, were submitted. Memory that only
   * they use returns to the pool; without this it is left to the garbage collector.
   *
   * @throws LilyError ERR_LILY_DISPOSED, ERR_LILY_ARGUMENT
   */
  submitted(encoder: GpuCommandEncoder): void {
    const binding = this.#open()
    checkEncoder(encoder)
    binding.submitted(encoder)
  }

  /**
   * Statistics of the memory that the package has allocated on the device. WebGPU reports asynchronously that memory is
   * exhausted, so such blocks also count.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  memoryStats(): PoolStats {
    return this.#open().poolStatistics(0, this.device.id, false)
  }

  /**
   * Destroys the cached buffers of the device, once the work that uses them is done.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  emptyCache(): void {
    this.#open().emptyCache()
  }

  /** Whether `dispose()` has been called. */
  get isDisposed(): boolean {
    return this.#binding === null
  }

  /**
   * Releases the cached buffers, unless another object of the same GPUDevice is in use. Read results before: tensors on
   * the device cannot be used any more, and promises that are pending reject with ERR_LILY_DISPOSED. The GPUDevice remains
   * the caller's. Throws nothing.
   */
  dispose(): void {
    this.#binding?.release()
    this.#binding = null
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  [inspectSymbol](): string {
    return this.#binding === null ? 'Lily { disposed }' : `Lily { webgpu:${this.#binding.device.id} }`
  }

  /** The same function, whose operands are on this device. */
  #on<F extends (...args: never[]) => unknown>(run: F): F {
    const onDevice = (...args: never[]) => {
      const before = webGpu.current
      webGpu.current = this.#open()
      try {
        return run(...args)
      } finally {
        webGpu.current = before
      }
    }
    return onDevice as F
  }

  #open(): WebGpuBinding {
    if (this.#binding !== null) return this.#binding
    throw new LilyError('ERR_LILY_DISPOSED', 'this createLily object is disposed of; use it before dispose()')
  }
}

/**
 * The operations of the package on a GPUDevice. Several calls with one device return objects that share its memory pool.
 *
 * @param device with any features, and the default limits or larger ones; the feature level 'compatibility' has smaller ones
 * @throws LilyError ERR_LILY_ARGUMENT
 * @example
 * const adapter = await navigator.gpu.requestAdapter()
 * const device = await adapter.requestDevice()
 * const lily = createLily(device)
 * const x = lily.tensor(activations, [tokens, dIn])
 * const { y } = lily.lilyForward({ x, a, router, b }, { save: false })
 * const { data } = await y.toHost()
 */
export function createLily(device: GpuDevice): Lily {
  if (!isGpuDevice(device)) fail('ERR_LILY_ARGUMENT', 'device', `expected a GPUDevice, got ${describe(device)}`)
  const known = [...webGpu.bindings.values()].find(({ gpu }) => gpu === device)
  return new Lily(known ?? new GpuBinding(device))
}

function isGpuDevice(value: unknown): value is GPUDevice {
  const types = { createBuffer: 'function', queue: 'object', lost: 'object', limits: 'object' }
  return hasMembers(value, types)
}
