/**
 * Layers of TensorFlow.js with adapters.
 *
 * @packageDocumentation
 */
export { AdaptedDense, type AdaptedDenseArgs, attachAdapter } from './adapted-dense.js'
