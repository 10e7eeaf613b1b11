/** The methods that the benchmark compares, and the passes that it measures of each. */

/**
 * All methods are fused calls, except the two `-composed` ones: they run the same adapter as separate steps, on the cpu
 * backend, or as operations of TensorFlow.js on WebGPU. The two `-graph` methods capture the fused calls in a CUDA graph
 * and replay it. `layer` is the frozen linear layer alone, and the two `-layer` methods are that layer with an adapter, in
 * one call, on the cpu backend only.
 */
export const methods = [
  'lily',
  'lora',
  'lora-equal-parameters',
  'lily-composed',
  'lora-composed',
  'lily-graph',
  'lora-graph',
  'layer',
  'lily-layer',
  'lora-layer',
] as const
export type Method = (typeof methods)[number]

/** Whether a method includes the frozen linear layer. */
export const hasLayer = (method: Method): boolean => method.endsWith('layer')

export const passes = ['forward', 'forward+backward'] as const
export type Pass = (typeof passes)[number]

/** One function per pass, which runs the pass once. */
export type Calls = Readonly<Record<Pass, () => void>>
