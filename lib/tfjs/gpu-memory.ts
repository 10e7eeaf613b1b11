/**
 * The buffers of tensors of TensorFlow.js' webgpu backend, which are used in place: TensorFlow.js allocates results,
 * too, so that it releases them as its own. Its tensors always begin at the start of a buffer.
 *
 * It collects commands, and submits them at times of its own. Each call submits what has been collected, so that the queue has
 * it before the commands of the call.
 */
import {
  add,
  backend,
  cast,
  type DataType,
  keep,
  mul,
  notEqual,
  pad,
  reshape,
  scalar,
  sum,
  type Tensor,
  tensor1d,
  type TensorInfo,
  tidy,
  util,
  type Variable,
} from '@tensorflow/tfjs-core'
import { fail } from '../base/errors.js'
import { webGpu } from '../binding/devices.js'
import type { Device } from '../memory/device.js'
import type { Operand } from '../memory/operand.js'
import { type GpuTensorLike, resolve, type TensorLike } from '../tensor/resolve.js'
import { type Tensor as LilyTensor, tensorOf } from '../tensor/tensor.js'
import { copyToDevice } from '../tensor/transfer.js'
import { newTensor, share } from './memory.js'
import type { Place, SmallName, SmallOperand, VariableParameter } from './place.js'

/** The members of the webgpu backend that this file uses, all of them public. */
interface TfGpu {
  readonly device: GPUDevice
  /** The data of a tensor. Data of other backends are moved here first. */
  readonly tensorMap: { get(dataId: object): { readonly resource?: unknown; readonly dtype: DataType } }
  /** Gives a tensor a buffer unless it has one, and uploads its numbers if they are still on the host. */
  uploadToGPU(dataId: object): void
  makeTensorInfo(shape: number[], dtype: 'float32'): TensorInfo
  ensureCommandEncoderReady(): void
  endComputePassEncoder(): void
  submitQueue(): void
}

/** The backend of TensorFlow.js if it computes on a GPUDevice; otherwise null. */
export function tfGpu(): TfGpu | null {
  const current = backend() as Partial<TfGpu>
  const isGpu = typeof current.uploadToGPU === 'function' && typeof current.device === 'object'
  return isGpu ? (current as TfGpu) : null
}

type GpuDevice = Device & { readonly type: 'webgpu' }

/**
 * The place of the current backend, whatever the parameters are on; null if it does not compute on a GPUDevice.
 *
 * @throws LilyError ERR_LILY_DEVICE if the GPUDevice is not registered
 */
export function currentGpuPlace(argument: string): GpuPlace | null {
  const gpu = tfGpu()
  if (gpu === null) return null
  for (const { gpu: registered, device } of webGpu.bindings.values()) {
    if (registered === gpu.device) return new GpuPlace(gpu, device)
  }
  return fail(
    'ERR_LILY_DEVICE',
    argument,
    'the GPUDevice of TensorFlow.js is not registered; call createLily(tf.backend().device) of lily-kernels/webgpu first',
  )
}

/** Calls on the GPUDevice of TensorFlow.js. */
export class GpuPlace implements Place {
  constructor(
    readonly gpu: TfGpu,
    readonly device: GpuDevice,
  ) {}

  read(inputs: readonly Tensor[], read: (...inputs: GpuTensorLike[]) => void): void {
    tidy(() => {
      const operands = inputs.map((input) => this.operandOf(this.#stored(input)))
      this.#submit()
      read(...operands)
    })
  }

  compute(
    shape: number[],
    start: Tensor | null,
    inputs: readonly Tensor[],
    compute: (output: TensorLike, ...inputs: TensorLike[]) => void,
  ): TensorInfo {
    if (start === null) return this.#computed(shape, inputs, compute)
    return this.#computed(shape, [start, ...inputs], (output, first, ...given) => {
      this.#copy(first.buffer, output)
      compute(output, ...given)
    })
  }

  #computed(
    shape: number[],
    inputs: readonly Tensor[],
    compute: (output: GpuTensorLike, ...inputs: GpuTensorLike[]) => void,
  ): TensorInfo {
    const info = this.gpu.makeTensorInfo(shape, 'float32')
    try {
      const output = this.operandOf(info)
      this.read(inputs, (...operands) => {
        compute(output, ...operands)
      })
    } catch (cause) {
      backend().disposeData(info.dataId)
      throw cause
    }
    return info
  }

  #copy(from: GPUBuffer, to: GpuTensorLike): void {
    const encoder = this.gpu.device.createCommandEncoder()
    encoder.copyBufferToBuffer(from, 0, to.buffer, 0, 4 * util.sizeFromShape([...to.shape]))
    this.gpu.device.queue.submit([encoder.finish()])
  }

  small(name: SmallName, tensor: Tensor): SmallOperand {
    const own = name === 'mask' ? packFlags(tensor) : this.own(tensor)
    return {
      operand: { ...this.operandOf(own, name === 'mask' ? 'uint8' : undefined), shape: tensor.shape },
      tensor: own,
    }
  }

  variable(variable: Variable): VariableParameter {
    return new GpuVariable(variable, this)
  }

  /** A copy of a tensor in memory of this package. */
  copyOf(tensor: Tensor): LilyTensor {
    let copy: LilyTensor | undefined
    this.read([tensor], (source) => {
      copy = tensorOf(copyToDevice(resolve('source', source), this.device))
    })
    return copy as LilyTensor
  }

  /** Another tensor with the same numbers, for which {@link operandOf} is correct. The caller disposes of it. */
  own(tensor: Tensor): Tensor {
    return tidy(() => share(this.#stored(tensor)))
  }

  /**
   * The tensor itself, or a new one whose buffer has numbers of its type: `tf.cast` to float32 shares the buffer of int32 or
   * bool, which the shaders of TensorFlow.js convert.
   */
  #stored(tensor: Tensor): Tensor {
    const isShared = tensor.dtype === 'float32' && this.gpu.tensorMap.get(tensor.dataId).dtype !== 'float32'
    return isShared ? add(tensor, 0) : tensor
  }

  /** A tensor of TensorFlow.js with the numbers of a float32 operand. */
  tensorOf(operand: Operand): Tensor {
    const contiguous = tensorOf(copyToDevice(operand, this.device))
    try {
      const from = contiguous.buffer
      return newTensor(
        this.#computed(contiguous.shape, [], (output) => {
          this.#copy(from, output)
        }),
      )
    } finally {
      contiguous.dispose()
    }
  }

  /** The buffer of a tensor as an operand. */
  operandOf({ dataId, shape, dtype }: TensorInfo, as = dtype as GpuTensorLike['dtype']): GpuTensorLike {
    this.gpu.uploadToGPU(dataId)
    const buffer = this.gpu.tensorMap.get(dataId).resource as GPUBuffer
    return { buffer, shape, dtype: as, device: this.device }
  }

  #submit(): void {
    this.gpu.ensureCommandEncoderReady()
    this.gpu.endComputePassEncoder()
    this.gpu.submitQueue()
  }
}

/** A step updates a new tensor, which then becomes the variable's. */
class GpuVariable implements VariableParameter {
  readonly #shape: number[]
  #next: Tensor | null = null
  #grad: Tensor | null = null

  constructor(
    readonly variable: Variable,
    readonly place: GpuPlace,
  ) {
    this.#shape = variable.rank === 0 ? [1] : variable.shape
  }

  get value(): TensorLike {
    return { ...this.place.operandOf(this.#next ?? this.variable), shape: this.#shape }
  }

  get grad(): TensorLike {
    if (this.#grad === null) throw new Error('a variable has a gradient during a step only')
    return { ...this.place.operandOf(this.#grad), shape: this.#shape }
  }

  /** There is nothing to set to zero: each step is given a gradient. */
  zeroGrad(): void {
    // Without this method AdamW would write zeros to `grad`.
  }

  begin(gradient: Tensor): void {
    const { variable, place } = this
    // A step that waits for other ranks outlives the tidy in which it begins.
    this.#grad = keep(place.own(gradient))
    // The gradient is an input so that the commands that compute it are submitted.
    this.#next = keep(newTensor(place.compute(variable.shape, variable, [this.#grad], () => undefined)))
  }

  end(isDone: boolean): void {
    const next = this.#next
    this.#grad?.dispose()
    this.#next = null
    this.#grad = null
    if (next === null) return
    if (isDone) this.variable.assign(next)
    next.dispose()
  }
}

/**
 * Flags as the bytes that kernels read, where each but 0 keeps a token; TensorFlow.js has 32 bits for a flag. It also
 * computes with int32 in float32: these four bits are so close to each other that no sum of them is rounded.
 */
function packFlags(mask: Tensor): Tensor {
  return tidy(() => {
    const flags = reshape(cast(notEqual(mask, scalar(0, mask.dtype as 'int32')), 'float32'), [-1])
    const words = reshape(pad(flags, [[0, (4 - (flags.size % 4)) % 4]]), [-1, 4])
    const bits = tensor1d([2 ** 7, 2 ** 15, 2 ** 23, 2 ** 24])
    return cast(sum(mul(words, bits), 1), 'int32')
  })
}
