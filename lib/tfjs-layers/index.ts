/** Layers of TensorFlow.js with adapters. */
export {}
