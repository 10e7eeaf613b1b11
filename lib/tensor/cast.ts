/** Conversion of host tensors between the float types. */
import { checkFloat } from '../base/checks.js'
import { type DType, readFloatDType } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { CPU, deviceText } from '../memory/device.js'
import { checkMemory, layOutOnHost } from '../memory/operand.js'
import { copyRows, fromFloat32, toFloat32 } from './numbers.js'
import { resolve, type TensorLike } from './resolve.js'
import { type Tensor, tensorOf } from './tensor.js'

/**
 * A contiguous copy of a host tensor in another float type. Values are rounded to the nearest number of the type, ties to
 * even; those beyond its range become infinities, and a NaN stays one.
 *
 * @param x any shape, float32, bfloat16 or float16, in host memory
 * @param dtype 'float32', 'bfloat16' or 'float16'
 * @returns a tensor of the shape of `x`, whose `data` is a Float32Array, or a Uint16Array of bit patterns
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DISPOSED, ERR_LILY_OUT_OF_MEMORY;
 *   ERR_LILY_DEVICE for a tensor in device memory: await its `toHost()` first
 * @example
 * const half = cast(tensor([1, 2.001], [2]), 'bfloat16')
 * console.log(cast(half, 'float32').data) // Float32Array [ 1, 2 ]
 */
export function cast(x: TensorLike, dtype: 'float32' | 'bfloat16' | 'float16'): Tensor {
  const type: DType = readFloatDType('dtype', dtype)
  const operand = resolve('x', x)
  if (operand.device !== CPU) {
    fail(
      'ERR_LILY_DEVICE',
      'x',
      `expected a tensor in host memory, got one on ${deviceText(operand.device)}; await its toHost() first`,
    )
  }
  checkFloat('x', operand)
  checkMemory('x', operand)
  const values = toFloat32(operand.dtype, copyRows(operand))
  return tensorOf(layOutOnHost('x', fromFloat32(type, values), type, operand.shape))
}
