/** Where the calls of this subpath compute: in host memory, or on a GPUDevice. */
import { getBackend, type Tensor, type TensorInfo, type Variable } from '@tensorflow/tfjs-core'
import { fail } from '../base/errors.js'
import { webGpuBinding } from '../binding/devices.js'
import { type Device, deviceText } from '../memory/device.js'
import type { TrainableParameter } from '../optimiser/parameters.js'
import type { TensorLike } from '../tensor/resolve.js'
import { GpuPlace, tfGpu } from './gpu-memory.js'
import { hostPlace } from './memory.js'

/** Names of the small operands of a call. */
export type SmallName = 'mask' | 'sequenceOffsets' | 'weights'

/** How tensors of TensorFlow.js become operands, and results become its tensors. Tensors are float32 unless it says so. */
export interface Place {
  /**
   * Calls `read` with tensors as operands.
   *
   * @param read allocates no memory of TensorFlow.js
   */
  read(inputs: readonly Tensor[], read: (...inputs: TensorLike[]) => void): void
  /**
   * Computes a new tensor.
   *
   * @param start what the result holds before `compute`: the numbers of a tensor of as many elements; null: the numbers are
   *   undefined
   * @param compute writes the result. It allocates no memory of TensorFlow.js
   */
  compute(
    shape: number[],
    start: Tensor | null,
    inputs: readonly Tensor[],
    compute: (output: TensorLike, ...inputs: TensorLike[]) => void,
  ): TensorInfo
  /** A small operand, of the types that `checkTensor` allows, for a following call. */
  small(name: SmallName, tensor: Tensor): SmallOperand
  /** A variable as a parameter of AdamW. */
  variable(variable: Variable): VariableParameter
}

/** A small operand. */
export interface SmallOperand {
  readonly operand: unknown
  /** The tensor whose memory the operand is, which the caller disposes of after the last use; null: a copy. */
  readonly tensor: Tensor | null
}

/** A variable as a parameter of AdamW, which updates numbers in place, while a tensor never changes. */
export interface VariableParameter extends TrainableParameter {
  readonly variable: Variable
  /** Prepares a step: the value is a copy of the variable, and the gradient is this one. */
  begin(gradient: Tensor): void
  /** Ends a step. With `isDone` the variable gets the value. */
  end(isDone: boolean): void
}

/**
 * The place of a call whose parameters are on a device.
 *
 * @param argument what has the parameters
 * @throws LilyError ERR_LILY_DEVICE if TensorFlow.js computes on another one
 */
export function placeOn(argument: string, device: Device): Place {
  const gpu = tfGpu()
  if (device.type !== 'webgpu') {
    if (gpu === null) return hostPlace
    return fail(
      'ERR_LILY_DEVICE',
      argument,
      `expected a model on the GPUDevice of TensorFlow.js, whose backend is '${getBackend()}', got one on ` +
        `${deviceText(device)}; call model.to(createLily(tf.backend().device).device), createLily being of ` +
        "lily-kernels/webgpu, or tf.setBackend('wasm')",
    )
  }
  const { gpu: ofModel } = webGpuBinding(argument, device.id)
  if (gpu === null) {
    fail(
      'ERR_LILY_DEVICE',
      argument,
      `expected a model in host memory, where TensorFlow.js computes on its backend '${getBackend()}', got one on ` +
        `${deviceText(device)}; await tf.setBackend('webgpu'), or await model.toHost()`,
    )
  }
  if (gpu.device !== ofModel) {
    fail(
      'ERR_LILY_DEVICE',
      argument,
      `${deviceText(device)} is not the GPUDevice of TensorFlow.js; await model.toHost(), then call ` +
        'model.to(createLily(tf.backend().device).device)',
    )
  }
  return new GpuPlace(gpu, device as Device & { readonly type: 'webgpu' })
}
