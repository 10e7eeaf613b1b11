/** A frozen linear layer and its adapter as one operation of TensorFlow.js. */
import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core'
import { fail } from '../base/errors.js'
import type { Known } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import type { AdapterLayer } from '../model/adapter-layer.js'
import type { PackedLinear } from '../operations/packed-linear.js'
import { ADAPT_OPTIONS, type AdaptOptions, checkLayer, readCall, runAdapter } from './adapter-call.js'
import { frozenInputs, readFrozen } from './frozen-weight.js'
import { checkFloat32 } from './memory.js'

/** Options of {@link adaptedLinear}: the options of {@link adapt}, and the bias of the layer. */
export interface AdaptedLinearOptions extends AdaptOptions {
  /** [d_out], float32: the frozen bias of the layer. Default: none. */
  readonly bias?: Tensor1D | Tensor | undefined
}

const OPTIONS: Known = new Set([...ADAPT_OPTIONS, 'bias'])

/**
 * A linear layer whose weight is not trained, and its adapter: x kernel + bias + adapter(x), as
 * `adapt(x, frozenLinear(x, kernel, bias), layer, options)` computes it, in one call without a tensor for the output of the
 * layer alone. It is differentiable in x; the gradients of the adapter's parameters add up in `model.parameters()`.
 *
 * The first call with a kernel packs it, and later calls use the packed form. On the webgpu backend the kernels read its
 * buffer. Formulas: docs/math.md and docs/linear.md.
 *
 * @param x [..., d_in], float32: the input of the layer, usually [tokens, d_in] or [batch, sequence, d_in]
 * @param kernel [d_in, d_out], float32, as in tf.layers.dense; or `packLinear` of a weight
 * @param layer `model.layer(name)` of a LilyModel or a LoraModel
 * @returns [..., d_out]
 * @throws LilyError as {@link adapt}; ERR_LILY_SHAPE if the kernel is not of the layer's sizes; ERR_LILY_ARGUMENT if a
 *   gradient of kernel or bias is asked for
 * @example
 * const y = adaptedLinear(x, dense.kernel.read(), model.layer('layers.0.proj'), { bias: dense.bias.read(), mask })
 */
export function adaptedLinear(
  x: Tensor,
  kernel: Tensor2D | Tensor | PackedLinear,
  layer: AdapterLayer,
  options: AdaptedLinearOptions = {},
): Tensor {
  checkFloat32('x', x)
  checkLayer(layer)
  const call = readCall(layer, options, OPTIONS)
  const bias = options.bias
  const weight = readFrozen('kernel', kernel, bias, x)
  const { dIn, dOut } = weight
  if (dIn !== layer.inFeatures || dOut !== layer.outFeatures) {
    const { name, inFeatures, outFeatures } = layer
    const expected = `[${inFeatures}, ${outFeatures}], the sizes of layer '${name}'`
    fail('ERR_LILY_SHAPE', 'kernel', `expected ${expected}, got ${shapeText([dIn, dOut])}`)
  }
  const { inputs, gradients } = frozenInputs('kernel', kernel, bias)
  const shape = [...x.shape.slice(0, -1), dOut]
  return runAdapter(x, { base: null, weight, bias }, shape, call, inputs, () => gradients)
}
