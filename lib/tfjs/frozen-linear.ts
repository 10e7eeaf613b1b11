/** A frozen linear layer as an operation of TensorFlow.js. */
import { engine, keep, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core'
import { linearBackward, linearForward } from '../operations/linear.js'
import type { PackedLinear } from '../operations/packed-linear.js'
import { frozenInputs, readFrozen } from './frozen-weight.js'
import type { TensorLike } from '../tensor/resolve.js'
import { checkFloat32, newTensor } from './memory.js'
import { refuseNested, runOperation } from './operation.js'

/**
 * A linear layer whose weight is not trained: x weight + bias. It is differentiable in x. For a layer with an adapter
 * {@link adaptedLinear} computes both.
 *
 * The first call with a weight packs it, and later calls use the packed form. On the webgpu backend nothing is packed: the
 * kernels read the buffer of the weight. Formulas: docs/linear.md.
 *
 * @param x [..., d_in], float32
 * @param weight [d_in, d_out], float32, as the kernel of tf.layers.dense; or `packLinear` of a weight, which may also be
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
  const { place, dOut } = frozen
  const isRecorded = engine().isTapeOn()
  // TensorFlow.js may dispose of a weight that f computes before backward.
  const kept: Tensor[] = []
  let operand: PackedLinear
  const forward = () => {
    const given = frozen.operand()
    operand = given.operand
    try {
      const inputs = bias === undefined ? [x] : [x, bias]
      const info = place.compute([...x.shape.slice(0, -1), dOut], null, inputs, (y, x, bias?: TensorLike) => {
        linearForward({ x, weight: operand, bias, y }, { accumulate: false })
      })
      if (isRecorded && given.tensor !== null) kept.push(keep(given.tensor))
      return info
    } finally {
      if (kept.length === 0) given.tensor?.dispose()
    }
  }
  const gradient = (dy: Tensor) => {
    refuseNested()
    const info = place.compute(x.shape, null, [dy], (dx, dy) => {
      linearBackward({ dy, weight: operand, dx }, { accumulate: false })
    })
    return newTensor(info)
  }
  return runOperation({ x, ...inputs }, { forward, gradients: (dy) => ({ x: () => gradient(dy), ...gradients }), kept })
}
