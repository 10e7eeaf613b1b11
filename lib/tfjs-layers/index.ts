/**
 * Layers of TensorFlow.js with adapters.
 *
 * @module lily-kernels/tfjs-layers
 * @packageDocumentation
 */
import { registerHost } from '../binding/host.js'

export { AdaptedDense, type AdaptedDenseArgs, attachAdapter } from './adapted-dense.js'

registerHost()
