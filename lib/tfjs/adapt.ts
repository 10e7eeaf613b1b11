/** The adapter of a layer as an operation of TensorFlow.js. */
import type { Tensor } from '@tensorflow/tfjs-core'
import { checkTokenRows } from '../base/checks.js'
import type { AdapterLayer } from '../model/adapter-layer.js'
import { ADAPT_OPTIONS, type AdaptOptions, checkLayer, readCall, runAdapter } from './adapter-call.js'
import { checkFloat32, share } from './memory.js'

/**
 * Adds the adapter of a layer to the output of the frozen layer: base + adapter(x). It is differentiable in x and base;
 * the gradients of the adapter's parameters add up in `model.parameters()`. If the frozen layer is a product,
 * {@link adaptedLinear} computes both.
 *
 * @param x [..., d_in], float32: the input of the layer, usually [tokens, d_in] or [batch, sequence, d_in]
 * @param base [..., d_out], float32: the output of the frozen layer for x. It does not change
 * @param layer `model.layer(name)` of a LilyModel or a LoraModel
 * @returns a new tensor of the shape of base
 * @throws LilyError as `layer.forward`; ERR_LILY_DTYPE if the parameters are not float32; ERR_LILY_DEVICE if the model is not
 *   where TensorFlow.js computes: in host memory, or on the GPUDevice of its webgpu backend; ERR_LILY_ARGUMENT if TensorFlow.js
 *   records a gradient by itself, which would drop the parameters' gradients: use {@link variableGrads} or
 *   {@link AdapterOptimizer}, or pass `training: false`
 * @example
 * const y = adapt(x, convolution(x), model.layer('layers.0.proj'), { mask })
 */
export function adapt<T extends Tensor>(x: Tensor, base: T, layer: AdapterLayer, options: AdaptOptions = {}): T {
  checkFloat32('x', x)
  checkFloat32('base', base)
  checkLayer(layer)
  checkBase(base, x, layer.outFeatures)
  const call = readCall(layer, options, ADAPT_OPTIONS)
  const below = { base, weight: null, bias: undefined }
  return runAdapter(x, below, base.shape, call, { base }, (dy) => ({ base: () => share(dy) })) as T
}

/** `layer.forward` calls it y. */
function checkBase({ shape }: Tensor, x: Tensor, outFeatures: number): void {
  const matrix = { shape, rows: tokensOf(shape), columns: shape.at(-1) ?? 0, dtype: 'float32' } as const
  checkTokenRows('base', matrix, tokensOf(x.shape), outFeatures)
}

function tokensOf(shape: readonly number[]): number {
  return shape.slice(0, -1).reduce((product, size) => product * size, 1)
}
