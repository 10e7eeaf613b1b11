/** A frozen linear layer as an operation of TensorFlow.js. */
import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core'
import type { PackedLinear } from '../operations/packed-linear.js'
import { frozenInputs, readFrozen } from './frozen-weight.js'
import { checkFloat32 } from './memory.js'
import { refuseNested, runOperation } from './operation.js'

/**
 * A linear layer whose weight is not trained: x weight + bias. It is differentiable in x. For a layer with an adapter
 * {@link adaptedLinear} computes both.
 *
 * The first call with a weight packs it, and later calls use the packed form. On the webgpu backend nothing is packed: the
 * kernels read the buffer of the weight, which must live until the gradient is computed. Formulas: docs/linear.md.
 *
 * @param x [..., d_in], float32
 * @param weight [d_in, d_out], float32, as the kernel of tf.layers.dense; or {@link packLinear} of a weight, which may also be
 *   bfloat16 or float16
 * @param bias [d_out], float32
 * @returns [..., d_out]
 * @throws LilyError ERR_LILY_ARGUMENT, also if a gradient of weight or bias is asked for; ERR_LILY_SHAPE,
 *   ERR_LILY_DTYPE, ERR_LILY_DISPOSED, ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_OUT_OF_MEMORY; ERR_LILY_DEVICE if the
 *   GPUDevice of TensorFlow.js is not registered by `createLily`, and for a PackedLinear on its webgpu backend
 * @example
 * const base = frozenLinear(x, dense.kernel.read(), dense.bias.read())
 */
export function frozenLinear(x: Tensor, weight: Tensor2D | Tensor | PackedLinear, bias?: Tensor1D | Tensor): Tensor {
  checkFloat32('x', x)
  const frozen = readFrozen('weight', weight, bias, x)
  const { inputs, gradients } = frozenInputs('weight', weight, bias)
  return runOperation(
    { x, ...inputs },
    {
      forward: () => frozen.forward(x, bias, [...x.shape.slice(0, -1), frozen.dOut]),
      gradients: (dy) => ({
        x: () => {
          refuseNested()
          return frozen.gradient(dy, x.shape)
        },
        ...gradients,
      }),
    },
  )
}
