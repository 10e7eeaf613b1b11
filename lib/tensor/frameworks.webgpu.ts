/** The file of lily-kernels/webgpu in the place of frameworks.ts: its operands are buffers. */
import { fail } from '../base/errors.js'
import type { Unknown } from './layout.js'

/** Refuses tensors of frameworks whose buffers are reached by other names, and says how to get them. */
export function refuseFramework(argument: string, { dataSync, location }: Unknown): void {
  if (typeof dataSync !== 'function' && location !== 'gpu-buffer') return
  fail(
    'ERR_LILY_ARGUMENT',
    argument,
    'expected { buffer: GPUBuffer, shape, dtype }, got a tensor of TensorFlow.js or ONNX Runtime; pass the ' +
      'buffer of its dataToGPU(), or its gpuBuffer',
  )
}
