/**
 * Layers of TensorFlow.js with adapters.
 *
 * @module lily-kernels/tfjs-layers
 * @packageDocumentation
 */
export { AdaptedDense, type AdaptedDenseArgs, attachAdapter } from './adapted-dense.js'
