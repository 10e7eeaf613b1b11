/**
 * Adapters, frozen linear layers and attention as operations of TensorFlow.js, which differentiates through them.
 *
 * @module lily-kernels/tfjs
 * @packageDocumentation
 */
import { registerHost } from '../binding/host.js'

export { accelerate } from './accelerate.js'
export { adapt } from './adapt.js'
export { adaptedLinear, type AdaptedLinearOptions } from './adapted-linear.js'
export type { AdaptOptions } from './adapter-call.js'
export { attention, type AttentionOptions } from './attention.js'
export { AdapterOptimizer, type AdapterOptimizerOptions } from './adapter-optimizer.js'
export { fromTf, toTf } from './convert.js'
export { frozenLinear } from './frozen-linear.js'
export { type AdapterModels, variableGrads } from './variable-grads.js'

registerHost()
