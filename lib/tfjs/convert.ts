/** Tensors of TensorFlow.js from tensors of this package, and the other way round. */
import { type Tensor as TfTensor, tensor as tfTensor } from '@tensorflow/tfjs-core'
import { fail } from '../base/errors.js'
import { CPU } from '../memory/device.js'
import { checkMemory } from '../memory/operand.js'
import { copyRows, toFloat32 } from '../tensor/numbers.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import { type Tensor, tensor } from '../tensor/tensor.js'
import { currentGpuPlace } from './gpu-memory.js'
import { checkTensor, dataOf } from './memory.js'

/**
 * A copy of a tensor of TensorFlow.js, which stays valid whatever happens to the original. bool becomes uint8.
 *
 * @param source of one dimension or more; float32, int32 or bool. On the webgpu backend float32 or int32, and the copy is on
 *   its GPUDevice
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED; ERR_LILY_SHAPE for a scalar: reshape it to [1]; ERR_LILY_DTYPE for
 *   other types; ERR_LILY_DEVICE if `createLily` was not given the GPUDevice
 * @returns a tensor of the same shape, in host memory or on the GPUDevice
 * @example
 * const x = fromTf(tf.tensor2d([[1, 2], [3, 4]]))
 */
export function fromTf(source: TfTensor): Tensor {
  const place = currentGpuPlace('source')
  if (place !== null) {
    checkTensor('source', source, ['float32', 'int32'])
    checkDimensions(source)
    return place.copyOf(source)
  }
  checkTensor('source', source, ['float32', 'int32', 'bool'])
  checkDimensions(source)
  // Some backends return their own memory here.
  return tensor(dataOf(source).slice(), source.shape)
}

/** Tensors of this package have at least one dimension. */
function checkDimensions({ shape }: TfTensor): void {
  if (shape.length > 0) return
  fail('ERR_LILY_SHAPE', 'source', 'expected one dimension or more, got a scalar; reshape it to [1]')
}

/**
 * A copy as a tensor of TensorFlow.js, on its current backend: float32, also of 16-bit numbers; int32; bool of uint8.
 *
 * @param source of one dimension or more, in host memory; or float32 on the GPUDevice of the current backend
 * @throws LilyError as any operand; ERR_LILY_DEVICE for other device memory: await `toHost()` first; ERR_LILY_DTYPE
 * @returns a tensor of the same shape
 * @example
 * const x = toTf(tensor([1, 2, 3, 4], [2, 2]))
 */
export function toTf(source: TensorLike): TfTensor {
  const operand = resolve('source', source)
  checkMemory('source', operand)
  if (operand.device !== CPU) {
    const place = operand.device.type === 'webgpu' ? currentGpuPlace('source') : null
    if (place?.device !== operand.device) {
      fail('ERR_LILY_DEVICE', 'source', 'is in device memory of another device; await its toHost() first')
    }
    if (operand.dtype !== 'float32') {
      fail(
        'ERR_LILY_DTYPE',
        'source',
        `expected float32 in device memory, got ${operand.dtype}; await its toHost() first`,
      )
    }
    return place.tensorOf(operand)
  }
  const { dtype, shape } = operand
  const numbers = copyRows(operand)
  if (dtype === 'uint8') return tfTensor(numbers as Uint8Array, [...shape], 'bool')
  if (dtype === 'int32') return tfTensor(numbers as Int32Array, [...shape], 'int32')
  return tfTensor(toFloat32(dtype, numbers), [...shape], 'float32')
}
